//! The started side: from a fresh process of this program to the one asked
//! for. Reports the first thing that fails and exits.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;
use sbx_proto::Bytes;
use sbx_proto::session::User;

use crate::launch::home::write_files;
use crate::launch::identity::{AGENT_NAME, Identity, in_place_of, read_passwd, resolve};
use crate::launch::path::search_path;
use crate::launch::{Cwd, FIRST_TO_GO, Failure, Launch, Privileges, Terminal};
use crate::program::{self, Image};

/// Longest request that is read, in bytes: an [`sbx_proto::session::Exec`]
/// and the context, with room.
const MAX_REQUEST: u64 = 4 * 1024 * 1024;
/// Group of terminals.
const TTY_GROUP: u32 = 5;

/// Runs the launch that `request` holds; `status` takes the report.
pub(crate) fn run(request: OwnedFd, status: OwnedFd) -> ExitCode {
    let Err(failure) = start(request);
    if let Ok(report) = minicbor::to_vec(&failure) {
        let _ = File::from(status).write_all(&report);
    }
    ExitCode::from(failure.code)
}

fn refuse(message: impl Into<String>) -> Failure {
    Failure {
        code: 125,
        message: message.into(),
    }
}

fn attempt<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> Result<T, Failure> {
    result.map_err(|error| refuse(format!("{what}: {error}")))
}

fn start(request: OwnedFd) -> Result<std::convert::Infallible, Failure> {
    let mut bytes = Vec::new();
    attempt(
        File::from(request)
            .take(MAX_REQUEST)
            .read_to_end(&mut bytes),
        "read a request",
    )?;
    let launch: Launch = attempt(minicbor::decode(&bytes), "read a request")?;
    drop(bytes);
    let context = &launch.context;
    let passwd = if context.bare { None } else { read_passwd() };
    let mut identity = resolve(&launch.user, &context.agent, passwd.as_deref())?;
    if context.bare {
        identity.home = "/tmp".to_owned();
    }
    if rustix::process::getpid().as_raw_nonzero().get() != 1 {
        let _ = std::fs::write("/proc/self/oom_score_adj", FIRST_TO_GO);
    }
    take_session(launch.terminal)?;
    if launch.own_stdio && !context.bare {
        give_stdio(&identity, launch.terminal);
    }
    if !context.bare {
        become_user(&identity, launch.privileges)?;
        if identity.uid == 0 && is_agent(&launch.user) {
            // An agent that has to be root, for the sake of its files, is
            // root in name.
            attempt(
                sbx_sys::jail::drop_capabilities(),
                "give up the agent's privileges",
            )?;
        }
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    write_files(Path::new(&identity.home), &launch.files).map_err(|error| refuse(error.line()))?;
    change_directory(&launch, &identity)?;
    let env = environment(&launch, &identity);
    let mut words = launch.argv.iter().map(|word| os(word));
    let program = words.next().ok_or_else(|| refuse("no program to run"))?;
    let program = in_place_of(Path::new(&program)).map_or(program, Into::into);
    let shown = program.to_string_lossy().into_owned();
    let error = program::exec(Image {
        program,
        arg0: launch.arg0.as_deref().map(|word| os(word)),
        arguments: words.collect(),
        env: &env,
    });
    Err(classify(&shown, &error))
}

fn is_agent(user: &User) -> bool {
    match user {
        User::Agent => true,
        User::Name { name } => name == AGENT_NAME,
        User::Root | User::Ids { .. } => false,
    }
}

fn classify(program: &str, error: &std::io::Error) -> Failure {
    let code = match Errno::from_io_error(error) {
        Some(Errno::NOENT) => 127,
        Some(_) => 126,
        None => 125,
    };
    let message = if code == 127 && Path::new(program).exists() {
        format!(
            "`{program}` cannot run in this image: it lacks what loads it, as one without the GNU C library does"
        )
    } else if code == 127 {
        format!("`{program}` is not in the sandbox")
    } else {
        format!("run `{program}`: {error}")
    };
    Failure { code, message }
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

fn take_session(terminal: Terminal) -> Result<(), Failure> {
    attempt(rustix::process::setsid(), "start a session")?;
    if terminal == Terminal::Stdin {
        attempt(
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()),
            "take the terminal",
        )?;
    }
    Ok(())
}

/// Programs open /dev/stdout again by name, which asks for the permission of
/// the pipe or terminal behind it.
fn give_stdio(identity: &Identity, terminal: Terminal) {
    let owner = Some(Uid::from_raw(identity.uid));
    let (stdin, stdout, stderr) = (
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    );
    for fd in [stdin, stdout, stderr] {
        let group = (terminal == Terminal::Stdin).then(|| Gid::from_raw(TTY_GROUP));
        let _ = rustix::fs::fchown(fd.as_fd(), owner, group);
    }
}

fn become_user(identity: &Identity, privileges: Privileges) -> Result<(), Failure> {
    let groups: Vec<Gid> = identity
        .groups
        .iter()
        .map(|gid| Gid::from_raw(*gid))
        .collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    attempt(rustix::thread::set_thread_groups(&groups), "set the groups")?;
    attempt(
        rustix::thread::set_thread_res_gid(gid, gid, gid),
        "set the group",
    )?;
    attempt(
        rustix::thread::set_thread_res_uid(uid, uid, uid),
        "set the user",
    )?;
    if identity.uid != 0 && privileges == Privileges::ByUser {
        attempt(
            rustix::thread::set_no_new_privs(true),
            "give up new privileges",
        )?;
    }
    Ok(())
}

fn change_directory(launch: &Launch, identity: &Identity) -> Result<(), Failure> {
    let path: &[u8] = match (&launch.cwd, &launch.context.workdir) {
        (Cwd::Here, _) => return Ok(()),
        (Cwd::Path { path }, _) | (Cwd::Default, Some(path)) => path,
        (Cwd::Home, _) | (Cwd::Default, None) => identity.home.as_bytes(),
    };
    let path = Path::new(OsStr::from_bytes(path));
    rustix::process::chdir(path).map_err(|error| {
        refuse(format!(
            "change to the directory `{}`: {}",
            path.display(),
            std::io::Error::from(error)
        ))
    })
}

/// What the session asked for, over what the sandbox has, over what every
/// program may rely on.
pub(crate) fn environment(launch: &Launch, identity: &Identity) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    let mut set =
        |name: OsString, value: OsString| match env.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => env.push((name, value)),
        };
    set("HOME".into(), identity.home.clone().into());
    set("USER".into(), identity.name.clone().into());
    set("LOGNAME".into(), identity.name.clone().into());
    set("SHELL".into(), identity.shell.clone().into());
    set("PATH".into(), search_path(&launch.context, identity));
    for (name, value) in launch.context.env.iter().chain(&launch.env) {
        // A name that setenv would not take; the kernel would, and shells drop it.
        if !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.contains(&0) {
            set(os(name), os(value));
        }
    }
    env
}

/// Bytes of `text`, for requests made here.
pub(crate) fn bytes(text: impl AsRef<OsStr>) -> Bytes {
    Bytes::from(text.as_ref().as_bytes().to_vec())
}
