//! What stays possible behind the walls of a container, and what does not:
//! tried as root of a user namespace, who could do all of it without them.

#![cfg(test)]
#![expect(unsafe_code, reason = "some forbidden calls have no safe wrapper")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use sbx_sys::jail::confine;
use sbx_sys::mounts::{self, Attributes};
use sbx_sys::namespaces::{Kind, become_inner_root, leave};
use sbx_sys::spawn::{Fork, Spawn, fork};
use sbx_sys::userns::{maps_of, write_maps};

#[test]
fn behind_the_walls_programs_work_and_ways_to_the_kernel_do_not() {
    let Some(said) = run("walls") else { return };
    for line in said.lines() {
        let (wanted, found) = line.split_once(" = ").unwrap_or((line, ""));
        let wanted = wanted.split(": ").nth(1).unwrap_or_default();
        assert_eq!(wanted, found, "{said}");
    }
    assert_eq!(said.lines().count(), 12, "{said}");
}

#[test]
fn without_the_walls_the_same_root_does_it_all() {
    let Some(said) = run("none") else { return };
    for line in said.lines() {
        assert!(line.ends_with("= done"), "{said}");
    }
    assert_eq!(said.lines().count(), 12, "{said}");
}

/// The answers of a case, in a process of its own; `None` where this user can
/// have no container.
fn run(case: &str) -> Option<String> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if let Err(missing) = maps_of(uid.as_raw(), gid.as_raw()) {
        println!("SKIPPED {case}: {}", missing.reason);
        return None;
    }
    let (read, write) = rustix::pipe::pipe().unwrap();
    let child = Spawn::path(std::env::current_exe().unwrap())
        .args(["a_case_runs_as_root_of_a_namespace", "--exact"])
        .args(["--nocapture".to_owned(), format!("case:{case}")])
        .with_fd(write, 1)
        .spawn()
        .unwrap();
    let mut said = String::new();
    File::from(read).read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    let lines = said.lines().filter_map(|line| line.strip_prefix("act "));
    Some(lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn a_case_runs_as_root_of_a_namespace() {
    let Some(case) = std::env::args().find_map(|a| a.strip_prefix("case:").map(str::to_owned))
    else {
        return;
    };
    // A forked child has one thread, which all of this asks for.
    // SAFETY: the child only runs the case and exits; libc keeps its own
    // locks usable across a fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = i32::from(enter(&case).is_err());
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let ended = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    assert_eq!(ended.unwrap().unwrap().1.exit_status(), Some(0));
}

fn enter(case: &str) -> std::io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let maps = maps_of(uid.as_raw(), gid.as_raw()).map_err(|_| std::io::ErrorKind::Unsupported)?;
    let (mut outer, mut inner) = UnixStream::pair()?;
    match fork().map_err(std::io::Error::other)? {
        Fork::Parent(child) => {
            drop(inner);
            outer.read_exact(&mut [0])?;
            write_maps(child.pid(), &maps).map_err(std::io::Error::other)?;
            outer.write_all(&[0])?;
            child.wait().map_err(std::io::Error::other).map(drop)
        }
        Fork::Child => {
            drop(outer);
            leave(&[Kind::User, Kind::Mount, Kind::Net]).map_err(std::io::Error::other)?;
            inner.write_all(&[0])?;
            inner.read_exact(&mut [0])?;
            become_inner_root().map_err(std::io::Error::other)?;
            tried(case).map_err(std::io::Error::other)
        }
    }
}

/// An act's name, its answer behind the walls, and the act.
type Act<'a> = (&'a str, &'a str, &'a dyn Fn() -> std::io::Result<()>);

/// Tries each act and says how it went, after what is wanted behind the walls.
fn tried(case: &str) -> sbx_sys::Result<()> {
    rustix::mount::mount_change(
        "/",
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
    )
    .map_err(|error| sbx_sys::Error::new("make mounts private", error))?;
    let at = Path::new("/tmp");
    let own = mounts::fresh(c"tmpfs", &[], Attributes::default())?;
    mounts::put(std::os::fd::AsFd::as_fd(&own), at)?;
    if case == "walls" {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", flags, Mode::empty())
            .map_err(|error| sbx_sys::Error::new("open the root", error))?;
        confine(root)?;
    }
    let file = at.join("file");
    let acts: [Act<'_>; 12] = [
        ("writes", "done", &|| std::fs::write(&file, "x")),
        ("sets a mode", "done", &|| set_mode(&file, 0o755)),
        ("sets a set-id bit", "errno 1", &|| set_mode(&file, 0o4755)),
        ("makes with a mode", "done", &|| {
            make(&at.join("plain"), 0o755)
        }),
        ("makes with a set-id bit", "errno 1", &|| {
            make(&at.join("set-id"), 0o4755)
        }),
        ("opens with another call", "errno 38", &|| {
            call(
                libc::SYS_openat2,
                [libc::AT_FDCWD.into(), how_path(), how(), 24],
            )
        }),
        ("makes threads", "done", &|| {
            std::thread::spawn(|| ())
                .join()
                .map_err(|_| std::io::ErrorKind::Other.into())
        }),
        ("connects", "done", &|| UnixStream::pair().map(drop)),
        ("opens a packet socket", "errno 97", &|| {
            call(
                libc::SYS_socket,
                [libc::AF_PACKET.into(), libc::SOCK_RAW.into(), 0, 0],
            )
        }),
        ("mounts", "errno 1", &|| {
            let new = mounts::fresh(c"tmpfs", &[], Attributes::default());
            new.map(drop).map_err(number)
        }),
        ("copies a mount", "errno 1", &|| {
            mounts::copy_of(at).map(drop).map_err(number)
        }),
        ("makes a namespace", "errno 1", &|| {
            leave(&[Kind::Uts]).map_err(number)
        }),
    ];
    let mut said = String::new();
    for (name, wanted, act) in acts {
        let went = match act() {
            Ok(()) => "done".to_owned(),
            Err(error) => format!("errno {}", error.raw_os_error().unwrap_or(0)),
        };
        said.push_str(&format!("\nact {name}: {wanted} = {went}"));
    }
    said.push('\n');
    rustix::io::write(rustix::stdio::stdout(), said.as_bytes())
        .map(drop)
        .map_err(|error| sbx_sys::Error::new("say how it went", error))
}

fn number(error: sbx_sys::Error) -> std::io::Error {
    std::io::Error::from_raw_os_error(error.errno().unwrap_or(0))
}

fn set_mode(file: &Path, mode: u32) -> std::io::Result<()> {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode))
}

fn make(file: &Path, mode: u32) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    options.open(file).map(drop)
}

/// A path and `struct open_how` as the kernel reads them.
fn how_path() -> i64 {
    c"/tmp/file".as_ptr().addr().cast_signed() as i64
}

fn how() -> i64 {
    static HOW: [u64; 3] = [0; 3];
    HOW.as_ptr().addr().cast_signed() as i64
}

fn call(number: i64, [a, b, c, d]: [i64; 4]) -> std::io::Result<()> {
    // SAFETY: plain numbers, or pointers to what lives for ever.
    let answer = unsafe { libc::syscall(number, a, b, c, d) };
    if answer < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // The descriptor that came goes with the process.
    Ok(())
}
