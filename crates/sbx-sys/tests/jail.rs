//! What a jailed process can no longer do, and that it could without.
//!
//! Each case runs in a process of its own: this test program again, with the
//! name of the case among its arguments.

#![cfg(test)]
#![expect(unsafe_code, reason = "some forbidden calls have no safe wrapper")]

use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;

use sbx_sys::jail::{Access, Jail, Place, Profile, abi};
use sbx_sys::spawn::{Resource, Spawn};

/// Runs a case: `done`, the error number it met, or how it ended instead.
fn answer(jail: &str, act: &str) -> String {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let child = Spawn::path(std::env::current_exe().unwrap())
        .args([
            "a_case_runs_inside_the_jail_it_was_given",
            "--exact",
            "--nocapture",
        ])
        .arg(format!("jail:{jail}"))
        .arg(format!("act:{act}"))
        .with_fd(write, 1)
        .spawn()
        .unwrap();
    let mut said = String::new();
    File::from(read).read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said.lines()
        .find_map(|line| line.split_once("answer="))
        .map_or_else(
            || panic!("no answer: {said}"),
            |(_, answer)| answer.to_owned(),
        )
}

fn errno(number: i32) -> String {
    format!("errno {number}")
}

#[test]
fn a_case_runs_inside_the_jail_it_was_given() {
    let argument =
        |key: &str| std::env::args().find_map(|a| a.strip_prefix(key).map(str::to_owned));
    let (Some(jail), Some(act)) = (argument("jail:"), argument("act:")) else {
        return;
    };
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("own")).unwrap();
    // A forked child has one thread, which a jail asks for.
    // SAFETY: the child only runs the case and exits; libc keeps its own
    // locks usable across a fork.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = i32::from(!case(&jail, &act, place.path()));
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(code) };
    }
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    if let Some(signal) = status.terminating_signal() {
        println!("answer=signal {signal}");
    } else {
        println!("answer=exit {}", status.exit_status().unwrap());
    }
}

/// Whether the jail stood; prints how the act went. The jail may change the
/// directory `own` in `place`.
fn case(jail: &str, act: &str, place: &Path) -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    if let Some(profile) = profile(jail) {
        let walls = Jail::new(profile)
            .file(Place::Path("/etc/hostname".into()), Access::Read)
            .file(Place::Path(place.join("own")), Access::Manage)
            .limit(Resource::Core, 0)
            .apply();
        if let Err(error) = walls {
            eprintln!("{error}");
            return false;
        }
    }
    let line = match perform(act, address, place) {
        Ok(()) => "\nanswer=done\n".to_owned(),
        Err(error) => format!("\nanswer=errno {}\n", error.raw_os_error().unwrap_or(0)),
    };
    rustix::io::write(rustix::stdio::stdout(), line.as_bytes()).is_ok()
}

fn profile(name: &str) -> Option<Profile> {
    match name {
        "vmm" => Some(Profile::Vmm),
        "net" => Some(Profile::Net),
        "share" => Some(Profile::Share),
        "supervisor" => Some(Profile::Supervisor),
        _ => None,
    }
}

fn perform(act: &str, address: std::net::SocketAddr, place: &Path) -> std::io::Result<()> {
    match act {
        "read-listed" => File::open("/etc/hostname").map(drop),
        "read-unlisted" => File::open("/etc/passwd").map(drop),
        "write" => std::fs::write(format!("/tmp/sbx-jail-{}", std::process::id()), "x"),
        "write-own" => std::fs::write(place.join("own/new"), "x")
            .and_then(|()| std::fs::rename(place.join("own/new"), place.join("own/record"))),
        "write-around" => std::fs::write(place.join("record"), "x"),
        "move-around" => std::fs::rename(place.join("own"), place.join("other")),
        "tcp" => TcpStream::connect(address).map(drop),
        "unix" => std::os::unix::net::UnixDatagram::unbound().map(drop),
        "connect" => raw(libc::SYS_connect, -1),
        "listen" => raw(libc::SYS_listen, -1),
        "accept" => raw(libc::SYS_accept, -1),
        "accept4" => raw(libc::SYS_accept4, -1),
        "thread" => std::thread::Builder::new()
            .spawn(|| {})?
            .join()
            .map_err(|_| std::io::Error::other("the thread panicked")),
        "fork" => rustix_fork(),
        "exec" => Err(command("/bin/true").exec()),
        "executable-memory" => executable_memory(),
        "chmod" => raw(libc::SYS_fchmod, -1),
        "signal-parent" => {
            let parent = rustix::process::getppid().unwrap();
            rustix::process::test_kill_process(parent).map_err(Into::into)
        }
        "ptrace" => raw(libc::SYS_ptrace, libc::PTRACE_TRACEME as i64),
        "mount" => raw(libc::SYS_umount2, 0),
        "bpf" => raw(libc::SYS_bpf, 0),
        "setns" => raw(libc::SYS_setns, -1),
        "unshare" => raw(libc::SYS_unshare, i64::from(libc::CLONE_NEWUSER)),
        "io_uring" => raw(libc::SYS_io_uring_setup, 0),
        _ => panic!("unknown act {act}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "a test of what exec is allowed")]
fn command(path: &str) -> std::process::Command {
    std::process::Command::new(path)
}

fn raw(number: i64, argument: i64) -> std::io::Result<()> {
    // SAFETY: these calls take a number or fail on a null pointer; none
    // writes to memory here.
    let status = unsafe { libc::syscall(number, argument, 0, 0, 0) };
    if status < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn rustix_fork() -> std::io::Result<()> {
    // SAFETY: the child ends at once.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: ends the child without running anything of the parent's.
        unsafe { libc::_exit(0) };
    }
    if pid < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn executable_memory() -> std::io::Result<()> {
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    let all = ProtFlags::READ | ProtFlags::WRITE | ProtFlags::EXEC;
    // SAFETY: a fresh mapping at an address of the kernel's choice.
    unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, all, MapFlags::PRIVATE) }?;
    Ok(())
}

const JAILS: [&str; 4] = ["vmm", "net", "share", "supervisor"];

#[test]
fn without_a_jail_everything_works() {
    for act in [
        "read-listed",
        "read-unlisted",
        "write-own",
        "write-around",
        "move-around",
        "tcp",
        "unix",
        "thread",
        "fork",
        "executable-memory",
    ] {
        assert_eq!(answer("none", act), "done", "{act}");
    }
    assert_eq!(answer("none", "exec"), "exit 0");
    assert_eq!(answer("none", "ptrace"), "done");
}

#[test]
fn only_listed_files_are_opened() {
    for jail in JAILS {
        assert_eq!(answer(jail, "read-listed"), "done", "{jail}");
        assert_eq!(answer(jail, "read-unlisted"), errno(libc::EACCES), "{jail}");
        assert_eq!(answer(jail, "write"), errno(libc::EACCES), "{jail}");
    }
}

#[test]
fn a_directory_of_its_own_is_all_that_a_supervisor_changes() {
    assert_eq!(answer("supervisor", "write-own"), "done");
    for act in ["write-around", "move-around"] {
        assert_eq!(answer("supervisor", act), errno(libc::EACCES), "{act}");
    }
}

#[test]
fn threads_start_and_processes_do_not() {
    for jail in JAILS {
        assert_eq!(answer(jail, "thread"), "done", "{jail}");
        assert_eq!(answer(jail, "fork"), errno(libc::ENOSYS), "{jail}");
    }
}

#[test]
fn nothing_unlisted_is_executed() {
    // The monitor may call exec, so that QEMU can start; no file is executable.
    assert_eq!(answer("vmm", "exec"), errno(libc::EACCES));
    for jail in ["net", "share", "supervisor"] {
        assert_eq!(answer(jail, "exec"), errno(libc::ENOSYS), "{jail}");
    }
}

#[test]
fn sockets_are_made_only_where_the_role_needs_them() {
    assert_eq!(answer("vmm", "tcp"), errno(libc::ENOSYS));
    assert_eq!(answer("vmm", "unix"), errno(libc::ENOSYS));
    assert_eq!(answer("share", "tcp"), errno(libc::ENOSYS));
    assert_eq!(answer("share", "unix"), errno(libc::ENOSYS));
    assert_eq!(answer("supervisor", "tcp"), errno(libc::ENOSYS));
    // It would reach container engines and session buses.
    assert_eq!(answer("supervisor", "unix"), errno(libc::ENOSYS));
    assert_eq!(answer("supervisor", "connect"), errno(libc::ENOSYS));
    assert_eq!(answer("net", "unix"), errno(libc::ENOSYS));
    // A net jail without leave for TCP makes the socket, and Landlock stops it.
    if abi() >= 4 {
        assert_eq!(answer("net", "tcp"), errno(libc::EACCES));
    }
}

#[test]
fn modes_are_changed_by_the_file_server_alone() {
    // Landlock has no say in this: whoever has the call reaches every file of
    // its user.
    assert_eq!(answer("share", "chmod"), errno(libc::EBADF));
    for jail in ["vmm", "net", "supervisor"] {
        assert_eq!(answer(jail, "chmod"), errno(libc::ENOSYS), "{jail}");
    }
}

#[test]
fn the_network_engine_is_not_connected_to() {
    for act in ["listen", "accept", "accept4"] {
        assert_eq!(answer("net", act), errno(libc::ENOSYS), "{act}");
    }
    for act in ["accept", "accept4"] {
        // The call exists and finds that there is no such descriptor.
        assert_eq!(answer("supervisor", act), errno(libc::EBADF), "{act}");
    }
}

#[test]
fn only_the_monitor_makes_memory_executable() {
    assert_eq!(answer("vmm", "executable-memory"), "done");
    for jail in ["net", "share", "supervisor"] {
        assert_eq!(
            answer(jail, "executable-memory"),
            errno(libc::ENOSYS),
            "{jail}"
        );
    }
}

#[test]
fn processes_outside_are_not_signalled() {
    assert_eq!(answer("none", "signal-parent"), "done");
    for jail in ["vmm", "net", "share"] {
        assert_eq!(answer(jail, "signal-parent"), errno(libc::ENOSYS), "{jail}");
    }
    if abi() >= 6 {
        assert_eq!(answer("supervisor", "signal-parent"), errno(libc::EPERM));
    }
}

#[test]
fn what_no_role_may_do_ends_the_process() {
    for jail in JAILS {
        for act in ["ptrace", "mount", "bpf", "setns"] {
            assert_eq!(answer(jail, act), "signal 31", "{jail} {act}");
        }
    }
}

#[test]
fn namespaces_and_io_uring_are_absent() {
    for jail in JAILS {
        assert_eq!(answer(jail, "unshare"), errno(libc::ENOSYS), "{jail}");
        assert_eq!(answer(jail, "io_uring"), errno(libc::ENOSYS), "{jail}");
    }
}

#[test]
fn a_process_of_several_threads_is_not_jailed() {
    let (stop, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    let error = Jail::new(Profile::Net).apply().unwrap_err();
    assert_eq!(error.to_string(), "jail a process that has several threads");
    drop(stop);
    let _ = thread.join();
}
