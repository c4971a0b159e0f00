//! What may be asked of and answered about published ports.

use std::net::IpAddr;

use sbx_spec::{Publication, SandboxName};
use serde::Serialize;

/// `sbx ports`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortsRequest {
    /// Of which sandbox.
    pub sandbox: SandboxName,
    /// What is to be published.
    pub publish: Vec<Publication>,
    /// What is to be published no longer.
    pub unpublish: Vec<Publication>,
}

/// The published ports of a sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PortsReply {
    /// Which.
    pub sandbox: SandboxName,
    /// Whether they can be connected to: it runs.
    pub open: bool,
    /// One entry each.
    pub ports: Vec<Published>,
}

/// A published port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Published {
    /// The host's address.
    pub address: IpAddr,
    /// The host's port.
    pub host: Option<u16>,
    /// The guest's port.
    pub guest: u16,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// All of it, as `127.0.0.1:8080->80/tcp`.
    pub shown: String,
}

impl Published {
    /// The entry of a port.
    #[must_use]
    pub fn of(publication: &Publication) -> Self {
        Self {
            address: publication.address,
            host: publication.host,
            guest: publication.guest,
            protocol: publication.transport.name(),
            shown: publication.shown(),
        }
    }
}
