//! Sessions over a real link, with the program serving as the calling user.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and starts what it tests"
)]

mod host;

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use host::{Host, exec, on_terminal, setup, sh};
use sbx_proto::flow::Channel;
use sbx_proto::link::{Shutdown, StatusReply};
use sbx_proto::session::{Exit, HomeFile, Resize, Signal, When};
use sbx_proto::{Frame, Kind, LINK, Message, WINDOW};

/// A guest that ends with the test.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn guest() -> (Guest, Host) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_sbx-guest"))
        .arg("serve")
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (host, ready) = Host::connect(ours, &setup());
    ready.unwrap();
    (Guest(child), host)
}

/// Bytes without a short period.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    (0..length)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

#[test]
fn output_and_errors_arrive_apart_with_the_exit_code() {
    let (_guest, mut host) = guest();
    let session = host.run(&sh("echo out; echo err >&2; exit 3"));
    assert!(session.started);
    assert_eq!(session.stdout, b"out\n");
    assert_eq!(session.stderr, b"err\n");
    assert_eq!(
        session.exit,
        Some(Exit {
            code: Some(3),
            signal: None
        })
    );
    assert!(session.ends.contains(&Channel::Stdout) && session.ends.contains(&Channel::Stderr));
}

#[test]
fn a_killed_program_reports_its_signal() {
    let (_guest, mut host) = guest();
    let session = host.run(&sh("kill -9 $$"));
    assert_eq!(
        session.exit,
        Some(Exit {
            code: None,
            signal: Some(9)
        })
    );
    assert_eq!(session.code(), 137);
}

#[test]
fn what_cannot_run_is_refused_as_a_shell_would() {
    let (_guest, mut host) = guest();
    assert_eq!(host.run(&exec(&["no-such-program"])).code(), 127);
    assert_eq!(host.run(&exec(&["/no/such/program"])).code(), 127);
    assert_eq!(host.run(&exec(&["/etc/passwd"])).code(), 126);
    assert_eq!(host.run(&exec(&["/tmp"])).code(), 126);
    assert_eq!(host.run(&exec(&[])).code(), 125);
    assert_eq!(host.run(&exec(&["true"])).code(), 0);
}

#[test]
fn a_working_directory_that_is_not_there_is_named() {
    let (_guest, mut host) = guest();
    let mut exec = exec(&["pwd"]);
    exec.cwd = Some(b"/no/such/place".to_vec().into());
    let session = host.run(&exec);
    assert_eq!(session.code(), 125);
    assert!(
        session
            .refused
            .as_ref()
            .unwrap()
            .message
            .contains("/no/such/place")
    );
    exec.cwd = Some(b"/usr".to_vec().into());
    assert_eq!(host.run(&exec).stdout, b"/usr\n");
}

#[test]
fn the_environment_is_what_was_given_and_nothing_of_the_host() {
    let (_guest, mut host) = guest();
    let mut exec = exec(&["env"]);
    exec.env = vec![(b"A".to_vec().into(), b"x=\xff".to_vec().into())];
    let session = host.run(&exec);
    let mut names: Vec<String> = session
        .stdout
        .split(|&byte| byte == b'\n')
        .filter_map(|line| {
            String::from_utf8_lossy(line)
                .split_once('=')
                .map(|(name, _)| name.to_owned())
        })
        .collect();
    names.sort();
    assert_eq!(names, ["A", "HOME", "LOGNAME", "PATH", "SHELL", "USER"]);
    assert!(
        session
            .stdout
            .windows(5)
            .any(|window| window == b"A=x=\xff")
    );
}

#[test]
fn programs_are_found_in_the_path_that_was_given() {
    let (_guest, mut host) = guest();
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("tool");
    std::fs::write(&tool, "#!/bin/sh\necho found\n").unwrap();
    let mut exec = exec(&["tool"]);
    exec.env = vec![(
        b"PATH".to_vec().into(),
        dir.path().to_str().unwrap().as_bytes().to_vec().into(),
    )];
    assert_eq!(host.run(&exec).code(), 126, "found and not executable");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(host.run(&exec).stdout, b"found\n");
}

#[test]
fn a_hundred_megabytes_pass_both_ways_byte_for_byte() {
    let (_guest, mut host) = guest();
    let data = noise(100 * 1024 * 1024);
    let stream = host.open(&exec(&["cat"]));
    for piece in data.chunks(1024 * 1024) {
        host.write(stream, piece);
    }
    host.end(stream);
    let session = host.finish(stream);
    assert_eq!(session.code(), 0);
    assert!(
        session.stdout == data,
        "{} bytes came back",
        session.stdout.len()
    );
}

#[test]
fn a_stalled_client_stops_only_its_own_program() {
    let (_guest, mut host) = guest();
    let stalled = host.open(&exec(&["yes"]));
    host.session(stalled).stalled = true;
    host.until(stalled, |session| session.stdout.len() >= WINDOW as usize);
    let session = host.run(&sh("head -c 2000000 /dev/zero"));
    assert_eq!(session.stdout.len(), 2_000_000);
    assert_eq!(host.session(stalled).stdout.len(), WINDOW as usize);
    host.send(&Frame::new(stalled, Kind::Close, []));
    assert_eq!(host.finish(stalled).exit.as_ref().unwrap().signal, Some(1));
}

#[test]
fn a_program_that_does_not_read_stops_only_its_own_client() {
    let (_guest, mut host) = guest();
    let deaf = host.open(&exec(&["sleep", "1000"]));
    let room = host.session(deaf).stdin.available();
    host.write(deaf, &vec![0; room]);
    assert_eq!(host.run(&sh("cat; echo alive")).stdout, b"alive\n");
    host.send(&Signal { number: 15 }.to_frame(deaf).unwrap());
    assert_eq!(host.finish(deaf).exit.as_ref().unwrap().signal, Some(15));
}

#[test]
fn input_after_the_program_closed_it_is_thrown_away() {
    let (_guest, mut host) = guest();
    let stream = host.open(&sh(
        "exec <&-; read x < /dev/fd/9 2>/dev/null; sleep 0.2; echo done",
    ));
    host.write(stream, &vec![1; 3 * WINDOW as usize]);
    host.end(stream);
    assert_eq!(host.finish(stream).stdout, b"done\n");
}

#[test]
fn a_background_process_that_holds_the_pipe_does_not_hold_the_exit() {
    let (_guest, mut host) = guest();
    let session = host.run(&sh("sleep 1000 & echo $!; exit 4"));
    assert_eq!(session.code(), 4);
    let pid = session.text();
    let session = host.run(&sh(&format!("kill {pid}")));
    assert_eq!(session.code(), 0, "it was left alone");
}

#[test]
fn a_background_process_that_floods_the_pipe_does_not_hold_the_exit() {
    let (_guest, mut host) = guest();
    let session = host.run(&sh("yes & echo $!; exit 5"));
    assert_eq!(session.code(), 5);
    let text = session.text();
    let pid = text.lines().find(|line| *line != "y").unwrap().to_owned();
    // It may have died of the closed pipe already.
    host.run(&sh(&format!("kill {pid}")));
}

#[test]
fn what_was_written_last_arrives_though_the_client_is_slow() {
    let (_guest, mut host) = guest();
    let stream = host.open(&sh("head -c 300000 /dev/zero; printf end"));
    host.session(stream).stalled = true;
    host.until(stream, |session| session.stdout.len() >= WINDOW as usize);
    host.session(stream).stalled = false;
    let credit = sbx_proto::flow::Credit {
        channel: Channel::Stdout,
        bytes: WINDOW,
    };
    host.send(&credit.to_frame(stream));
    // The counters of this end follow by hand.
    let mut rest = Vec::new();
    while rest.len() < 300_003 - WINDOW as usize {
        let frame = host.read_frame().unwrap();
        if frame.kind == Kind::Stdout {
            rest.extend(frame.payload);
        }
    }
    assert!(rest.ends_with(b"end"));
    assert_eq!(host.finish(stream).code(), 0);
}

#[test]
fn a_terminal_has_size_type_and_control() {
    let (_guest, mut host) = guest();
    let session = host.run(&on_terminal(sh(
        "stty size; echo $TERM; test -t 0 && tty; : > /dev/tty && echo yes",
    )));
    let text = session.text();
    assert!(text.starts_with("24 80\r\nxterm\r\n/dev/pts/"), "{text}");
    assert!(text.ends_with("yes\r\n"), "{text}");
    assert!(session.stderr.is_empty());
}

#[test]
fn a_resize_is_seen_by_the_program() {
    let (_guest, mut host) = guest();
    let stream = host.open(&on_terminal(sh(
        "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done",
    )));
    host.until(stream, |session| session.text().contains("up"));
    host.send(
        &Resize {
            rows: 50,
            cols: 132,
        }
        .to_frame(stream)
        .unwrap(),
    );
    assert!(host.finish(stream).text().contains("50 132"));
}

#[test]
fn control_c_on_a_terminal_interrupts() {
    let (_guest, mut host) = guest();
    // Whoever runs the tests may have SIGINT ignored, which is inherited. No
    // shell: a signal between its fork and exec is lost.
    let command = exec(&["env", "--default-signal", "-v", "sleep", "1000"]);
    let stream = host.open(&on_terminal(command));
    host.until(stream, |session| session.text().contains("executing"));
    host.write(stream, b"\x03");
    assert_eq!(host.finish(stream).code(), 130);
}

#[test]
fn a_signal_reaches_the_foreground_group_of_a_terminal() {
    let (_guest, mut host) = guest();
    let stream = host.open(&on_terminal(exec(&["bash", "--norc", "-i"])));
    host.write(stream, b"env -v sleep 1000\n");
    host.until(stream, |session| session.text().contains("executing"));
    host.send(&Signal { number: 2 }.to_frame(stream).unwrap());
    host.write(stream, b"echo code $?\nexit 9\n");
    let session = host.finish(stream);
    assert!(session.text().contains("code 130"), "{}", session.text());
    assert_eq!(session.code(), 9);
}

#[test]
fn end_of_input_on_a_terminal_ends_a_reader() {
    let (_guest, mut host) = guest();
    let stream = host.open(&on_terminal(sh("cat; echo over")));
    host.write(stream, b"line\n");
    host.end(stream);
    assert!(host.finish(stream).text().contains("over"));
}

#[test]
fn closing_hangs_up_the_whole_session() {
    let (_guest, mut host) = guest();
    let stream = host.open(&on_terminal(sh(
        "trap '' HUP; sleep 1000 & echo $!; while :; do sleep 1000; done",
    )));
    let text = host
        .until(stream, |session| session.text().contains('\n'))
        .text();
    let pid = text.trim().to_owned();
    host.send(&Frame::new(stream, Kind::Close, []));
    assert_eq!(host.finish(stream).exit.as_ref().unwrap().signal, Some(9));
    let session = host.run(&sh(&format!(
        "kill -0 {pid} && ps -o stat= -p {pid} | grep -v Z"
    )));
    assert_ne!(session.code(), 0, "the child is gone too");
}

#[test]
fn home_files_are_there_when_the_program_starts() {
    let (_guest, mut host) = guest();
    let name = format!("sbx-guest-test-{}", std::process::id());
    let mut exec = sh(&format!("cat /tmp/{name}/f; rm -r /tmp/{name}"));
    exec.files = vec![HomeFile {
        path: format!("{name}/f").into_bytes().into(),
        mode: 0o600,
        content: b"content".to_vec().into(),
        when: When::Always,
    }];
    assert_eq!(host.run(&exec).stdout, b"content");
    exec.files[0].path = b"../x".to_vec().into();
    assert_eq!(host.run(&exec).code(), 125);
}

#[test]
fn many_sessions_at_once_and_one_too_many() {
    let (_guest, mut host) = guest();
    let streams: Vec<u32> = (0..40).map(|_| host.open(&sh("read x; exit $x"))).collect();
    let extra = host.open(&exec(&["true"]));
    assert_eq!(host.finish(extra).code(), 125);
    for (at, &stream) in streams.iter().enumerate() {
        host.write(stream, format!("{at}\n").as_bytes());
    }
    for (at, &stream) in streams.iter().enumerate() {
        assert_eq!(usize::from(host.finish(stream).code()), at);
    }
    assert_eq!(host.run(&exec(&["true"])).code(), 0, "there is room again");
}

#[test]
fn credit_beyond_the_window_ends_the_session() {
    let (_guest, mut host) = guest();
    let stream = host.open(&sh("echo up; exec sleep 1000"));
    // A signal that comes before the program itself runs may pass it by.
    host.until(stream, |session| session.text().contains("up"));
    let credit = sbx_proto::flow::Credit {
        channel: Channel::Stdout,
        bytes: WINDOW,
    };
    host.send(&credit.to_frame(stream));
    assert_eq!(host.finish(stream).exit.as_ref().unwrap().signal, Some(1));
}

#[test]
fn status_counts_sessions() {
    let (_guest, mut host) = guest();
    let stream = host.open(&exec(&["cat"]));
    host.until(stream, |session| session.started);
    host.send(&Frame::new(LINK, Kind::Status, []));
    let reply = StatusReply::from_frame(&host.link_frame(Kind::StatusReply)).unwrap();
    assert_eq!(reply.sessions, 1);
    assert!(reply.memory_total > reply.memory_available && reply.disk_total > 0);
}

#[test]
fn shutdown_ends_sessions_within_the_grace_and_reports_them() {
    let (mut guest, mut host) = guest();
    let polite = host.open(&sh(
        "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done",
    ));
    let stubborn = host.open(&sh(
        "trap '' TERM HUP; echo up; while :; do sleep 0.05; done",
    ));
    for stream in [polite, stubborn] {
        host.until(stream, |session| session.text().contains("up"));
    }
    host.send(&Shutdown { grace_ms: 500 }.to_frame(LINK).unwrap());
    let frames = host.drain();
    let exit = |stream| {
        let frame = frames
            .iter()
            .find(|frame| frame.stream == stream && frame.kind == Kind::Exit);
        Exit::from_frame(frame.unwrap()).unwrap().shell_code()
    };
    assert_eq!((exit(polite), exit(stubborn)), (7, 137));
    assert!(guest.0.wait().unwrap().success());
}

#[test]
fn the_guest_ends_when_the_host_is_gone() {
    let (mut guest, host) = guest();
    host.vanish();
    assert!(guest.0.wait().unwrap().success());
}

#[test]
fn nonsense_on_the_link_ends_the_guest() {
    let (mut guest, mut host) = guest();
    host.send(&Frame::new(1, Kind::Stdout, *b"from the wrong side"));
    assert!(guest.0.wait().unwrap().success());
}
