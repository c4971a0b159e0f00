//! What a sandbox promises, and how far each isolation keeps it.
//!
//! The one place for it: `inspect`, the block at the start of a session, the
//! table of THREATS.md and the tests that every isolation runs all read this.

use serde::{Deserialize, Serialize};

use crate::{Isolation, WorkspaceGuard};

/// A line of the contract.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promise {
    /// What a flaw of a kernel leads to.
    Kernel,
    /// The host's files.
    Files,
    /// The host's processes, and those of other sandboxes.
    Processes,
    /// The way out.
    Network,
    /// The user's variables and keys.
    Environment,
    /// What the host would obey.
    Held,
    /// The host's sockets in a workspace.
    Sockets,
    /// Memory, processors, processes.
    Size,
    /// The private layer.
    Disk,
    /// Whose new files are.
    Owners,
    /// What `sudo` is good for.
    Root,
    /// Edits of the host.
    Events,
    /// What is seen of the machine.
    Machine,
}

/// How far an isolation keeps a promise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// Wholly.
    Yes,
    /// As far as this says.
    InPart(&'static str),
    /// Not at all: this is so instead.
    No(&'static str),
}

impl Kept {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::InPart(_) => "in part",
            Self::No(_) => "no",
        }
    }

    /// What is so where it is not kept.
    #[must_use]
    pub fn caveat(self) -> Option<&'static str> {
        match self {
            Self::Yes => None,
            Self::InPart(words) | Self::No(words) => Some(words),
        }
    }
}

impl Promise {
    /// All of them, those that guard the host first.
    pub const ALL: &[Self] = &[
        Self::Kernel,
        Self::Files,
        Self::Processes,
        Self::Network,
        Self::Environment,
        Self::Held,
        Self::Sockets,
        Self::Size,
        Self::Disk,
        Self::Owners,
        Self::Root,
        Self::Events,
        Self::Machine,
    ];

    /// The word that it goes by.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Network => "network",
            Self::Environment => "environment",
            Self::Held => "held",
            Self::Sockets => "sockets",
            Self::Size => "size",
            Self::Disk => "disk",
            Self::Owners => "owners",
            Self::Root => "root",
            Self::Events => "events",
            Self::Machine => "machine",
        }
    }

    /// What is promised.
    #[must_use]
    pub fn says(self) -> &'static str {
        match self {
            Self::Kernel => "a flaw of the kernel inside is no way out",
            Self::Files => "of the host's files only what was given is seen",
            Self::Processes => {
                "no process of the host or of another sandbox is seen, signalled or spoken to"
            }
            Self::Network => "every packet is judged by the policy, in IPv4 and IPv6",
            Self::Environment => "no variable and no key of the user's enters unless it is named",
            Self::Held => {
                "names that the host would execute or obey are held, whether they exist or not"
            }
            Self::Sockets => "sockets and pipes of the host in a workspace cannot be reached",
            Self::Size => "memory, processors and processes have an upper bound",
            Self::Disk => "what it writes beside its workspace has an upper bound",
            Self::Owners => "what is made in a workspace belongs to the workspace's owner",
            Self::Root => "root inside may do what root of a machine may",
            Self::Events => "edits of the host raise inotify events inside",
            Self::Machine => "what is seen of the machine says nothing of the host",
        }
    }

    /// Whether it stands between the sandbox and the host: what of these is
    /// not kept is said at every start.
    #[must_use]
    pub fn guards(self) -> bool {
        match self {
            Self::Kernel
            | Self::Files
            | Self::Processes
            | Self::Network
            | Self::Environment
            | Self::Held
            | Self::Sockets
            | Self::Size
            | Self::Disk => true,
            Self::Owners | Self::Root | Self::Events | Self::Machine => false,
        }
    }

    /// How far `isolation` keeps it with this guard of its workspace.
    #[must_use]
    pub fn kept(self, isolation: Isolation, guard: WorkspaceGuard) -> Kept {
        match (isolation, guard) {
            (Isolation::MicroVm, _) => self.kept_by_a_machine(),
            (Isolation::Container, WorkspaceGuard::Full) => self.kept_by_a_container(),
            (Isolation::Container, WorkspaceGuard::Existing) => self.kept_by_mounts(),
            (Isolation::Docker, _) => self.kept_by_an_engine(),
        }
    }

    fn kept_by_a_machine(self) -> Kept {
        match self {
            Self::Events => {
                Kept::No("they are seen inside within a second, and raise no event there")
            }
            Self::Machine => Kept::InPart("under KVM the model of the host's processor is seen"),
            _ => Kept::Yes,
        }
    }

    /// By a container of the user's engine, which mounts the host's files.
    fn kept_by_an_engine(self) -> Kept {
        match self {
            Self::Kernel => Kept::No(
                "the only kernel is that of the engine's host: a flaw in it is a way out, as its \
                 root where the engine runs as root",
            ),
            Self::Size => Kept::InPart(
                "only the engine's control group holds them; where it has none they have no \
                 bound, and asking for one is an error",
            ),
            Self::Disk => {
                Kept::No("it can fill the file system that the engine is on; `--disk` is an error")
            }
            Self::Owners => Kept::InPart("what root inside makes is root's of the engine"),
            _ => self.kept_by_mounts(),
        }
    }

    /// By a container that has the host's files mounted.
    fn kept_by_mounts(self) -> Kept {
        match self {
            Self::Held => Kept::InPart(
                "read-only is what exists at the top of a workspace or in its `.git` when it \
                 starts and is no link; new names are not held, in `.git` neither, and your git \
                 may run what is put there",
            ),
            Self::Sockets => Kept::No("they are reached like files"),
            Self::Owners => {
                Kept::InPart("what root inside makes belongs to an id of the container on the host")
            }
            Self::Events => Kept::Yes,
            _ => self.kept_by_a_container(),
        }
    }

    /// By a container whose workspace a file server serves.
    fn kept_by_a_container(self) -> Kept {
        match self {
            Self::Kernel => Kept::No("the only kernel is this host's: a flaw in it is a way out"),
            Self::Size => Kept::InPart(
                "only a control group of the host holds them; where there is none they have no \
                 bound, and asking for one is an error",
            ),
            Self::Disk => Kept::No(
                "it can fill the file system that the sandboxes are on; `--disk` is an error",
            ),
            Self::Root => Kept::InPart(
                "files, ids and processes inside; no mounts, devices, containers or set-user-ID \
                 files",
            ),
            Self::Machine => Kept::No(
                "processor model, memory size, load and kernel version of the host are seen",
            ),
            Self::Events => self.kept_by_a_machine(),
            Self::Files
            | Self::Processes
            | Self::Network
            | Self::Environment
            | Self::Held
            | Self::Sockets
            | Self::Owners => Kept::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_promise_is_listed_once_by_its_name() {
        let names: std::collections::BTreeSet<_> =
            Promise::ALL.iter().map(|promise| promise.name()).collect();
        assert_eq!(names.len(), Promise::ALL.len());
        for promise in Promise::ALL {
            let json = serde_json::to_value(promise).unwrap();
            assert_eq!(json, promise.name());
        }
        // The last of the declaration: nobody adds one that is not listed.
        assert_eq!(Promise::ALL.len(), Promise::Machine as usize + 1);
    }

    #[test]
    fn the_default_isolation_keeps_every_guard_and_a_container_says_which_it_does_not() {
        let broken = |isolation, guard| {
            let all = Promise::ALL.iter();
            let guards = all.filter(|promise| promise.guards());
            let broken = guards.filter(move |promise| promise.kept(isolation, guard) != Kept::Yes);
            broken.map(|promise| promise.name()).collect::<Vec<_>>()
        };
        let (full, existing) = (WorkspaceGuard::Full, WorkspaceGuard::Existing);
        assert_eq!(broken(Isolation::MicroVm, full), Vec::<&str>::new());
        assert_eq!(
            broken(Isolation::Container, full),
            ["kernel", "size", "disk"]
        );
        for isolation in [Isolation::Container, Isolation::Docker] {
            assert_eq!(
                broken(isolation, existing),
                ["kernel", "held", "sockets", "size", "disk"]
            );
        }
    }
}
