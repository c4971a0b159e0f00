//! The first root of the guest: one program, a console node and the places
//! it mounts things on, as a `newc` archive.
//!
//! Format: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::fs;
use std::path::Path;

use sbx_spec::ByteSize;

use crate::cache::{Artifact, Cache, EntryName, Key};
use crate::error::Error;
use crate::progress::Progress;

/// Changes whenever the archive made from the same program changes.
const BUILDER: &[u8] = b"initramfs-1";
const FILE_NAME: &str = "initramfs.cpio";
/// No guest program of ours comes near this.
const MAX_GUEST: u64 = 256 << 20;

/// Mount points of the guest's first minutes.
const DIRECTORIES: [&str; 6] = ["dev", "proc", "sys", "run", "root", "tmp"];

/// The initramfs that holds `guest`, a static program, as `/init`.
///
/// Uncompressed: unpacking costs more than reading where instructions are
/// emulated.
///
/// # Errors
/// [`Error::File`] if the program cannot be read or the cache not written,
/// [`Error::Form`] if it is empty, larger than 256 MiB or needs a loader.
pub fn initramfs(cache: &Cache, guest: &Path, progress: &dyn Progress) -> Result<Artifact, Error> {
    let size = fs::metadata(guest)
        .map_err(Error::file("look at", guest))?
        .len();
    if size == 0 || size > MAX_GUEST {
        return Err(Error::form(
            guest.display().to_string(),
            format!("a size of {size} bytes"),
        ));
    }
    let program = fs::read(guest).map_err(Error::file("read", guest))?;
    if needs_loader(&program) {
        return Err(Error::form(
            guest.display().to_string(),
            "it is not static, and the guest's first root has no loader",
        ));
    }
    let name = EntryName {
        kind: "initramfs",
        key: Key::of(&[BUILDER, &program]),
        payload: FILE_NAME,
        title: "the initramfs".to_owned(),
        room: ByteSize::bytes(program.len() as u64).max(ByteSize::mib(1)),
    };
    cache.make(&name, progress, |place| {
        let path = place.entry.join(FILE_NAME);
        fs::write(&path, archive(&program)).map_err(Error::file("write", &path))
    })
}

/// Whether an ELF program of 64 bits names an interpreter (PT_INTERP).
/// Layout: `elf(5)`. What is no ELF program is left to the kernel to refuse.
fn needs_loader(program: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3u32.to_le_bytes();
    let half = |at: usize| {
        let bytes = program.get(at..at + 2)?.try_into().ok()?;
        Some(usize::from(u16::from_le_bytes(bytes)))
    };
    let headers = || {
        let start = program.get(32..40)?.try_into().ok()?;
        let start = usize::try_from(u64::from_le_bytes(start)).ok()?;
        let (size, count) = (half(54)?.max(1), half(56)?);
        Some(program.get(start..)?.chunks(size).take(count))
    };
    program.starts_with(b"\x7fELF\x02")
        && headers().is_some_and(|mut list| list.any(|header| header.starts_with(&PT_INTERP)))
}

/// The archive with `program` as `/init`.
fn archive(program: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(program.len() + 4096);
    let mut inode = 0;
    let mut add = |name: &str, mode: u32, device: (u32, u32), data: &[u8]| {
        inode += 1;
        let fields = Header {
            inode,
            mode,
            device,
            links: 1,
            size: data.len(),
        };
        entry(&mut out, &fields, name, data);
    };
    for name in DIRECTORIES {
        add(name, 0o040_755, (0, 0), &[]);
    }
    // The kernel opens this as init's standard streams, before devtmpfs is
    // there; without it the first lines of an init that fails are lost.
    add("dev/console", 0o020_600, (5, 1), &[]);
    add("init", 0o100_755, (0, 0), program);
    let trailer = Header {
        inode: 0,
        mode: 0,
        device: (0, 0),
        links: 1,
        size: 0,
    };
    entry(&mut out, &trailer, "TRAILER!!!", &[]);
    out
}

struct Header {
    inode: u32,
    mode: u32,
    device: (u32, u32),
    links: u32,
    size: usize,
}

fn entry(out: &mut Vec<u8>, header: &Header, name: &str, data: &[u8]) {
    let (major, minor) = header.device;
    // magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
    // rdevmajor, rdevminor, namesize with its NUL, check
    let text = format!(
        "070701{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}",
        header.inode,
        header.mode,
        0,
        0,
        header.links,
        0,
        header.size,
        0,
        0,
        major,
        minor,
        name.len() + 1,
        0
    );
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn holds_the_program_as_an_executable_init() {
        let bytes = archive(b"\x7fELFabc");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let at = text.find("init\0").unwrap() - 110;
        assert_eq!(&text[at..at + 6], "070701");
        assert_eq!(&text[at + 14..at + 22], "000081ed");
        assert_eq!(&text[at + 54..at + 62], "00000007");
        assert!(text.contains("\x7fELFabc"));
        assert!(text.contains("TRAILER!!!\0"));
    }

    #[test]
    fn the_host_cpio_reads_it() {
        let cpio = Path::new("/usr/bin/cpio");
        if !cpio.exists() {
            eprintln!("skipped: no cpio on this host");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.cpio");
        fs::write(&file, archive(&[7; 5000])).unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "a test runs the other reader of the format"
        )]
        let out = std::process::Command::new(cpio)
            .args(["-tv", "--quiet", "-F"])
            .arg(&file)
            .output()
            .unwrap();
        let list = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        assert!(
            list.contains("-rwxr-xr-x") && list.contains("5000"),
            "{list}"
        );
        assert!(
            list.lines()
                .any(|l| l.starts_with("crw-------") && l.contains("5,")),
            "{list}"
        );
    }

    #[test]
    fn the_same_program_is_packed_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let guest = dir.path().join("guest");
        fs::write(&guest, b"one").unwrap();
        let first = initramfs(&cache, &guest, &Silent).unwrap();
        assert_eq!(initramfs(&cache, &guest, &Silent).unwrap(), first);
        fs::write(&guest, b"two").unwrap();
        assert_ne!(initramfs(&cache, &guest, &Silent).unwrap().key, first.key);
    }

    /// An ELF file of 64 bits with one program header of that kind.
    fn elf(kind: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..5].copy_from_slice(b"\x7fELF\x02");
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&1u16.to_le_bytes());
        file[64..68].copy_from_slice(&kind.to_le_bytes());
        file
    }

    #[test]
    fn a_program_that_needs_a_loader_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let guest = dir.path().join("guest");
        fs::write(&guest, elf(3)).unwrap();
        let error = initramfs(&cache, &guest, &Silent).unwrap_err();
        assert!(error.to_string().contains("it is not static"), "{error}");
        assert!(cache.list().unwrap().is_empty());

        fs::write(&guest, elf(1)).unwrap();
        initramfs(&cache, &guest, &Silent).unwrap();
    }

    #[test]
    fn headers_outside_the_file_are_no_danger() {
        let mut file = elf(3);
        file[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(!needs_loader(&file));
        for length in 0..64 {
            assert!(!needs_loader(&elf(3)[..length]));
        }
    }

    #[test]
    fn an_empty_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let guest = dir.path().join("guest");
        fs::write(&guest, b"").unwrap();
        assert!(matches!(
            initramfs(&cache, &guest, &Silent),
            Err(Error::Form { .. })
        ));
    }
}
