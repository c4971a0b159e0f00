//! What the machine monitor's jailer is told.

use sbx_vmm::{Config, Ids, KVM, Limits, Namespaces};

use crate::command::{Code, Error};
use crate::plan::{Accelerator, Identity, Machine};

/// Descriptors QEMU opens beside those it is given: event descriptors of its
/// devices and threads, mostly.
const DESCRIPTORS: u64 = 512;

/// The jailer's configuration, JSON. `arguments` are QEMU's; descriptors 4
/// up to `4 + fds` are its own, the one after them is where the walls are
/// told. `largest` is the size of the largest file it writes, in bytes.
pub(crate) fn config(
    machine: &Machine,
    identity: Identity,
    arguments: Vec<String>,
    fds: i32,
    largest: u64,
) -> Result<Vec<u8>, Error> {
    let mut argv = vec!["qemu".to_owned()];
    argv.extend(arguments);
    let kvm = machine.accelerator == Accelerator::Kvm;
    let mut groups = Vec::new();
    if let (true, Ok(found)) = (kvm, std::fs::metadata(KVM)) {
        groups.push(std::os::unix::fs::MetadataExt::gid(&found));
    }
    let config = Config {
        argv,
        kvm,
        fds: (4..4 + fds).collect(),
        report: Some(4 + fds),
        limits: Limits {
            descriptors: DESCRIPTORS,
            file_size: largest,
            processes: None,
        },
        ids: identity.service.map(|(uid, gid)| Ids { uid, gid, groups }),
        namespaces: Namespaces::Try,
    };
    serde_json::to_vec(&config)
        .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))
}
