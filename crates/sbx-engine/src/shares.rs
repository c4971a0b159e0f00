//! What a file server is given: its root, opened once, and its rules.

pub(crate) mod repository;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use sbx_share::{Channel, ShareConfig};
use sbx_spec::{Access, ShareRole};
use sbx_sys::file;

use crate::command::{Code, Error};
use crate::plan::{Identity, SharePlan};

/// An opened share.
pub(crate) struct Served {
    /// Configuration of the role, JSON.
    pub(crate) config: Vec<u8>,
    /// The root directory it serves.
    pub(crate) root: OwnedFd,
}

/// The name served by a share of one file; `None` for a directory.
pub(crate) fn single_file(share: &SharePlan) -> Option<Vec<u8>> {
    if share.host.is_dir() {
        return None;
    }
    share.host.file_name().map(|name| name.as_bytes().to_vec())
}

/// What `share` shows, as a place. Links on the way were followed when the sandbox was made; one
/// that came since may be of a guest, in another share.
///
/// # Errors
/// If it is gone, or a link has come.
pub(crate) fn place(share: &SharePlan) -> Result<OwnedFd, Error> {
    straight(share, &share.host)
}

fn straight(share: &SharePlan, path: &Path) -> Result<OwnedFd, Error> {
    file::open_straight(path).map_err(|source| {
        let what = format!("cannot open `{}`", share.host.display());
        Error::new(Code::Workspace, what).because(source).hint(
            "where a link has come since the sandbox was made, remove it, or make the sandbox anew",
        )
    })
}

/// Opens what `share` serves through `channel`. Where the caller is root, it is shown to the
/// server through a mount in which its owner is the server's own user, so
/// that no process of ours needs to be root to write it.
///
/// # Errors
/// If it is gone, or the file system cannot map owners.
pub(crate) fn open(
    share: &SharePlan,
    identity: Identity,
    channel: Channel,
) -> Result<Served, Error> {
    let place = place(share)?;
    let failed = |what: &str| {
        Error::new(
            Code::Workspace,
            format!("cannot {what} `{}`", share.host.display()),
        )
    };
    let owner = rustix::fs::fstat(&place).map_err(|source| failed("read").because(source))?;
    let single = single_file(share);
    let (path, root) = match (&single, share.host.parent()) {
        (Some(_), Some(parent)) => (parent, straight(share, parent)?),
        _ => (&*share.host, place),
    };
    let root = match identity.share {
        None => root,
        Some((uid, gid)) => {
            let map = sbx_sys::idmap::IdMap {
                disk_uid: owner.st_uid,
                disk_gid: owner.st_gid,
                run_uid: uid,
                run_gid: gid,
            };
            sbx_sys::idmap::idmapped_root(root.as_fd(), map).map_err(|source| {
                failed("map the owner of")
                    .because(source)
                    .hint("as root, sbx needs a file system with id-mapped mounts (ext4, xfs, btrfs, tmpfs); or run sbx as an ordinary user")
            })?
        }
    };
    let mut config = ShareConfig {
        channel,
        access: share.access,
        file: single,
        inside_git: share.role == ShareRole::GitCommon,
        ..ShareConfig::writable()
    };
    if share.access == Access::ReadWrite {
        let common = share.role == ShareRole::GitCommon;
        let obeyed = repository::obeyed(path, common)?;
        config.guard.paths.extend(obeyed);
    }
    let config = serde_json::to_vec(&config)
        .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?;
    Ok(Served { config, root })
}
