//! What an endpoint is told when it starts.

use sbx_spec::NetworkPreset;
use serde::{Deserialize, Serialize};

/// The configuration of one endpoint. There are no defaults: a missing field
/// is an error, so that nothing is allowed by omission.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// The set of rules to start from.
    pub preset: NetworkPreset,
    /// TCP ports of the host's loopback that the guest reaches as
    /// `host.sbx.internal` and `host.docker.internal`.
    pub localhost_ports: Vec<u16>,
}
