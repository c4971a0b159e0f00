//! User namespaces for builds: none of them knows the host's root or the
//! caller.

use std::path::Path;

use crate::command::Tool;
use crate::error::{Error, MissingPackage};
use crate::host::{Host, Need, missing};
use crate::progress::{Progress, Silent};

const OUTER: &str = include_str!("outer.sh");

/// Where the identities of a build begin when the caller is root: far above
/// what /etc/subuid usually hands out and below what systemd keeps for
/// itself as negative numbers.
const ROOT_BASE: u32 = 1_900_000_000;
/// Identities of a build: 0 to 65534, `nobody` included.
const COUNT: u32 = 65_535;

const NEEDS: [Need; 1] = [Need {
    program: "unshare",
    package: "util-linux",
    why: "makes the namespaces of a build",
}];
const NEEDS_OF_USERS: [Need; 1] = [Need {
    program: "newuidmap",
    package: "uidmap",
    why: "gives an ordinary user the identities of a build",
}];

/// What is missing for [`run`].
pub(super) fn missing_for(host: &Host) -> Vec<MissingPackage> {
    let mut list = missing(&NEEDS);
    if !host.is_root() {
        list.extend(missing(&NEEDS_OF_USERS));
    }
    list
}

/// Runs `script` with `args` as root of a namespace of its own, with `work`
/// as /mnt/work. Afterwards `result` in it belongs to the caller.
pub(super) fn run(
    host: &Host,
    work: &Path,
    script: &Script<'_>,
    progress: &dyn Progress,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    check(host)?;
    tool(host, script.task)
        .args(["sh", "-c", OUTER, "outer.sh"])
        .arg(work)
        .args([
            base(host).to_string(),
            COUNT.to_string(),
            script.result.to_owned(),
        ])
        .args(["sh", "-c", script.text, "inner.sh"])
        .args(script.args.iter().map(String::as_str))
        .run(progress, on_line)
}

/// What [`run`] runs.
pub(super) struct Script<'a> {
    pub(super) task: &'a str,
    pub(super) text: &'a str,
    pub(super) args: &'a [String],
    /// The file in the work directory that is wanted, or nothing.
    pub(super) result: &'a str,
}

/// Removes what a build left: an ordinary caller does not own it.
pub(crate) fn remove_leftovers(work: &Path) -> Result<(), Error> {
    let host = Host::new("/".into(), None, []);
    let script = Script {
        task: "remove an unfinished build",
        text: "find /mnt/work -xdev -mindepth 1 -delete",
        args: &[],
        result: "",
    };
    run(&host, work, &script, &Silent, &mut |_| {})
}

fn tool(host: &Host, task: &str) -> Tool {
    let tool = Tool::new("unshare", task);
    let tool = if host.is_root() {
        tool
    } else {
        tool.args(["--user", "--map-root-user", "--map-auto"])
    };
    tool.args(["--mount", "--pid", "--fork", "--kill-child", "--"])
}

fn base(host: &Host) -> u32 {
    if host.is_root() { ROOT_BASE } else { 1 }
}

/// Says plainly what the host refuses, before a build fails on it.
fn check(host: &Host) -> Result<(), Error> {
    if !host.is_root() && !sbx_sys::userns::has_ranges(host.uid) {
        let reason = "your user has no range of identities in /etc/subuid and /etc/subgid; \
                      `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER` \
                      gives one"
            .to_owned();
        return Err(Error::Namespaces { reason });
    }
    let tried = tool(host, "make a user namespace")
        .arg("true")
        .finish(&Silent, &mut |_| {})?;
    if tried.status.success() {
        return Ok(());
    }
    Err(Error::Namespaces {
        reason: tried.tail.join("; "),
    })
}
