//! The file, TCP and scope rules of Landlock.
//!
//! Source: Documentation/userspace-api/landlock.rst. Versions newer than
//! [`MAX_ABI`] are used as that one, because only it was tested.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::fs::{FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Signals, Wall};
use crate::error::{Attempt, Error, Result};

/// The lowest version that sbx runs with: that of Linux 5.19, so of every
/// supported distribution. Below it renames across directories are all denied.
pub const MIN_ABI: u32 = 2;

const MAX_ABI: u32 = 7;

/// A file or directory (and all below it) that stays reachable.
#[derive(Debug)]
pub enum Place {
    /// By its name now; links are followed. It must be there.
    Path(PathBuf),
    /// By descriptor, `O_PATH` is enough.
    Fd(OwnedFd),
}

/// How a place stays reachable.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Files are read, directories listed.
    Read,
    /// As `Read`, and files are executed.
    Execute,
    /// Existing files are read, written and cut; none is made or removed.
    Write,
    /// As `Write`, and devices take their own commands.
    Device,
    /// Everything but executing files and making device nodes.
    Manage,
    /// Everything.
    All,
}

/// Whether TCP ports may be bound and connected to. Enforced from ABI 4 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tcp {
    /// None.
    Deny,
    /// All.
    Allow,
}

/// The version of Landlock's interface that this kernel offers, 0 when it is
/// not built in or switched off.
#[must_use]
pub fn abi() -> u32 {
    const CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no attributes and only answers a
    // number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(answer).unwrap_or(0)
}

pub(super) fn apply(files: Vec<(Place, Access)>, tcp: Tcp, signals: Signals) -> Result<Wall> {
    let offered = abi();
    if offered < MIN_ABI {
        return Err(Error::refused(format!(
            "use landlock abi {MIN_ABI} (this kernel offers {offered})"
        )));
    }
    let used = offered.min(MAX_ABI);
    let abi = ABI::from(i32::try_from(used).unwrap_or(0));
    let tcp_denied = tcp == Tcp::Deny && used >= 4;
    let abstract_sockets_denied = used >= 6;
    let signals_denied = signals == Signals::Inside && used >= 6;
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))
        .map_err(refused)?;
    if tcp_denied {
        rules = rules
            .handle_access(AccessNet::from_all(abi))
            .map_err(refused)?;
    }
    if abstract_sockets_denied {
        rules = rules.scope(Scope::AbstractUnixSocket).map_err(refused)?;
    }
    if signals_denied {
        rules = rules.scope(Scope::Signal).map_err(refused)?;
    }
    let mut rules = rules.create().map_err(refused)?;
    let places = files.len();
    for (place, access) in files {
        let fd = open(place)?;
        let rights = rights(access, abi) & possible(fd.as_fd(), abi)?;
        rules = rules
            .add_rule(PathBeneath::new(fd, rights))
            .map_err(refused)?;
    }
    let status = rules.restrict_self().map_err(refused)?;
    if status.ruleset != RulesetStatus::FullyEnforced {
        return Err(Error::refused(format!(
            "set landlock in full ({:?})",
            status.ruleset
        )));
    }
    Ok(Wall::Landlock {
        abi: used,
        places,
        tcp_denied,
        abstract_sockets_denied,
        signals_denied,
    })
}

fn open(place: Place) -> Result<OwnedFd> {
    match place {
        Place::Fd(fd) => Ok(fd),
        Place::Path(path) => rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .attempt_with(|| format!("open `{}` for landlock", path.display())),
    }
}

/// Rights that the kernel accepts for this kind of file: those of directories
/// are an error on others.
fn possible(fd: BorrowedFd<'_>, abi: ABI) -> Result<BitFlags<AccessFs>> {
    let stat = rustix::fs::fstat(fd).attempt("look at a file for landlock")?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        Ok(AccessFs::from_all(abi))
    } else {
        Ok(AccessFs::from_file(abi))
    }
}

fn rights(access: Access, abi: ABI) -> BitFlags<AccessFs> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read | AccessFs::WriteFile | AccessFs::Truncate;
    let wanted = match access {
        Access::Read => read,
        Access::Execute => read | AccessFs::Execute,
        Access::Write => write,
        Access::Device => write | AccessFs::IoctlDev,
        Access::Manage => {
            AccessFs::from_all(abi)
                & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock)
        }
        Access::All => AccessFs::from_all(abi),
    };
    wanted & AccessFs::from_all(abi)
}

fn refused(error: landlock::RulesetError) -> Error {
    Error::new("set landlock", std::io::Error::other(error))
}
