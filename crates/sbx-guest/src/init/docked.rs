//! The first process of a container that an engine runs.
//!
//! The engine has built the sandbox. Before anything of it is used, what is
//! mounted is compared with what the host meant, and the walls go up around
//! this process that every container has, whatever the engine has put up. Its
//! link are its standard input and output: the host's side of both is all that
//! keeps it alive.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use sbx_proto::dock::{Places, read_first};
use sbx_proto::link::Setup;

use super::{Warnings, contained, early};
use crate::error::{Attempt as _, Error, Result};
use crate::launch::identity::AGENT_HOME;
use crate::program;

/// The image's own certificates, as they were before any of ours was added.
const BASE: &str = "/var/lib/sbx/image";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Bytes that are carried at once.
const CHUNK: usize = 64 * 1024;

/// Its life. When it ends the kernel ends all that is left inside.
pub(crate) fn run() -> ExitCode {
    contained::ended(live())
}

fn live() -> Result<()> {
    contained::keep_to_itself()?;
    let (mut input, output) = standard_streams()?;
    compare(&read_first(&mut input).attempt("read what is to be mounted")?)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open("/", flags, Mode::empty()).attempt("open the root")?;
    let standing = sbx_sys::jail::confine(top)?;
    let walls = standing.walls.iter().map(ToString::to_string).collect();
    let (link, leaving) = carried(input, output)?;
    let served = contained::serve(link, walls, &prepare);
    // The last words are on their way until the carrier has passed them on.
    let _ = leaving.join();
    served
}

/// Takes over descriptors 0 and 1; nothing that is started later has them.
fn standard_streams() -> Result<(File, File)> {
    let what = "take the link";
    let input = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).attempt(what)?;
    let output = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).attempt(what)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .attempt("open `/dev/null`")?;
    rustix::stdio::dup2_stdin(&null).attempt(what)?;
    rustix::stdio::dup2_stdout(&null).attempt(what)?;
    Ok((input.into(), output.into()))
}

/// Refuses to go on where the engine has mounted something else than what the
/// host looked at: it follows paths, and what stands there may have changed.
fn compare(places: &Places) -> Result<()> {
    for place in &places.places {
        let path = Path::new(OsStr::from_bytes(&place.path));
        let found =
            rustix::fs::lstat(path).attempt(format!("find `{}` mounted", path.display()))?;
        if (found.st_dev, found.st_ino) != (place.device, place.inode) {
            let what = format!(
                "find at `{}` what the host has there: it changed meanwhile, try again",
                path.display()
            );
            return Err(Error::new(what));
        }
    }
    Ok(())
}

/// A link in one descriptor, and the thread that carries what leaves by it.
fn carried(mut input: File, mut output: File) -> Result<(OwnedFd, JoinHandle<()>)> {
    let what = "make the link";
    let (near, far) = UnixStream::pair().attempt(what)?;
    let mut entering = far.try_clone().attempt(what)?;
    let mut leaving = far;
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("link-in")
        .spawn(move || {
            // The supervisor tells the time every few seconds; an engine that
            // was killed leaves this open, and nobody at the other end.
            copy(&mut Heard(&mut input), &mut entering);
            let _ = entering.shutdown(std::net::Shutdown::Write);
        })
        .attempt(what)?;
    let out = thread("link-out")
        .spawn(move || copy(&mut leaving, &mut output))
        .attempt(what)?;
    Ok((near.into(), out))
}

/// What the host says; as good as ended once it says nothing any more.
struct Heard<'a>(&'a mut File);

impl Read for Heard<'_> {
    fn read(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        match crate::wire::hears(self.0) {
            Ok(()) => self.0.read(chunk),
            Err(error) => {
                program::log(&error.line());
                Ok(0)
            }
        }
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut chunk = vec![0; CHUNK];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                if to
                    .write_all(chunk.get(..count).unwrap_or_default())
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// What an image may lack, and what an engine leaves to root. Returns where
/// the certificates of the image are.
fn prepare(setup: &Setup, warnings: &mut Warnings) -> Result<OwnedFd> {
    for path in ["/run/sbx/bin", "/run/lock", "/tmp", "/etc"] {
        early::make_directory(Path::new(path))?;
    }
    let open = |path: &str| {
        rustix::fs::chmod(path, Mode::from_raw_mode(0o1777)).attempt(format!("open up `{path}`"))
    };
    sbx_sys::tree::clear(Path::new("/tmp"));
    warnings.note(open("/tmp"));
    warnings.note(open("/run/lock"));
    // Where /run is the image's own, what was there before the last end is.
    let _ = std::fs::remove_file(crate::sudo::SOCKET);
    warnings.note(give_volumes(setup));
    warnings.note(give_ways_home(setup));
    // Root's own home is private, and a workspace may lie in it.
    for share in &setup.shares {
        let path = Path::new(OsStr::from_bytes(&share.guest_path));
        warnings.note(sbx_sys::file::let_through(Path::new("/"), path).map_err(Into::into));
    }
    let base = Path::new(BASE);
    let kept = base.join(BUNDLE);
    if !kept.exists() {
        early::make_directory(kept.parent().unwrap_or(base))?;
        if let Err(error) = std::fs::copy(Path::new("/").join(BUNDLE), &kept)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).attempt("keep the certificates of the image");
        }
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(base, flags, Mode::empty()).attempt("open the image's certificates")
}

/// A volume that is new is root's.
fn give_volumes(setup: &Setup) -> Result<()> {
    for volume in &setup.volumes {
        let path = Path::new(OsStr::from_bytes(&volume.guest_path));
        let what = || format!("look at the volume `{}`", volume.name);
        let owner = rustix::fs::stat(path).attempt(what())?.st_uid;
        let mut entries = std::fs::read_dir(path).attempt(what())?;
        if owner == 0 && entries.next().is_none() {
            super::mounts::give(path, &setup.agent)?;
        }
    }
    Ok(())
}

/// The directories that the engine made on the way to what is mounted in the
/// agent's home.
fn give_ways_home(setup: &Setup) -> Result<()> {
    let home = Path::new(AGENT_HOME);
    let mut steps: Vec<PathBuf> = Vec::new();
    for share in &setup.shares {
        let path = Path::new(OsStr::from_bytes(&share.guest_path));
        let above = path.ancestors().skip(1);
        steps.extend(
            above
                .filter(|step| step.starts_with(home))
                .map(Path::to_owned),
        );
    }
    for step in steps {
        let found = rustix::fs::lstat(&step).attempt(format!("look at `{}`", step.display()))?;
        if found.st_uid == 0 && setup.agent.uid != 0 {
            super::mounts::give(&step, &setup.agent)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use sbx_proto::dock::Place;

    use super::*;

    #[test]
    fn what_the_host_did_not_mean_stops_the_start_and_what_it_meant_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (meant, other) = (dir.path().join("meant"), dir.path().join("other"));
        std::fs::write(&meant, "").unwrap();
        std::fs::write(&other, "").unwrap();
        let found = std::fs::metadata(&meant).unwrap();
        let place = |path: &Path| Places {
            places: vec![Place {
                path: path.to_str().unwrap().as_bytes().to_vec().into(),
                device: found.dev(),
                inode: found.ino(),
            }],
        };
        compare(&place(&meant)).unwrap();
        assert!(compare(&place(&other)).is_err());
        // Moved, not removed: its number would be given to the link.
        std::fs::rename(&meant, dir.path().join("moved")).unwrap();
        std::os::unix::fs::symlink(&other, &meant).unwrap();
        assert!(compare(&place(&meant)).is_err());
        assert!(compare(&place(&dir.path().join("missing"))).is_err());
    }

    #[test]
    fn a_link_carries_both_ways_and_ends_with_its_input() {
        let (from_host, mut host_in) = std::io::pipe().unwrap();
        let (mut host_out, to_host) = std::io::pipe().unwrap();
        let from_host = File::from(OwnedFd::from(from_host));
        let to_host = File::from(OwnedFd::from(to_host));
        let (link, leaving) = carried(from_host, to_host).unwrap();
        let mut link = UnixStream::from(link);
        host_in.write_all(b"in").unwrap();
        let mut two = [0; 2];
        link.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"in");
        link.write_all(b"out").unwrap();
        drop(host_in);
        assert_eq!(link.read(&mut two).unwrap(), 0);
        drop(link);
        leaving.join().unwrap();
        let mut said = Vec::new();
        host_out.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"out");
    }
}
