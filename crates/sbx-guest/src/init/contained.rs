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

use super::{Warnings, account, etc, mounts, refuse_setup, spares_root, speaks, trust};
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
    ended(live())
}

/// The end of a container's first process.
pub(super) fn ended(how: Result<()>) -> ExitCode {
    if let Err(error) = &how {
        program::log(&error.line());
    }
    // The group of 1 is spelt -1: every process but this one.
    if let Some(all) = Pid::from_raw(1) {
        let _ = rustix::process::kill_process_group(all, Signal::KILL);
    }
    match how {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Root inside is the agent, and has no business in this process.
pub(super) fn keep_to_itself() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).attempt("keep to itself")
}

fn live() -> Result<()> {
    keep_to_itself()?;
    let walls = vec!["no-new-privs".to_owned()];
    serve(inherited_link()?, walls, &|setup, _| {
        spares_root(setup)?;
        open_template()
    })
}

/// What is done before accounts are written; returns where the certificates
/// are that nothing was added to.
pub(super) type Prepare<'a> = &'a dyn Fn(&Setup, &mut Warnings) -> Result<OwnedFd>;

/// Speaks with the host over `link` to the end.
pub(super) fn serve(link: OwnedFd, walls: Vec<String>, prepare: Prepare<'_>) -> Result<()> {
    let start = Instant::now();
    let mut link = BlockingLink::new(link)?;
    link.send(&serve::hello())?;
    let setup: Setup = link.receive()?;
    let mut warnings = Warnings::default();
    let sudo = match build(&setup, &mut warnings, prepare) {
        Ok(sudo) => sudo,
        Err(error) => return Err(refuse_setup(&mut link, error)),
    };
    link.send(&Ready {
        boot_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        walls,
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

fn open_template() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(BASE, flags, Mode::empty()).attempt("open the template")
}

fn build(setup: &Setup, warnings: &mut Warnings, prepare: Prepare<'_>) -> Result<OwnedFd> {
    speaks(setup)?;
    let base = prepare(setup, warnings)?;
    account::write(&setup.agent, warnings);
    etc::write(setup, warnings);
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
