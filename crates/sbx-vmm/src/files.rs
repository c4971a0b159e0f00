//! Every file that a jailed QEMU could open by name, and why.
//!
//! The list was made by tracing a boot with all devices; everything else
//! that QEMU looks at there (`/proc`, `/sys`, the time zone) it can do
//! without. A test holds the list against the real thing.

use std::path::{Path, PathBuf};

use sbx_sys::jail::Access;

use crate::config::{Config, FileRule};

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

/// Every rule for the machine of `config`: the program, what QEMU needs and
/// is there, and the machine's own files.
#[must_use]
pub fn rules(config: &Config) -> Vec<FileRule> {
    let program = FileRule {
        path: config.program.clone(),
        access: Access::Execute,
    };
    let needed = QEMU_FILES
        .iter()
        .filter(|needed| Path::new(needed.path).exists())
        .map(|needed| FileRule {
            path: PathBuf::from(needed.path),
            access: needed.access,
        });
    std::iter::once(program)
        .chain(needed)
        .chain(config.files.iter().cloned())
        .collect()
}
