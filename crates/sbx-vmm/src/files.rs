//! Every file that a jailed QEMU could open by name, and why.
//!
//! The list was made by tracing a boot with all devices; everything else
//! that QEMU looks at there (`/proc`, `/sys`, the time zone) it can do
//! without. A test holds the list against the real thing.

use std::path::{Path, PathBuf};

use sbx_sys::jail::Access;

/// The device of hardware virtualisation.
pub const KVM: &str = "/dev/kvm";

/// A file that the monitor may open by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileRule {
    /// Its absolute path.
    pub path: PathBuf,
    /// How it may be used.
    pub access: Access,
}

/// A place that QEMU needs on every machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needed {
    /// Its path; a distribution without it does not need it.
    pub path: &'static str,
    /// How it is used.
    pub access: Access,
    /// What for.
    pub why: &'static str,
}

/// What QEMU needs on every machine, beside itself and the machine's files.
pub const QEMU_FILES: &[Needed] = &[
    Needed {
        path: "/lib64/ld-linux-x86-64.so.2",
        access: Access::Execute,
        why: "the loader, which the kernel starts for QEMU",
    },
    Needed {
        path: "/etc/ld.so.cache",
        access: Access::Read,
        why: "where the loader finds libraries",
    },
    Needed {
        path: "/usr/lib/x86_64-linux-gnu",
        access: Access::Read,
        why: "libraries, and QEMU's own accelerator modules",
    },
    Needed {
        path: "/usr/lib64",
        access: Access::Read,
        why: "libraries, on distributions that keep them there",
    },
    Needed {
        path: "/usr/share/qemu",
        access: Access::Read,
        why: "the boot stub qboot.rom",
    },
    Needed {
        path: "/usr/share/seabios",
        access: Access::Read,
        why: "the boot firmware that ACPI machines get by default",
    },
    Needed {
        path: "/dev/urandom",
        access: Access::Read,
        why: "random numbers of the crypto library",
    },
];

/// Every rule for a monitor `program`: itself, what QEMU needs and is there,
/// and the device of hardware virtualisation where it is used.
#[must_use]
pub fn rules(program: &Path, kvm: bool) -> Vec<FileRule> {
    let rule = |path: &Path, access| FileRule {
        path: path.to_owned(),
        access,
    };
    let needed = QEMU_FILES
        .iter()
        .filter(|needed| Path::new(needed.path).exists())
        .map(|needed| rule(Path::new(needed.path), needed.access));
    std::iter::once(rule(program, Access::Execute))
        .chain(needed)
        .chain(kvm.then(|| rule(Path::new(KVM), Access::Device)))
        .collect()
}
