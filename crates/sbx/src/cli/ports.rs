//! `sbx ports`: ports of a sandbox on this host.

use clap::Args;
use sbx_engine::command::{Command, Error, PortsRequest};

use super::life::name;
use super::sandbox::publications;

/// Show and change which ports of a sandbox this host has
///
/// A change counts at once, and stays. The host's address is 127.0.0.1 unless
/// another is named, and its port any free one.
/// Example: sbx ports claude-app --publish 8080:80
#[derive(Args, Debug)]
pub(crate) struct PortsFlags {
    /// The sandbox
    #[arg(value_name = "NAME")]
    sandbox: String,

    /// Publish a port: [[IP:]HOST:]GUEST[/tcp|udp]
    #[arg(long, value_name = "PORT")]
    publish: Vec<String>,

    /// Publish a port no longer: as it was published, or its GUEST alone
    #[arg(long, value_name = "PORT")]
    unpublish: Vec<String>,
}

impl PortsFlags {
    pub(super) fn command(self) -> Result<Command, Error> {
        Ok(Command::Ports(PortsRequest {
            sandbox: name(&self.sandbox)?,
            publish: publications("--publish", &self.publish)?,
            unpublish: publications("--unpublish", &self.unpublish)?,
        }))
    }
}
