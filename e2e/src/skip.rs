//! What cannot run here: a fact that is missing, on a committed list.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::geteuid;

use crate::call::start;
use crate::environment::whole;

/// The committed list: a test's name, a blank, the fact it may lack.
const LISTED: &str = include_str!("../skips.txt");

/// Something that a test needs and a machine may lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fact {
    /// The tests run as root.
    Root,
    /// There is a /dev/kvm, good or bad.
    KvmDevice,
    /// /dev/kvm runs guests on the hardware.
    Kvm,
    /// The host's npm client reaches a registry.
    NpmRegistry,
    /// The host's pip client reaches an index.
    PipIndex,
    /// The host's cargo reaches a registry.
    CargoRegistry,
    /// The host has a JDK that reads the system's store of roots.
    Java,
    /// The host has a server of ssh.
    SshServer,
    /// Only root may open the device for taps.
    NoTap,
    /// The host has a compiler for the C library musl.
    Musl,
}

impl Fact {
    const ALL: [Self; 10] = [
        Self::Root,
        Self::KvmDevice,
        Self::Kvm,
        Self::NpmRegistry,
        Self::PipIndex,
        Self::CargoRegistry,
        Self::Java,
        Self::SshServer,
        Self::NoTap,
        Self::Musl,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::KvmDevice => "kvm-device",
            Self::Kvm => "kvm",
            Self::NpmRegistry => "npm-registry",
            Self::PipIndex => "pip-index",
            Self::CargoRegistry => "cargo-registry",
            Self::Java => "java",
            Self::SshServer => "ssh-server",
            Self::NoTap => "no-tap",
            Self::Musl => "musl-gcc",
        }
    }

    fn holds(self) -> bool {
        match self {
            Self::Root => geteuid().is_root(),
            Self::KvmDevice => Path::new("/dev/kvm").exists(),
            Self::Kvm => std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
                Path::new("/dev/kvm").exists()
                    && text.lines().any(|line| {
                        line.starts_with("flags")
                            && line.split(' ').any(|flag| flag == "vmx" || flag == "svm")
                    })
            }),
            Self::NpmRegistry => answers("npm", &["view", "express", "version"]),
            Self::PipIndex => answers("python3", &["-m", "pip", "index", "versions", "six"]),
            Self::CargoRegistry => answers("cargo", &["info", "--quiet", "itoa"]),
            Self::Java => crate::client::java().is_some(),
            Self::Musl => crate::environment::program("musl-gcc").is_absolute(),
            Self::NoTap => std::fs::metadata("/dev/net/tun")
                .map_or(true, |found| found.permissions().mode() & 0o006 == 0),
            Self::SshServer => crate::environment::program("sshd").is_absolute(),
        }
    }

    /// Whether the test `name` goes on. Where the fact is missing and the
    /// list says that the test may lack it, it does not; where the list does
    /// not say so, the test fails.
    #[must_use]
    pub fn holds_for(self, name: &str) -> bool {
        let line = format!("{name} {}", self.name());
        let listed = LISTED.lines().any(|listed| listed.trim() == line);
        assert!(listed, "`{line}` is not in e2e/skips.txt");
        self.holds()
    }
}

/// The lines of the list that are skipped on this machine, and those that
/// name no known fact.
pub fn skips_here() -> (Vec<String>, Vec<String>) {
    let (mut skipped, mut unknown) = (Vec::new(), Vec::new());
    let lines = LISTED.lines().map(str::trim);
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let fact = line.split_once(' ').map(|(_, fact)| fact);
        match Fact::ALL
            .into_iter()
            .find(|known| Some(known.name()) == fact)
        {
            None => unknown.push(line.to_owned()),
            Some(fact) if !fact.holds() => skipped.push(line.to_owned()),
            Some(_) => {}
        }
    }
    (skipped, unknown)
}

/// Whether an ordinary client of the host, as the caller has set it up, gets
/// an answer from where it fetches packages.
fn answers(program: &str, args: &[&str]) -> bool {
    start(Path::new("/usr/bin/env"))
        .arg(program)
        .args(args)
        .env_clear()
        .envs(whole())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
