//! The walls around this process: what it keeps is the share, its shadow and four descriptors.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use sbx_sys::jail::{Access, Jail, Place, Profile};

use crate::config::ShareConfig;
use crate::error::Error;
use crate::fs::host;

/// Brings the process into the state that the file server relies on: no descriptor but those
/// given, as many of them to come as the hard limit allows, and no umask (the guest's kernel
/// applies the guest's).
pub(crate) fn prepare(given: [&OwnedFd; 4]) -> Result<(), Error> {
    rustix::process::umask(Mode::empty());
    let now = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, raised)
        .map_err(Error::io("raise the limit on descriptors"))?;
    let listed = fs::read_dir("/proc/self/fd").map_err(Error::io("list open descriptors"))?;
    let numbers: Vec<i32> = listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for number in numbers {
        let known = number <= 2 || given.iter().any(|fd| fd.as_raw_fd() == number);
        // The one the list was read through is closed by now.
        if !known && fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_ok() {
            return Err(Error::new(
                "start with descriptors that are not the file server's",
                format!("descriptor {number} is open"),
            ));
        }
    }
    Ok(())
}

/// The jail for one share.
pub(crate) fn jail(config: &ShareConfig, root: &OwnedFd, shadow: &OwnedFd) -> Result<Jail, Error> {
    let writable = config.access == sbx_spec::Access::ReadWrite;
    let (place, access) = match &config.file {
        Some(name) => {
            let name = std::ffi::CString::new(name.as_slice())
                .map_err(|e| Error::new("use the name of the shared file", e))?;
            let file =
                host::open_entry(root.as_fd(), &name).map_err(Error::io("open the shared file"))?;
            (
                file,
                if writable {
                    Access::Write
                } else {
                    Access::Read
                },
            )
        }
        None => {
            let root = root
                .try_clone()
                .map_err(Error::io("hold the share's directory"))?;
            (
                root,
                if writable {
                    Access::Manage
                } else {
                    Access::Read
                },
            )
        }
    };
    let shadow = shadow
        .try_clone()
        .map_err(Error::io("hold the shadow store"))?;
    Ok(Jail::new(Profile::Share)
        .file(Place::Fd(place), access)
        .file(Place::Fd(shadow), Access::Manage)
        .limit(Resource::Core, 0))
}
