//! What a network engine is told.

use sbx_net::NetConfig;

use crate::plan::NetworkPlan;

/// The engine's configuration.
pub(crate) fn config(plan: &NetworkPlan) -> NetConfig {
    NetConfig {
        preset: plan.preset,
        localhost_ports: plan.localhost_ports.clone(),
    }
}
