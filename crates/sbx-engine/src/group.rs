//! The control group of the host around all processes of one sandbox.
//!
//! Owns: its name, and that it is written down before it is made and erased
//! after it is removed. The supervisor enters it before it starts anything.
//! A command that stops a sandbox removes it once all processes are gone; where
//! none waits, the spawner, which is not locked down, lets them out and removes
//! it last thing, for which the kernel takes its time; what a killed sandbox
//! left the next command removes, after it has killed what stayed in it. Trusts
//! the record only for where a group may be: whatever it says, nothing is
//! killed but in a control group of this sandbox's name, and nothing removed
//! but an empty one.
//!
//! Where systemd runs the host, the group is a scope of it (`scope`), which
//! it writes down and removes itself.

use std::time::{Duration, Instant};

use sbx_spec::SandboxName;
use sbx_sys::cgroup::{Controller, Group, Limits};
use sbx_sys::file;

use crate::command::{Error, Wall};
use crate::plan::Ceiling;
use crate::store::SandboxDir;

mod bus;
mod scope;

use scope::Manager;

/// The record in a sandbox's directory.
const RECORD: &str = "cgroup.json";
/// Longest record that is read, in bytes.
const MAX_RECORD: usize = 64 * 1024;
/// How long the kernel may take to let go of processes that were killed.
const PATIENCE: Duration = Duration::from_secs(2);

/// Puts this process, and whatever it starts from now on, into a control
/// group of its own, as far as the host has one. Returns it and what
/// `inspect` says of it.
///
/// # Errors
/// If it does not hold what was asked for and nothing else can hold.
pub(crate) fn enter(
    sandbox: &SandboxDir,
    ceiling: &Ceiling,
) -> Result<(Option<Group>, Wall), Error> {
    let wall = |up, note| Wall {
        process: "all".to_owned(),
        wall: "control group".to_owned(),
        up,
        note: Some(note),
    };
    let limits = Limits {
        memory: Some(ceiling.memory.as_bytes()),
        cpu_millis: ceiling.cpu_millis.map(u64::from),
        pids: Some(u64::from(ceiling.tasks)),
    };
    let name = format!("{}{}", prefix(sandbox.name()), std::process::id());
    let no_scope = match enter_scope(sandbox.name(), &name, &limits) {
        Ok(Some(set)) => {
            ceiling.is_held(Ok(&set))?;
            let note = format!("{}, by systemd as {name}.scope", described(ceiling, &set));
            return Ok((None, wall(true, note)));
        }
        Ok(None) => None,
        Err(why) => Some(why),
    };
    let (group, set) = match make(sandbox, &name, &limits) {
        Ok(made) => made,
        Err(why) => {
            let why = no_scope.unwrap_or(why);
            ceiling.is_held(Err(&why))?;
            return Ok((None, wall(false, why)));
        }
    };
    if let Err(unheld) = ceiling.is_held(Ok(&set)) {
        let _ = group.expel(std::process::id());
        leave(sandbox, &group);
        return Err(unheld);
    }
    Ok((Some(group), wall(true, described(ceiling, &set))))
}

/// What a group made here could limit.
///
/// # Errors
/// Says why there can be none.
pub(crate) fn controllers() -> Result<Vec<Controller>, String> {
    let asked = match Manager::connect() {
        Ok(Some(mut manager)) => manager.controllers(),
        Ok(None) => Ok(Vec::new()),
        Err(why) => Err(why),
    };
    match asked {
        Ok(found) if !found.is_empty() => return Ok(found),
        _ => {}
    }
    let located = Group::locate("sbx-none").map_err(|unavailable| unavailable.why);
    located
        .map(|group| group.controllers())
        .map_err(|why| asked.err().unwrap_or(why))
}

/// `None` where there is no systemd to ask.
fn enter_scope(
    sandbox: &SandboxName,
    name: &str,
    limits: &Limits,
) -> Result<Option<Vec<Controller>>, String> {
    let description = format!("sandbox {sandbox} of sbx");
    Manager::connect()?
        .map(|manager| manager.enter(name, &description, limits))
        .transpose()
}

fn make(
    sandbox: &SandboxDir,
    name: &str,
    limits: &Limits,
) -> Result<(Group, Vec<Controller>), String> {
    let group = Group::locate(name).map_err(|unavailable| unavailable.why)?;
    let directory = file::open_dir(sandbox.join("")).map_err(|error| error.to_string())?;
    let record = serde_json::to_vec(&group).map_err(|error| error.to_string())?;
    file::replace_for_this_boot_at(&directory, RECORD, &record).map_err(|error| explain(&error))?;
    let entered = group
        .create(limits)
        .and_then(|set| group.join().map(|()| set));
    entered.map(|set| (group.clone(), set)).map_err(|error| {
        let _ = group.expel(std::process::id());
        leave(sandbox, &group);
        explain(&error)
    })
}

/// Removes what an earlier supervisor of this sandbox left. Only to be asked
/// while none lives.
pub(crate) fn remove_left(sandbox: &SandboxDir) {
    let Ok(directory) = file::open_dir(sandbox.join("")) else {
        return;
    };
    let Ok(record) = file::read_at(&directory, RECORD, MAX_RECORD) else {
        return;
    };
    match serde_json::from_slice(&record) {
        Ok(group) if !leave(sandbox, &group) => {
            // Who stood still while its parent ended may not have heard of it.
            group.kill(&prefix(sandbox.name()));
            leave(sandbox, &group);
        }
        Ok(_) => {}
        Err(_) => erase(sandbox),
    }
}

/// Whether an earlier supervisor left one.
pub(crate) fn is_left(sandbox: &SandboxDir) -> bool {
    sandbox.join(RECORD).exists()
}

/// Removes the group, which its processes have left or are leaving, and then
/// the record of it; false where some stay.
pub(crate) fn leave(sandbox: &SandboxDir, group: &Group) -> bool {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        match group.remove(&prefix(sandbox.name())) {
            Ok(()) => {
                erase(sandbox);
                return true;
            }
            // The kernel tells nobody when the last process is gone.
            Err(_) if Instant::now() < deadline => std::thread::sleep(pause),
            Err(_) => return false,
        }
        pause = Duration::from_millis(10).min(pause * 2);
    }
}

fn erase(sandbox: &SandboxDir) {
    let _ = std::fs::remove_file(sandbox.join(RECORD));
}

fn prefix(name: &SandboxName) -> String {
    format!("sbx-{name}-")
}

fn described(ceiling: &Ceiling, set: &[Controller]) -> String {
    let limits: Vec<_> = set
        .iter()
        .map(|controller| match controller {
            Controller::Memory => format!("memory {}", ceiling.memory),
            Controller::Cpu => {
                let millis = ceiling.cpu_millis.unwrap_or_default();
                format!("{} processors", f64::from(millis) / 1000.0)
            }
            Controller::Pids => format!("{} tasks", ceiling.tasks),
        })
        .collect();
    limits.join(", ")
}

fn explain(error: &sbx_sys::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(
        || error.to_string(),
        |source| format!("cannot {error}: {source}"),
    )
}
