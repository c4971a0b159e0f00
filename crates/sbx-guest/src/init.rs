//! PID 1: from the initramfs to a sandbox, and down again.
//!
//! The steps run one after the other on the only thread. A step without which
//! the sandbox would be less than was asked for fails the start; the rest
//! warns.

mod account;
mod bounded;
pub(crate) mod cgroup;
pub(crate) mod contained;
pub(crate) mod docked;
mod early;
mod etc;
mod keystore;
mod mounts;
mod network;
mod port;
mod root;
mod stop;
mod trust;

use std::process::ExitCode;

use sbx_proto::link::{Ready, Setup, SetupFailed};
use sbx_proto::{GENERATION, MAX_MESSAGE};

use crate::error::{Attempt as _, Error, Result};
use crate::program;
use crate::serve::{self, BlockingLink, Served};
use crate::sudo;

/// The life of PID 1; it never returns to the kernel alive.
pub(crate) fn run() -> ExitCode {
    if let Err(error) = live() {
        program::log(&error.line());
    }
    stop::power_off()
}

fn live() -> Result<()> {
    early::mount_kernel_file_systems()?;
    let mut link = BlockingLink::new(port::open()?)?;
    link.send(&serve::hello())?;
    let setup: Setup = link.receive()?;
    let built = match build(&setup) {
        Ok(built) => built,
        Err(error) => return Err(refuse_setup(&mut link, error)),
    };
    link.send(&Ready {
        boot_ms: serve::uptime_ms(),
        walls: built.walls,
        warnings: built.warnings,
    })?;
    let (link, decoder) = link.into_parts();
    serve::run(Served {
        link,
        decoder,
        context: serve::context(&setup),
        cgroup: Some(built.cgroup),
        sudo: Some(built.sudo),
        keeps_time: true,
    })
    .map(drop)
}

/// Tells the host why there is no sandbox.
fn refuse_setup(link: &mut BlockingLink, error: Error) -> Error {
    let mut what = error.line();
    what.truncate(what.floor_char_boundary(MAX_MESSAGE.min(4000)));
    // The host may be gone as well; the console has it either way.
    let _ = link.send(&SetupFailed { what });
    error
}

/// What set-up leaves behind.
struct Built {
    cgroup: cgroup::Cgroup,
    sudo: std::os::fd::OwnedFd,
    walls: Vec<String>,
    warnings: Vec<String>,
}

/// Steps that did not work and do not stop the start.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Warnings {
    fn note(&mut self, result: Result<()>) {
        if let Err(error) = result
            && self.0.len() < 16
        {
            let mut line = error.line();
            line.truncate(line.floor_char_boundary(200));
            program::log(&line);
            self.0.push(line);
        }
    }
}

fn build(setup: &Setup) -> Result<Built> {
    let mut warnings = Warnings::default();
    speaks(setup)?;
    spares_root(setup)?;
    serve::set_clock(setup.clock_ns)?;
    rustix::system::sethostname(setup.hostname.as_bytes()).attempt("set the host name")?;
    let disks = root::assemble(&setup.disks)?;
    early::mount_inner_file_systems()?;
    mounts::mount_run()?;
    let (cgroup, mut walls) = cgroup::Cgroup::create(setup.pids_limit, setup.memory_limit)?;
    account::write(&setup.agent, &mut warnings);
    mounts::make_temporary(&disks, &mut warnings)?;
    mounts::mount_all(setup, &disks)?;
    if let Some(net) = &setup.network {
        network::bring_up(net)?;
    }
    warnings.note(network::bring_up_loopback());
    etc::write(setup, &mut warnings);
    warnings.note(trust::write(&disks.base, &setup.trust_pem));
    early::tune(&mut warnings);
    mounts::place_program()?;
    let sudo = sudo::server::listen()?;
    walls.push("no-new-privs".to_owned());
    Ok(Built {
        cgroup,
        sudo,
        walls,
        warnings: warnings.0,
    })
}

/// Refuses a set-up that is not meant for this program.
fn speaks(setup: &Setup) -> Result<()> {
    if setup.generation != GENERATION {
        return Err(Error::new(format!(
            "speak generation {} of the link: this guest speaks {GENERATION}",
            setup.generation
        )));
    }
    Ok(())
}

/// Refuses one that makes the agent root.
fn spares_root(setup: &Setup) -> Result<()> {
    if setup.agent.uid == 0 || setup.agent.gid == 0 {
        return Err(Error::new("set up the agent: it must not be root"));
    }
    Ok(())
}
