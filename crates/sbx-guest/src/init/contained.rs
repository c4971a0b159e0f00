//! The first process of a container: the sandbox is built around it before it
//! starts, and the walls stand.
//!
//! What is left is what follows from the set-up: accounts, files of `/etc`,
//! certificates, `sudo`. It has no power over mounts, the network, clocks or
//! control groups, and no machine to switch off.

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use sbx_proto::link::{Ready, Setup};

use super::{Warnings, account, etc, mounts, refuse_setup, speaks, trust};
use crate::error::{Attempt as _, Error, Result};
use crate::program;
use crate::serve::{self, BlockingLink, Served};
use crate::sudo;

/// The link.
const LINK: i32 = 3;
/// The template as it was built.
const BASE: &str = "/run/sbx/base";
/// Open files of each process, where the host's own limit allows it.
const FILES: u64 = 65_536;

/// Its life. When it ends the kernel ends all that is left inside.
pub(crate) fn run() -> ExitCode {
    let ended = live();
    if let Err(error) = &ended {
        program::log(&error.line());
    }
    // The group of 1 is spelt -1: every process but this one.
    if let Some(all) = Pid::from_raw(1) {
        let _ = rustix::process::kill_process_group(all, Signal::KILL);
    }
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn live() -> Result<()> {
    let start = Instant::now();
    // Root inside is the agent, and has no business in this process.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .attempt("keep to itself")?;
    let mut link = BlockingLink::new(inherited_link()?)?;
    link.send(&serve::hello())?;
    let setup: Setup = link.receive()?;
    let mut warnings = Warnings::default();
    let sudo = match build(&setup, &mut warnings) {
        Ok(sudo) => sudo,
        Err(error) => return Err(refuse_setup(&mut link, error)),
    };
    link.send(&Ready {
        boot_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        walls: vec!["no-new-privs".to_owned()],
        warnings: warnings.0,
    })?;
    let (link, decoder) = link.into_parts();
    serve::run(Served {
        link,
        decoder,
        context: serve::context(&setup),
        cgroup: None,
        sudo: Some(sudo),
        keeps_time: false,
    })
    .map(drop)
}

fn inherited_link() -> Result<OwnedFd> {
    let mut taken = sbx_sys::fd::take_inherited(LINK)?;
    match taken.pop() {
        Some((LINK, link)) if taken.is_empty() => Ok(link),
        _ => Err(Error::new(
            "take the link: it came with others or not at all",
        )),
    }
}

fn build(setup: &Setup, warnings: &mut Warnings) -> Result<OwnedFd> {
    speaks(setup)?;
    account::write(&setup.agent, warnings);
    etc::write(setup, warnings);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(BASE, flags, Mode::empty()).attempt("open the template")?;
    warnings.note(trust::write(&base, &setup.trust_pem));
    warnings.note(raise_files());
    mounts::link_sudo()?;
    sudo::server::listen()
}

fn raise_files() -> Result<()> {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(FILES);
    let files = Rlimit {
        current: Some(FILES.min(most)),
        maximum: now.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, files).attempt("raise the limit of open files")
}
