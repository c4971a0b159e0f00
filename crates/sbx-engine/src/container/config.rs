//! What the process that becomes a container is told.

use std::path::PathBuf;

use sbx_spec::{Access, ByteSize, GuestPath, SandboxName, WorkspaceGuard};
use serde::{Deserialize, Serialize};

use super::held;
use crate::command::Error;
use crate::plan::{Container, Identity, SharePlan};
use crate::shares::single_file;

/// The container of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BoxConfig {
    /// What it is made of.
    pub(super) container: Container,
    /// Its host name.
    pub(super) hostname: String,
    /// Who the agent is inside, and as whom shares are used.
    pub(super) agent: (u32, u32),
    /// Whether a wire leads out of it.
    pub(super) network: bool,
    /// What of the host it sees.
    pub(super) shares: Vec<Shared>,
}

/// What a container sees of the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shared {
    /// The directory or file.
    pub(super) host: PathBuf,
    /// Where the container sees it.
    pub(super) guest: GuestPath,
    /// Whether it may not write.
    pub(super) read_only: bool,
    /// How it comes into the container.
    pub(super) way: Way,
}

/// How a share comes into a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Way {
    /// Through a file server; a share of one file has its name.
    Served {
        /// The file's name (bytes, one component), if it is one.
        file: Option<Vec<u8>>,
    },
    /// As it lies on the host.
    Bound {
        /// What beneath it stays as it is.
        held: Vec<PathBuf>,
    },
}

impl BoxConfig {
    /// The container of a sandbox called `name` with these `shares`. Looks at
    /// the shares for what is held in them.
    ///
    /// # Errors
    /// If that cannot be told.
    pub(crate) fn new(
        container: &Container,
        name: &SandboxName,
        identity: Identity,
        shares: &[SharePlan],
        network: bool,
    ) -> Result<Self, Error> {
        let shared = |share: &SharePlan| {
            Ok(Shared {
                host: share.host.clone(),
                guest: share.guest.clone(),
                read_only: share.access == Access::ReadOnly,
                way: match (container.guard, share.access) {
                    (WorkspaceGuard::Full, _) => Way::Served {
                        file: single_file(share),
                    },
                    (WorkspaceGuard::Existing, Access::ReadWrite) => Way::Bound {
                        held: held::names(share)?,
                    },
                    (WorkspaceGuard::Existing, Access::ReadOnly) => Way::Bound { held: Vec::new() },
                },
            })
        };
        Ok(Self {
            container: container.clone(),
            hostname: name.to_string(),
            agent: identity.agent,
            network,
            shares: shares.iter().map(shared).collect::<Result<_, Error>>()?,
        })
    }

    /// Whether file servers serve any of it.
    pub(super) fn is_served(&self) -> bool {
        let mut ways = self.shares.iter().map(|share| &share.way);
        ways.any(|way| matches!(way, Way::Served { .. }))
    }

    /// What each of the container's own memory file systems may hold: half of
    /// the memory it was given.
    pub(super) fn in_memory(&self) -> ByteSize {
        ByteSize::bytes(self.container.memory.as_bytes() / 2)
    }
}
