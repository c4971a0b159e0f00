//! What every process of ours finds when it starts: a sealed configuration
//! as descriptor 3 and what its role needs from 4 on.

use std::os::fd::OwnedFd;

use parking_lot::Mutex;
use sbx_sys::memfd;
use serde::de::DeserializeOwned;

use crate::command::{Code, Error};
use crate::spawner::MAX_CONFIG;
use crate::{container, docker, spawner, supervisor};

/// The processes that are started from the `sbx` program by sbx itself.
pub const NAMES: [&str; 7] = [
    "supervise",
    "spawner",
    "net",
    "share",
    "box",
    "dock",
    "trial",
];

/// Becomes the role `name` for the rest of this process.
///
/// # Errors
/// If the process was not started by sbx, or what the role says.
pub fn run(name: &str) -> Result<(), Error> {
    let role = Role::take()?;
    let ended = |what: &str| Error::new(Code::Jail, format!("`sbx {what}` ended"));
    match name {
        "supervise" => supervisor::run(role),
        "spawner" => spawner::run(role),
        "net" => {
            let config: sbx_net::Config = role.config()?;
            let trust = match config.trust {
                true => memfd::read_sealed(role.fd(9)?, MAX_CONFIG).map_err(unread)?,
                false => Vec::new(),
            };
            let links = sbx_net::process::Links {
                link: role.fd(4)?,
                control: role.fd(5)?,
                ledger: role.fd(6)?,
                names: role.fd(7)?,
                published: role.fd(8)?,
                trust,
                proxies: config.proxies,
            };
            sbx_net::process::run(links).map_err(|source| ended("net").because(source))
        }
        "box" => container::run(role),
        "trial" => container::try_out(role),
        "dock" => docker::run(role),
        "share" => {
            let (listener, root) = (role.fd(4)?, role.fd(5)?);
            let (shadow, control) = (role.fd(6)?, role.fd(7)?);
            sbx_share::process::run(role.config()?, listener, root, shadow, control)
                .map_err(|source| ended("share").because(source))
        }
        _ => Err(Error::new(Code::Usage, format!("no role `{name}`"))),
    }
}

fn unread(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(Code::Internal, "cannot read the configuration of this role").because(source)
}

/// The inherited descriptors of this process, each taken once.
#[derive(Debug)]
pub(crate) struct Role {
    fds: Mutex<Vec<(i32, OwnedFd)>>,
}

impl Role {
    /// Takes over descriptors 3 and up of this process. To be called once,
    /// first thing in `main`, before anything opened a descriptor.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub(crate) fn take() -> Result<Self, Error> {
        let fds = sbx_sys::fd::take_inherited(3)
            .map_err(|source| Error::new(Code::Internal, "cannot start a role").because(source))?;
        Ok(Self {
            fds: Mutex::new(fds),
        })
    }

    /// The descriptor with this number.
    ///
    /// # Errors
    /// If it was not passed: this process was not started by ours.
    pub(crate) fn fd(&self, number: i32) -> Result<OwnedFd, Error> {
        let mut fds = self.fds.lock();
        match fds.iter().position(|(found, _)| *found == number) {
            Some(index) => Ok(fds.swap_remove(index).1),
            None => Err(Error::new(
                Code::Usage,
                "this command is started by sbx itself and not by hand",
            )),
        }
    }

    /// The configuration, from descriptor 3.
    ///
    /// # Errors
    /// If it is missing, not sealed, too large, or not of this role.
    pub(crate) fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let text = memfd::read_sealed(self.fd(3)?, MAX_CONFIG).map_err(unread)?;
        serde_json::from_slice(&text).map_err(unread)
    }
}
