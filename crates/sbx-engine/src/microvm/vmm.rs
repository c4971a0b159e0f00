//! What the machine monitor's jailer is told.

use std::path::PathBuf;

use sbx_sys::jail::Access;
use sbx_vmm::{Config, FileRule, Ids, Limits, Namespaces};

use crate::command::{Code, Error};
use crate::plan::{Accelerator, Plan};

/// Descriptors QEMU opens beside those it is given: event descriptors of its
/// devices and threads, mostly.
const DESCRIPTORS: u64 = 512;

/// The jailer's configuration, JSON. `arguments` are QEMU's; descriptors 4
/// up to `4 + fds` are its own, `report` is where the walls are told.
pub(crate) fn config(
    plan: &Plan,
    arguments: Vec<String>,
    fds: i32,
    report: i32,
) -> Result<Vec<u8>, Error> {
    let mut argv = vec!["qemu".to_owned()];
    argv.extend(arguments);
    let mut files = Vec::new();
    let mut groups = Vec::new();
    if plan.machine.accelerator == Accelerator::Kvm {
        let path = PathBuf::from("/dev/kvm");
        if let Ok(found) = std::fs::metadata(&path) {
            groups.push(std::os::unix::fs::MetadataExt::gid(&found));
        }
        files.push(FileRule {
            path,
            access: Access::Device,
        });
    }
    let disk = plan.machine.disks.iter().filter(|disk| disk.writable);
    let file_size = disk
        .filter_map(|disk| disk.path.metadata().ok())
        .map(|found| found.len())
        .max()
        .unwrap_or(0)
        // Guest memory is a file too, in memory.
        .max(plan.machine.memory.as_bytes());
    let config = Config {
        program: plan.machine.program.clone(),
        argv,
        files,
        fds: (4..4 + fds).collect(),
        report: Some(report),
        limits: Limits {
            descriptors: DESCRIPTORS,
            file_size,
            processes: None,
        },
        ids: plan
            .identity
            .service
            .map(|(uid, gid)| Ids { uid, gid, groups }),
        namespaces: Namespaces::Try,
    };
    serde_json::to_vec(&config)
        .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))
}
