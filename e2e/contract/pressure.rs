//! A sandbox under pressure, and what is around it: the host stays quick, what
//! is inside makes room where the host has none, and a machine that stood still
//! knows the time again.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use e2e::{Home, Isolation, Kept, Promise, Running, WorkspaceGuard, in_each_isolation};

use crate::faults::assert_usable;
use crate::limits::groups;

in_each_isolation![the_hosts_loopback_stays_quick_while_hogs_run_inside];
where_files_are_ours![a_host_without_memory_ends_what_runs_inside_and_nothing_else];

/// Round trips in one measurement.
const TRIPS: usize = 1500;

/// Between two of them, so that the measurement is no load of its own.
const PACE: Duration = Duration::from_millis(1);

/// What a slice of the host's scheduler may cost on a machine where other
/// tests hold the processors: a 99th percentile below this is quick, whatever
/// the other one was.
const FLOOR: Duration = Duration::from_millis(4);

/// How long a machine stands still.
const PAUSE: Duration = Duration::from_secs(5);

/// An echo on loopback, with a connection to it.
struct Echo(TcpStream);

impl Echo {
    fn open() -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
        let (mut server, _) = socket.accept().unwrap();
        for end in [&client, &server] {
            end.set_nodelay(true).unwrap();
        }
        thread::spawn(move || {
            let mut byte = [0];
            while server.read_exact(&mut byte).is_ok() && server.write_all(&byte).is_ok() {}
        });
        Self(client)
    }

    fn trips(&mut self) -> Vec<Duration> {
        let trip = || {
            thread::sleep(PACE);
            let began = Instant::now();
            self.0.write_all(b"x").unwrap();
            self.0.read_exact(&mut [0]).unwrap();
            began.elapsed()
        };
        std::iter::repeat_with(trip).take(TRIPS).collect()
    }
}

fn percentile_99(mut trips: Vec<Duration>) -> Duration {
    trips.sort();
    trips[trips.len() * 99 / 100]
}

fn the_hosts_loopback_stays_quick_while_hogs_run_inside(isolation: Isolation) {
    let home = Home::of(isolation);
    let mut limits = vec!["--memory", "512m", "--cpus", "1", "--pids-limit", "200"];
    let mut hogs = vec![
        "while :; do head -c 2G /dev/zero | tail; done",
        "while :; do (while :; do sleep 60 & done) 2>/dev/null; pkill sleep; done",
    ];
    if Promise::Disk.kept(isolation, WorkspaceGuard::Full) == Kept::Yes {
        limits.extend(["--disk", "1g"]);
        hogs.push("while :; do head -c 2G /dev/zero > ~/full; rm ~/full; done");
    }
    let sandbox = home.sandbox_with("hogs", &limits);
    let mut echo = Echo::open();
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for hog in &hogs {
        idle.extend(echo.trips());
        let script = format!("echo on >&2; {hog}");
        let running: Running = sandbox.exec(["bash", "-c", &script]).spawn();
        running.says("on");
        busy.extend(echo.trips());
        drop(running);
        // It answers, and is idle again.
        let ended = "pkill -KILL -f '[w]hile :'; pkill -x sleep; pkill -x head; echo ended";
        assert_eq!(sandbox.sh(ended), "ended", "after {hog}");
    }
    let (idle, busy) = (percentile_99(idle), percentile_99(busy));
    assert!(
        busy <= FLOOR.max(idle * 2),
        "99th percentile of {TRIPS} each: {idle:?} beside an idle sandbox, {busy:?} beside hogs"
    );
}

/// Processes of two mebibytes each, so that none of them is the largest.
const CROWD: &str = "
import os, time
for _ in range(200):
    if os.fork() == 0:
        held = bytearray(2 << 20)
        time.sleep(600)
print('on', flush=True)
";

fn a_host_without_memory_ends_what_runs_inside_and_nothing_else(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("squeezed", &["--memory", "512m"]);
    sandbox.sh("echo kept > ~/kept; sync");
    let supervisor = sandbox.inspect()["supervisor"].clone();
    // The host takes back what it gave: enough for what stands, no more.
    for group in groups("squeezed", &supervisor) {
        for name in ["memory.limit_in_bytes", "memory.max"] {
            let limit = group.join(name);
            if limit.exists() {
                std::fs::write(limit, "320M").unwrap();
            }
        }
    }
    for hog in [
        "head -c 450M /dev/zero | tail | wc -c",
        &format!("python3 -c \"{CROWD}\""),
    ] {
        let hog = sandbox.exec(["bash", "-o", "pipefail", "-c", hog]);
        let out = hog.within(Duration::from_secs(120)).output();
        // Whom of a crowd the kernel ends is its choice.
        if isolation == Isolation::MicroVm {
            // The machine is what runs inside.
            assert!(!out.errors().is_empty(), "the caller is told: {out}");
            break;
        }
        assert_eq!(sandbox.sh("pkill -KILL python3; cat ~/kept"), "kept");
        assert_eq!(sandbox.inspect()["supervisor"], supervisor, "{out}");
    }
    assert_usable(&home, &sandbox, "memory of the host was short");
}

#[test]
fn the_clock_of_a_machine_is_right_again_with_the_first_answer_after_a_pause() {
    let home = Home::new();
    let sandbox = home.sandbox_with("sleeper", &["--memory", "512m"]);
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs_f64()
    };
    let inside = || {
        let before = now();
        let told: f64 = sandbox.sh("date +%s.%N").parse().unwrap();
        (before, told, now())
    };
    // Twice: the first pause also speaks with the monitor for the first time.
    for _ in 0..2 {
        sandbox.pause(true);
        thread::sleep(PAUSE);
        sandbox.pause(false);
        let (before, told, after) = inside();
        assert!(
            before - 0.5 < told && told < after + 0.5,
            "inside it is {told}, here {before} to {after}"
        );
    }
}
