//! Limits hold: a hog of memory, a bomb of processes and a filler of the disk
//! are stopped, and the sandbox answers afterwards.

use std::time::Duration;

use e2e::Home;

#[test]
fn hogs_are_stopped_at_the_limit_and_the_sandbox_answers_afterwards() {
    let home = Home::new();
    let limits = [
        "--memory",
        "512m",
        "--cpus",
        "1",
        "--disk",
        "1g",
        "--pids-limit",
        "200",
    ];
    let sandbox = home.sandbox_with("limits", &limits);
    assert_eq!(sandbox.sh("nproc"), "1");
    let told = sandbox.inspect()["limits"].to_string();
    for limit in ["memory", "cpus", "disk", "pids"] {
        assert!(told.contains(limit), "{limit}: {told}");
    }
    let hog = |script: &str| {
        let out = sandbox
            .exec(["bash", "-c", script])
            .within(Duration::from_secs(180))
            .output();
        assert_ne!(out.code(), Some(0), "{script} was not stopped: {out}");
        assert_eq!(sandbox.sh("echo alive"), "alive", "after {script}");
        out
    };

    hog("head -c 2G /dev/zero | tail");
    let host = home.resident_kib();
    assert!(
        host < (512 + 100) << 10,
        "all processes together take {host} KiB"
    );

    let filler = hog("head -c 2G /dev/zero > ~/full");
    assert!(filler.errors().contains("No space left"), "{filler}");
    sandbox.sh("rm ~/full && echo room > ~/room");

    let bomb = "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0:\n            time.sleep(600)\n        n += 1\nexcept OSError as e:\n    print(n, e.strerror, flush=True)\nos.kill(0, 9)\n";
    let bomb = sandbox.exec(["python3", "-c", bomb]).output();
    let count: u32 = bomb
        .text()
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(9999);
    assert!((50..=200).contains(&count), "stopped at the limit: {bomb}");
    assert_eq!(sandbox.sh("echo alive"), "alive");
}
