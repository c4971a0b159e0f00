//! What a container makes of itself and others are to serve: the outer end of
//! its wire, the devices of its file servers.
//!
//! Owns: how long each is waited for, and that none of them may be missing.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sbx_sys::unix;
use tokio::io::unix::AsyncFd;

use super::launch::unlinked;
use crate::command::{Code, Error};
use crate::docker::readiness;

/// How long a container may take to make its mounts, its root and its wire:
/// where it can have no layers, the template is copied before. A file system
/// that does not answer is what may hold it up for longer.
pub(super) const COMING_LIMIT: Duration = Duration::from_secs(120);

/// What is missing, and how to do without it on purpose.
pub(super) struct Lack {
    what: &'static str,
    hint: &'static str,
}

/// Of the outer end of its wire.
pub(super) const NETWORK: Lack = Lack {
    what: "the container has no network",
    hint: "see why with `sbx logs`; without a network on purpose: `--network none`",
};

/// Of the devices of its file servers.
pub(super) const WORKSPACE: Lack = Lack {
    what: "the container has no workspace",
    hint: "see why with `sbx logs`; without a workspace on purpose: `--no-workspace`",
};

impl Lack {
    pub(super) fn error(&self, why: &str) -> Error {
        Error::new(Code::Boot, format!("{}: {why}", self.what)).hint(self.hint)
    }

    /// That `there` is what was `planned`. A container which gets ready
    /// without it would run without one, unsaid.
    ///
    /// # Errors
    /// If it is less.
    pub(super) fn is_none(&self, planned: usize, there: usize) -> Result<(), Error> {
        if there < planned {
            return Err(self.error("its first process got ready without one"));
        }
        Ok(())
    }
}

/// Where `count` descriptors of a container come.
pub(super) struct Coming {
    here: AsyncFd<OwnedFd>,
    count: usize,
    lack: Lack,
}

impl Coming {
    /// The end that is read and the one that the container is given.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn pair(lack: Lack, count: usize) -> Result<(Self, OwnedFd), Error> {
        let (here, there) = unix::message_pair().map_err(unlinked)?;
        let failed = |source: std::io::Error| {
            Error::new(Code::Io, "cannot wait for a container").because(source)
        };
        rustix::io::ioctl_fionbio(&here, true).map_err(|source| failed(source.into()))?;
        let here = readiness(here).map_err(failed)?;
        Ok((Self { here, count, lack }, there))
    }

    /// All of them, once they are made; none if whoever was to make them is
    /// gone.
    ///
    /// # Errors
    /// If they do not come in time, or something else does.
    pub(super) async fn received(self) -> Result<Vec<OwnedFd>, Error> {
        self.received_within(COMING_LIMIT).await
    }

    async fn received_within(self, limit: Duration) -> Result<Vec<OwnedFd>, Error> {
        let came = async {
            loop {
                let ready = self.here.readable().await;
                let mut ready =
                    ready.map_err(|source| sbx_sys::Error::new("wait for a message", source))?;
                match unix::receive(self.here.get_ref(), &mut [0; 16], self.count) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => ready.clear_ready(),
                    came => return came,
                }
            }
        };
        match tokio::time::timeout(limit, came).await {
            Ok(Ok((0, _))) => Ok(Vec::new()),
            Ok(Ok((_, came))) if came.len() == self.count => Ok(came),
            Ok(Ok(_)) => Err(self.lack.error("what it sent is none")),
            Ok(Err(error)) => Err(self.lack.error("it cannot be received").because(error)),
            Err(_) => {
                let limit = limit.as_secs();
                Err(self.lack.error(&format!("none came within {limit} s")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[tokio::test]
    async fn a_container_that_lost_its_wire_does_not_start() {
        let (coming, _there) = Coming::pair(NETWORK, 1).unwrap();
        let late = coming.received_within(Duration::from_millis(1)).await;
        assert_eq!(late.unwrap_err().code, Code::Boot, "none came");
        let (coming, there) = Coming::pair(NETWORK, 1).unwrap();
        unix::send(&there, b"wire", &[]).unwrap();
        assert_eq!(
            coming.received().await.unwrap_err().code,
            Code::Boot,
            "it is none"
        );
        // Whoever was to make it says why, unless it says that it is ready.
        let (coming, there) = Coming::pair(NETWORK, 1).unwrap();
        drop(there);
        assert!(coming.received().await.unwrap().is_empty());
        let lost = NETWORK.is_none(1, 0).unwrap_err();
        assert_eq!(lost.code.session_exit(), 125);
        let lost = WORKSPACE.is_none(2, 1).unwrap_err();
        assert_eq!(lost.code.session_exit(), 125);
    }

    #[tokio::test]
    async fn a_container_with_its_wire_starts_and_so_does_one_that_asked_for_none() {
        let (coming, there) = Coming::pair(NETWORK, 1).unwrap();
        unix::send(&there, b"wire", &[there.as_fd()]).unwrap();
        assert_eq!(coming.received().await.unwrap().len(), 1);
        assert!(NETWORK.is_none(1, 1).is_ok());
        assert!(NETWORK.is_none(0, 0).is_ok());
    }
}
