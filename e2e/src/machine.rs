//! A machine of the tests' own: a Debian with systemd under emulation, for
//! what a host of these tests may lack, such as sessions of an ordinary user
//! with control groups of their own.
//!
//! Owns: its disk, made once by `e2e/systemd/image`; its payload, which is the
//! programs under test and the checks; its end. What the checks say comes over
//! a port of the machine, in the lines that `e2e/systemd/run` writes.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::call::start;
use crate::environment;

/// How long a check may say nothing: an emulated machine on a busy host.
const SILENCE: Duration = Duration::from_secs(400);

/// Who runs checks there: `checks` has a directory for each.
pub const USERS: [&str; 2] = ["user", "root"];

/// How a check ended.
pub struct Checked {
    /// Its user and file: `user/limits`.
    pub name: String,
    /// Its exit code: 0 is well.
    pub status: i32,
    /// How long it took inside.
    pub seconds: u64,
    /// What it wrote.
    pub said: String,
}

/// Starts the machine with the checks of `directory/checks` and runs them one
/// after the other, those of each user in a session as a login makes it. Each
/// that ends is given to `ended`.
pub fn checked_by_systemd(directory: &Path, ended: impl Fn(&Checked)) -> Vec<Checked> {
    let disk = output(&directory.join("image"));
    let kernel = kernel();
    let work = tempfile::tempdir().unwrap();
    let payload = payload(directory, work.path());
    let console = work.path().join("console");
    let mut machine = start(&directory.join("boot"))
        .envs(environment::whole())
        .env("SBX_E2E_BIN", environment::programs())
        .arg(kernel)
        .arg(disk)
        .arg(payload)
        .arg(&console)
        .arg("thrown-away")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (told, lines) = channel();
    let port = BufReader::new(machine.stdout.take().unwrap());
    let reader = thread::spawn(move || {
        for line in port.split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            if told.send(line).is_err() {
                return;
            }
        }
    });
    let mut checks: Vec<Checked> = Vec::new();
    let over = loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) if line == "done" => break Ok(()),
            Ok(line) => heard(&line, &mut checks, &ended),
            Err(RecvTimeoutError::Timeout) => break Err("it says nothing any more"),
            Err(RecvTimeoutError::Disconnected) => break Err("it ended"),
        }
    };
    end(&mut machine);
    reader.join().unwrap();
    if let Err(how) = over {
        let last = checks.last().map_or("", |check| check.name.as_str());
        let console = fs::read_to_string(&console).unwrap_or_default();
        panic!("the machine with systemd, after `{last}` began: {how}\n{console}");
    }
    checks
}

fn heard(line: &str, checks: &mut Vec<Checked>, ended: &impl Fn(&Checked)) {
    let words: Vec<&str> = line.split(' ').collect();
    match (words.as_slice(), checks.last_mut()) {
        (["begin", name], _) => {
            checks.push(Checked {
                name: (*name).to_owned(),
                // Until it says how it ended, it did not end well.
                status: -1,
                seconds: 0,
                said: String::new(),
            });
        }
        (["end", name, status, seconds], Some(check)) if *name == check.name => {
            check.status = status.parse().unwrap();
            check.seconds = seconds.parse().unwrap();
            ended(check);
        }
        (_, Some(check)) => {
            check.said.push_str(line.strip_prefix("  ").unwrap_or(line));
            check.said.push('\n');
        }
        (_, None) => {}
    }
}

/// The programs under test and the checks, as a disk.
fn payload(directory: &Path, work: &Path) -> PathBuf {
    let tree = work.join("payload");
    fs::create_dir_all(tree.join("bin")).unwrap();
    for program in ["sbx", "sbx-vmm", "sbx-guest"] {
        let from = environment::programs().join(program);
        fs::copy(from, tree.join("bin").join(program)).unwrap();
    }
    for file in ["run", "lib.sh"] {
        fs::copy(directory.join(file), tree.join(file)).unwrap();
    }
    for user in USERS {
        let (from, to) = (
            directory.join("checks").join(user),
            tree.join("checks").join(user),
        );
        fs::create_dir_all(&to).unwrap();
        for check in fs::read_dir(from).unwrap() {
            let check = check.unwrap();
            fs::copy(check.path(), to.join(check.file_name())).unwrap();
        }
    }
    let image = work.join("payload.erofs");
    let made = start(Path::new("/usr/bin/mkfs.erofs"))
        .arg("--quiet")
        .args([&image, &tree])
        .status()
        .unwrap();
    assert!(made.success(), "mkfs.erofs");
    image
}

/// The guest kernel of the product: it has what Debian's own has, and no
/// modules that would have to be loaded.
fn kernel() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let artefact = root.join("target/release/examples/artefact");
    let made = start(&artefact)
        .arg(environment::cache())
        .arg("kernel")
        .envs(environment::whole())
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", artefact.display()));
    assert!(made.status.success(), "no kernel");
    String::from_utf8(made.stdout).unwrap().trim().into()
}

/// The disk; it takes minutes where it has to be made.
fn output(image: &Path) -> PathBuf {
    let made = start(image)
        .envs(environment::whole())
        .env("SBX_E2E_BIN", environment::programs())
        .env("SBX_E2E_CACHE", environment::cache())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(made.status.success(), "no disk for a machine with systemd");
    String::from_utf8(made.stdout).unwrap().trim().into()
}

fn end(machine: &mut Child) {
    machine.kill().unwrap();
    machine.wait().unwrap();
}
