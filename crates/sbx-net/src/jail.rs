//! The walls around the process.
//!
//! Owns: which files the host's resolver needs. What stays is memory, time,
//! threads, Internet sockets outwards, and the resolver's configuration,
//! read-only.
//!
//! Limit: Landlock grants files, not names. An `/etc/resolv.conf` or
//! `/etc/hosts` of its own (not a link into `/run`, which most hosts have)
//! that is replaced while the sandbox runs is out of reach until its next
//! start: names are then resolved as if it were absent. All of `/etc` would
//! be the way around, and that is too much for the process that faces the
//! guest.

use std::net::ToSocketAddrs;
use std::path::Path;

use rustix::process::Resource;
use sbx_sys::jail::{Access, InForce, Jail, Place, Profile, Tcp};

use crate::error::{Attempt, Error};
use crate::limits;

/// What the C library's resolver reads. A file that is replaced later by
/// another of its name is out of reach; one in these directories is not.
const RESOLVER_FILES: [&str; 8] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
];

/// Sets every wall. The process has one thread; it is not to be used further
/// when this fails.
pub(crate) fn enter() -> Result<InForce, Error> {
    load_name_services();
    let mut jail = Jail::new(Profile::Net)
        .limit(Resource::Core, 0)
        .limit(Resource::Data, limits::MEMORY)
        .limit(Resource::Nofile, limits::DESCRIPTORS);
    jail.tcp = Tcp::Allow;
    for file in RESOLVER_FILES {
        if Path::new(file).exists() {
            jail = jail.file(Place::Path(file.into()), Access::Read);
        }
    }
    jail.apply()
        .map_err(|error| Error::new(Attempt::Wall("jail"), error))
}

/// Older C libraries load their name services when they are first used, which
/// takes code from files. This name reaches all of them and leaves the
/// machine with none: its label is too long for any question.
fn load_name_services() {
    let name = "x".repeat(64);
    let _never = (name.as_str(), 0).to_socket_addrs();
}
