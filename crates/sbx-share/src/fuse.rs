//! `/dev/fuse`: serves the file system to a mount of this host's own kernel.
//!
//! The mount was made by whoever opened the device, in a namespace of theirs; this process only
//! answers. What it reads was put together by the host's kernel from what programs of the guest
//! asked for: the form is trusted no more than that of a virtual machine, the contents not at all.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use fuse_backend_rs::api::server::{MAX_BUFFER_SIZE, Server};
use fuse_backend_rs::transport::{FsCacheReqHandler, FuseBuf, FuseDevWriter, Reader, Writer};
use rustix::io::Errno;

use crate::error::Error;
use crate::fs::ShareFs;

/// Threads that serve requests: enough that one slow disk operation does not stop the others.
const WORKERS: usize = 4;
/// Room for the longest message: as many bytes of a file as the two sides agree on, and what
/// stands before them.
const MESSAGE: usize = MAX_BUFFER_SIZE as usize + 4096;

/// Serves `fs` to the mount behind `device` until it is gone.
///
/// # Errors
/// If the device cannot be read, as one that nothing was mounted with cannot.
pub(crate) fn serve(fs: ShareFs, device: OwnedFd) -> Result<(), Error> {
    let server = Arc::new(Server::new(Arc::new(fs)));
    let device = Arc::new(device);
    let (ended, first) = mpsc::channel();
    for number in 0..WORKERS {
        let (server, device, ended) = (Arc::clone(&server), Arc::clone(&device), ended.clone());
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || ended.send(answer(&server, &device)))
            .map_err(Error::io("start the file server's threads"))?;
    }
    drop(ended);
    // What ends one of them ends all: the mount is gone, or nobody can be answered any more. The
    // process ends with this, and what still waits for an answer inside gets an error then.
    match first.recv() {
        Ok(how) => how.map_err(Error::io("talk to the mount")),
        Err(error) => Err(Error::new("keep serving", error)),
    }
}

/// Answers one request after the other until the mount is gone.
fn answer(server: &Server<Arc<ShareFs>>, device: &OwnedFd) -> io::Result<()> {
    let mut request = vec![0; MESSAGE];
    let mut reply = vec![0; MESSAGE];
    loop {
        let length = match rustix::io::read(device, &mut *request) {
            Ok(length) => length,
            // ENOENT: whoever asked was killed before the question could be read.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            Err(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let message = request.get_mut(..length).unwrap_or_default();
        let asked = message.get(8..16).and_then(|bytes| bytes.try_into().ok());
        if let Err(error) = respond(server, device, message, &mut reply) {
            log::debug!("a request failed: {error}");
            if let Some(asked) = asked {
                refuse(device, asked);
            }
        }
    }
}

fn respond(
    server: &Server<Arc<ShareFs>>,
    device: &OwnedFd,
    message: &mut [u8],
    reply: &mut [u8],
) -> Result<(), String> {
    let reader =
        Reader::<()>::from_fuse_buffer(FuseBuf::new(message)).map_err(|e| e.to_string())?;
    let writer = FuseDevWriter::new(device.as_raw_fd(), reply).map_err(|e| e.to_string())?;
    let none = None::<&mut dyn FsCacheReqHandler>;
    server
        .handle_message(reader, Writer::FuseDev(writer), none, None)
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Lets nobody wait for an answer that could not be made: they cannot be killed as they wait. To
/// the kernel, an answer to what was answered already is none.
fn refuse(device: &OwnedFd, asked: [u8; 8]) {
    let mut header = Vec::with_capacity(16);
    header.extend_from_slice(&16u32.to_ne_bytes());
    header.extend_from_slice(&(-libc::EIO).to_ne_bytes());
    header.extend_from_slice(&asked);
    let _ = rustix::io::write(device, &header);
}

#[cfg(test)]
mod tests {
    use std::ffi::{CStr, CString};
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;
    use std::path::Path;

    use fuse_backend_rs::api::filesystem::{Context, FileSystem, ROOT_ID};
    use sbx_sys::mounts::{self, Attributes};

    use super::*;
    use crate::config::ShareConfig;
    use crate::held::NoSink;

    fn share(root: OwnedFd, shadow: &Path) -> ShareFs {
        fs::create_dir(shadow).unwrap();
        let shadow = File::open(shadow).unwrap().into();
        ShareFs::new(&ShareConfig::writable(), root, shadow, Box::new(NoSink)).unwrap()
    }

    /// A file system of which nobody knows what names it gives: one of a program's.
    fn strange(root: &Path, shadow: &Path) -> OwnedFd {
        let device: OwnedFd = File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap()
            .into();
        let number = CString::new(device.as_raw_fd().to_string()).unwrap();
        let options: [(&CStr, Option<&CStr>); 4] = [
            (c"fd", Some(&number)),
            (c"rootmode", Some(c"40000")),
            (c"user_id", Some(c"0")),
            (c"group_id", Some(c"0")),
        ];
        let mount = mounts::fresh(c"fuse", &options, Attributes::default()).unwrap();
        let fs = share(File::open(root).unwrap().into(), shadow);
        thread::spawn(move || serve(fs, device));
        mount
    }

    #[test]
    fn a_second_name_of_a_held_file_is_held_where_a_file_system_may_give_one() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: nobody else may mount here");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for aliases in [true, false] {
            let root = at(if aliases { "strange" } else { "plain" });
            fs::create_dir(&root).unwrap();
            let names = [
                "VSCODE~1",
                "ENVRC~1",
                "tasks~1.jso",
                ".envrc::$DATA",
                "notes",
            ];
            for name in names {
                fs::write(root.join(name), "host").unwrap();
            }
            let file = match aliases {
                true => strange(&root, &at("below")),
                false => File::open(&root).unwrap().into(),
            };
            let fs = share(file, &at(if aliases { "a" } else { "b" }));
            let ctx = Context::new();
            for name in names {
                let held = aliases && name != "notes";
                let entry = CString::new(name).unwrap();
                fs.unlink(&ctx, ROOT_ID, &entry).unwrap();
                assert!(fs.lookup(&ctx, ROOT_ID, &entry).is_err(), "{name}");
                assert_eq!(root.join(name).exists(), held, "{name}, {aliases}");
                fs.mkdir(&ctx, ROOT_ID, &entry, 0o755, 0).unwrap();
                assert_eq!(root.join(name).is_dir(), !held, "{name}, {aliases}");
            }
        }
    }
}
