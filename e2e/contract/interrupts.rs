//! ^C in every step of the set-up: it ends soon with a word, nothing half is
//! kept as whole, nothing runs on, and the next call goes on from there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use e2e::{Home, Isolation, full_run, in_each_isolation};
use rustix::process::Signal;

in_each_isolation![ctrl_c_while_the_machine_starts_takes_it_down_and_the_next_start_works,];

/// Between the signal and the end.
const SOON: Duration = Duration::from_secs(60);

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Types ^C when `agent`'s set-up says `event`, in a cache that lacks `kind`.
fn interrupted(home: &Home, agent: &str, event: &str) {
    let entries = names(&home.cache().join("entries"));
    let call = home
        .sbx(["run", "--progress", "plain", "--no-workspace"])
        .args(["--name", "halted", agent])
        .within(Duration::from_secs(300))
        .spawn();
    call.says(event);
    call.signal(Signal::INT);
    let out = call.output_within(SOON);
    assert_eq!(out.code(), Some(125), "{event}: {out}");
    assert!(out.errors().contains("stopped on request"), "{out}");

    assert_eq!(
        names(&home.cache().join("entries")),
        entries,
        "{event}: an entry that nobody finished"
    );
    assert_eq!(names(&home.cache().join("tmp")), BTreeSet::new(), "{event}");
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "", "{event}");
    home.sbx(["gc"]).succeeds();
    assert_eq!(home.leftovers(), Vec::<String>::new(), "{event}");
}

#[test]
fn ctrl_c_in_every_step_of_the_images_keeps_nothing_half_and_the_next_call_goes_on() {
    let steps: &[(&str, &str, &str)] = &[
        ("kit", "claude", "fetch @anthropic-ai"),
        ("base", "shell", "build base template"),
        ("kernel", "shell", "unpack kernel source"),
        // Needs the whole source unpacked.
        ("kernel", "shell", "build kernel"),
    ];
    for (kind, agent, event) in steps {
        if *event == "build kernel" && !full_run() {
            continue;
        }
        let mut home = Home::new();
        let shared = home.cache().join("entries");
        home.cache_without(&[kind]);
        interrupted(&home, agent, event);
        // The next call goes to work again, and can be stopped again.
        interrupted(&home, agent, event);
        // Once the step's result is there, nothing of the interrupted work is
        // in the way.
        for name in names(&shared) {
            let own = home.cache().join("entries").join(&name);
            if name.starts_with(kind) && !own.exists() {
                symlink(shared.join(&name), own).unwrap();
            }
        }
        home.sbx(["create", "--no-workspace", "--name", "halted", agent])
            .succeeds();
        home.sbx(["rm", "-f", "halted"]).succeeds();
    }
}

fn ctrl_c_while_the_machine_starts_takes_it_down_and_the_next_start_works(isolation: Isolation) {
    let home = Home::of(isolation);
    let events = match isolation {
        Isolation::MicroVm => ["starting the machine", "booting the guest"],
        Isolation::Container => ["making the container", "setting the container up"],
        Isolation::Docker => ["asking the engine", "setting the container up"],
    };
    for event in events {
        let call = home
            .sbx(["run", "--progress", "plain", "--no-workspace"])
            .args(["--memory", "512m", "--name", "halted", "shell"])
            .spawn();
        call.says(event);
        call.signal(Signal::INT);
        let out = call.output_within(SOON);
        assert_eq!(out.code(), Some(125), "{event}: {out}");
        assert!(out.errors().contains("interrupted"), "{event}: {out}");
        assert_eq!(home.running(), Vec::<String>::new(), "{event}");
        let list = home.sbx(["ls", "--json", "-a"]).succeeds().json();
        assert_ne!(list["sandboxes"][0]["status"], "running", "{list}");
        home.sbx(["gc"]).succeeds();
        let out = home
            .sbx(["run", "--no-workspace", "--memory", "512m"])
            .args(["--name", "halted", "shell", "--", "-c", "echo up"])
            .succeeds();
        assert_eq!(out.text(), "up", "after {event}");
        home.sbx(["rm", "-f", "halted"]).succeeds();
    }
}
