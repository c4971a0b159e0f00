//! What a container is made of, as mounts that no path leads to.
//!
//! Taken by name before the container has a root: by the caller where the
//! caller is root, whose directories root inside may not enter; else by root
//! inside, since the kernel lets nobody else mount there.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sbx_sys::idmap::mapped_root;
use sbx_sys::mounts::{self, Attributes};
use sbx_sys::userns::{Maps, Range};
use sbx_sys::{Error, Result, file};

use super::config::{BoxConfig, Shared, Way};
use super::refused;

/// Detached mounts.
pub(super) struct Sources {
    /// The template, read-only.
    pub(super) tree: OwnedFd,
    /// The sandbox's own files.
    pub(super) own: OwnedFd,
    /// Our program inside.
    pub(super) guest: OwnedFd,
    /// The agent's programs.
    pub(super) kit: Option<OwnedFd>,
    /// The shares, in their order; none of those that file servers serve.
    pub(super) shares: Vec<Option<OwnedFd>>,
}

const FIXED: Attributes = Attributes {
    read_only: true,
    no_devices: true,
    no_exec: false,
};
const CHANGING: Attributes = Attributes {
    read_only: false,
    ..FIXED
};

impl Sources {
    /// Takes them all; `as_root` with owners of shares mapped onto the agent.
    pub(super) fn take(config: &BoxConfig, as_root: bool) -> Result<Self> {
        let container = &config.container;
        let kit = container.kit.as_ref();
        Ok(Self {
            tree: take(&container.tree, FIXED)?,
            own: take(&container.directory, CHANGING)?,
            guest: take(&container.guest, FIXED)?,
            kit: kit.map(|kit| take(&kit.path, FIXED)).transpose()?,
            shares: (config.shares.iter())
                .map(|share| match share.way {
                    Way::Bound { .. } => shared(config, share, as_root).map(Some),
                    Way::Served { .. } => Ok(None),
                })
                .collect::<Result<_>>()?,
        })
    }

    /// Adds the mounts of those that file servers serve, in their order.
    pub(super) fn add(&mut self, served: Vec<OwnedFd>) {
        let missing = self.shares.iter_mut().filter(|share| share.is_none());
        for (share, mount) in missing.zip(served) {
            *share = Some(mount);
        }
    }
}

fn take(path: &Path, attributes: Attributes) -> Result<OwnedFd> {
    let mount = mounts::copy_at(place(path)?.as_fd())?;
    mounts::restrict(mount.as_fd(), attributes)?;
    Ok(mount)
}

fn shared(config: &BoxConfig, share: &Shared, as_root: bool) -> Result<OwnedFd> {
    // Its links were followed when the sandbox was made. One that came since
    // may be of a guest, in another share.
    let place = file::open_straight(&share.host)?;
    let mount = if as_root {
        let what = format!("look at `{}`", share.host.display());
        let owner = rustix::fs::fstat(&place).map_err(refused(what))?;
        let maps = &config.container.maps;
        let maps = Maps {
            uids: shown(&maps.uids, owner.st_uid, config.agent.0)?,
            gids: shown(&maps.gids, owner.st_gid, config.agent.1)?,
        };
        mapped_root(place.as_fd(), &maps)?
    } else {
        mounts::copy_at(place.as_fd())?
    };
    let attributes = if share.read_only { FIXED } else { CHANGING };
    mounts::restrict(mount.as_fd(), attributes)?;
    Ok(mount)
}

/// Owners on disk and as whom the container sees them: `owner` is the agent,
/// and whoever else there is inside has their own files.
fn shown(ranges: &[Range], owner: u32, agent: u32) -> Result<Vec<Range>> {
    let outside = |range: &Range| range.outside..range.outside.saturating_add(range.count);
    let own =
        (ranges.iter()).find(|range| (range.inside..range.inside + range.count).contains(&agent));
    let own = own.ok_or_else(|| Error::refused("find the agent among the container's ids"))?;
    let agent = own.outside + (agent - own.inside);
    let mut shown = vec![Range {
        inside: owner,
        outside: agent,
        count: 1,
    }];
    // An owner who is of the container's ids cannot be two of them.
    if ranges.iter().any(|range| outside(range).contains(&owner)) {
        return Ok(shown);
    }
    for range in ranges.iter().map(outside) {
        let (before, after) = if range.contains(&agent) {
            (range.start..agent, agent + 1..range.end)
        } else {
            (range.clone(), range.end..range.end)
        };
        for part in [before, after] {
            let count = part.end.saturating_sub(part.start);
            shown.extend((count > 0).then_some(Range {
                inside: part.start,
                outside: part.start,
                count,
            }));
        }
    }
    Ok(shown)
}

fn place(path: &Path) -> Result<OwnedFd> {
    let what = format!("open `{}`", path.display());
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(refused(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_the_agent_and_everybody_else_themselves() {
        let container = [Range {
            inside: 0,
            outside: 100_000,
            count: 65_536,
        }];
        let range = |inside, outside, count| Range {
            inside,
            outside,
            count,
        };
        assert_eq!(
            shown(&container, 0, 1000).unwrap(),
            [
                range(0, 101_000, 1),
                range(100_000, 100_000, 1000),
                range(101_001, 101_001, 64_535)
            ]
        );
        let within = shown(&container, 100_007, 1000).unwrap();
        assert_eq!(within, [range(100_007, 101_000, 1)]);
        assert!(shown(&container, 0, 70_000).is_err());
    }
}
