//! From the command to the agent's first screen: in a new sandbox in a new directory, beside a
//! bare machine of the same kernel, template and program.
//!
//! Neither has a network: what the agent asks of its vendor before it draws would measure the
//! vendor.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::machine::Machine;
use super::{Bench, MEMORY, Row, milliseconds, run_quietly};
use crate::programs::program;
use crate::tree::Failure;

/// The bare machine's init; its disks are the template, an empty one, the program's and this.
const INIT: &str = include_str!("screen.sh");

/// What the first screen says, without blanks: a screen is drawn by moves as much as by letters.
const FIRST: &str = "ClaudeCodev";

/// Nobody's key, in the form of one.
const KEY: &str = "sk-ant-api03-no-key-of-anybody-at-all";

/// Half a minute is usual where the machine is emulated and has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// At most so many rounds: each takes as long as many of the others.
const ROUNDS: usize = 3;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let name = bench.agent_name();
    let plan = ["plan", "--memory", MEMORY, "--name", &name, "claude"];
    let machine = Machine::of(&bench.ask(&plan)?)?;
    let (mut bare, mut sandbox) = (Vec::new(), Vec::new());
    // The round before the first makes what is missing, and warms what is cold.
    for round in 0..=bench.rounds.min(ROUNDS) {
        let here = in_a_sandbox(bench, &name, round)?;
        let floor = first_screen(&mut bare_machine(bench, &machine)?)?;
        if round > 0 {
            bare.push(floor);
            sandbox.push(here);
        }
    }
    let floor = "bare QEMU, same kernel, template and program".to_owned();
    Ok(vec![Row {
        what: "the agent's first screen, in a new sandbox".to_owned(),
        floor: Some((floor, milliseconds(&bare))),
        figure: milliseconds(&sandbox),
        unit: "ms",
    }])
}

/// `sbx run claude` on a terminal, in a directory where it never ran.
fn in_a_sandbox(bench: &Bench, name: &str, round: usize) -> Result<Duration, Failure> {
    let project = bench.directory.join(format!("project-{round}"));
    std::fs::create_dir(&project).map_err(|e| Failure::new("make a project", e))?;
    let line = format!(
        "stty rows 40 cols 120 && cd {} && exec {} run --network none -e ANTHROPIC_API_KEY \
         --memory {MEMORY} --name {name} claude",
        quoted(&project.to_string_lossy()),
        quoted(&bench.sbx.to_string_lossy()),
    );
    let mut terminal = program("script", &bench.directory);
    terminal
        .args(["-qefc", &line, "/dev/null"])
        .env("TERM", "xterm-256color")
        .env("ANTHROPIC_API_KEY", KEY);
    let seen = first_screen(&mut terminal);
    run_quietly(&mut bench.sbx(&["rm", "--force", name]))?;
    seen
}

/// The bare machine, with an empty disk that is made before the clock runs.
fn bare_machine(bench: &Bench, machine: &Machine) -> Result<Command, Failure> {
    let [template, kit] = machine.images.as_slice() else {
        let why = "it names no template or no program";
        return Err(Failure::new("read the plan", why));
    };
    let (disk, init) = (bench.directory.join("disk"), bench.directory.join("init"));
    File::create(&disk)
        .and_then(|file| file.set_len(1 << 30))
        .map_err(|e| Failure::new("make a disk", e))?;
    let lazily = ["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1"];
    run_quietly(
        program("/sbin/mkfs.ext4", &bench.directory)
            .args(lazily)
            .arg(&disk),
    )?;
    std::fs::write(&init, init_disk()).map_err(|e| Failure::new("write the init", e))?;
    let mut command = machine.bare(" root=/dev/vda rootfstype=erofs ro init=/bin/sh -- /dev/vdd");
    let disks: [(&Path, &str); 4] = [(template, "on"), (&disk, "off"), (kit, "on"), (&init, "on")];
    for (number, (path, read_only)) in disks.into_iter().enumerate() {
        let file = path.to_string_lossy().replace(',', ",,");
        command
            .arg("-drive")
            .arg(format!(
                "if=none,id=d{number},format=raw,readonly={read_only},file={file}"
            ))
            .arg("-device")
            .arg(format!("virtio-blk-device,drive=d{number}"));
    }
    command
        .args(["-serial", "null", "-device", "virtio-serial-device"])
        .args(["-chardev", "stdio,id=screen,signal=off"])
        .args(["-device", "virtconsole,chardev=screen"]);
    Ok(command)
}

/// The init as a disk: a shell reads a device as it reads a file, and blank lines to its end.
fn init_disk() -> Vec<u8> {
    // The agent knows an approved key by its last twenty letters.
    let end = KEY.get(KEY.len().saturating_sub(20)..).unwrap_or(KEY);
    let key = format!("API_KEY={KEY} ");
    let text = INIT.replace("KEY-END", end).replace("API_KEY=KEY ", &key);
    let mut bytes = text.into_bytes();
    bytes.resize(bytes.len().next_multiple_of(4096), b'\n');
    bytes
}

/// How long a program takes from its start to the agent's first screen; it is ended then.
fn first_screen(command: &mut Command) -> Result<Duration, Failure> {
    let shown = format!("wait for the agent's screen of {:?}", command.get_program());
    // Its input stays open: the end of it would be the end of the agent.
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut child = command
        .spawn()
        .map_err(|e| Failure::new(shown.clone(), e))?;
    let screen = watch(&mut child);
    let mut bytes = Vec::new();
    let outcome = loop {
        match screen.recv_timeout(PATIENCE.saturating_sub(begin.elapsed())) {
            Ok(more) => bytes.extend(more),
            Err(_) => {
                let why = format!("it shows {:?}", letters(&bytes));
                break Err(Failure::new(shown, why));
            }
        }
        if letters(&bytes).contains(FIRST) {
            break Ok(begin.elapsed());
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    outcome
}

fn watch(child: &mut Child) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut output) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok(read @ 1..) = output.read(&mut buffer) {
                let more = buffer.get(..read).unwrap_or_default().to_vec();
                if sender.send(more).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// What is left of a screen's bytes without moves, colours and blanks.
fn letters(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut rest = text.chars();
    let mut out = String::new();
    while let Some(letter) = rest.next() {
        if letter == '\u{1b}' {
            if rest.next() == Some('[') {
                let _ = rest.find(|end| ('@'..='~').contains(end));
            }
        } else if !letter.is_whitespace() {
            out.push(letter);
        }
    }
    out
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_read_without_its_moves() {
        let bytes = b"\x1b[38;5;174m|\x1b[1mClaude\x1b[19GCode\x1b[24G\x1b[22mv2.1";
        assert_eq!(letters(bytes), "|ClaudeCodev2.1");
        assert!(!letters(b"\x1b]0;Claude Code\x07").contains(FIRST));
    }

    #[test]
    fn the_init_knows_the_key_and_fills_whole_blocks() {
        let disk = init_disk();
        let text = String::from_utf8_lossy(&disk);
        assert!(disk.len().is_multiple_of(4096));
        assert!(text.contains(&format!("ANTHROPIC_API_KEY={KEY} ")));
        assert!(!text.contains("KEY-END"));
    }

    #[test]
    fn a_quoted_word_stays_one_word() {
        assert_eq!(quoted("a 'b'"), r"'a '\''b'\'''");
    }
}
