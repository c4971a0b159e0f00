//! What the kernel counts for a whole user: a container takes its share.

use e2e::{Home, host};

/// Makes watchers of files until there are no more, and keeps them.
const WATCHERS: &str = "
import ctypes, sys
libc, made = ctypes.CDLL(None), 0
while libc.inotify_init1(0) >= 0: made += 1
print('made', made, file=sys.stderr, flush=True)
sys.stdin.read()
";

#[test]
fn a_container_leaves_its_caller_half_of_the_watchers_of_files() {
    let home = Home::new();
    let sandbox = home.sandbox_with("greedy", &["--isolation", "container"]);
    let mut greedy = sandbox
        .exec_with(["-i"], ["python3", "-c", WATCHERS])
        .spawn_open();
    greedy.says("made ");
    let one = "import ctypes, sys; sys.exit(ctypes.CDLL(None).inotify_init1(0) < 0)";
    host("/usr/bin/python3", &["-c", one], home.root());
    greedy.end_input();
    let out = greedy.output();
    let errors = out.errors();
    let made = errors.split_whitespace().last().unwrap();
    let made: u32 = made.parse().unwrap();
    let most = std::fs::read_to_string("/proc/sys/user/max_inotify_instances").unwrap();
    let most: u32 = most.trim().parse().unwrap();
    assert!(0 < made && made <= most / 2, "{made} of {most}");
}

#[test]
fn nothing_in_a_container_makes_namespaces_though_no_filter_stood_in_the_way() {
    let home = Home::new();
    let _sandbox = home.sandbox_with("app", &["--isolation", "container"]);
    let init = home.awaits("sbx-guest contained").id();
    for kind in ["user", "mount", "net", "ipc", "uts"] {
        // As its root, by somebody of the host whom no filter holds.
        let script = format!(
            "unshare --user --map-root-user --{kind} true
            if nsenter --target {init} --user unshare --{kind} true; then exit 1; fi"
        );
        host("/bin/sh", &["-ec", &script], home.root());
    }
}
