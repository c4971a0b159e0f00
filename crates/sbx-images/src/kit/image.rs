//! Turns a checked package archive into the image that the guest mounts.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::read::GzDecoder;

use super::NpmPackage;
use crate::cache::{make_directory, remove_tree};
use crate::command::Tool;
use crate::error::Error;
use crate::progress::Progress;

/// An unpacked program is at most this many times its archive.
const MAX_GROWTH: u64 = 8;

/// Writes the image of the package's one program to `image`.
pub(super) fn make(
    npm: &NpmPackage,
    archive: &Path,
    work: &Path,
    image: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let tree = work.join("tree");
    remove_tree(&tree)?;
    let program = tree.join(&npm.install_as);
    make_directory(program.parent().unwrap_or(&tree))?;
    for directory in [Some(tree.as_path()), program.parent()]
        .into_iter()
        .flatten()
    {
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(directory, open).map_err(Error::file("open up", directory))?;
    }
    unpack(npm, archive, &program)?;
    Tool::new("mkfs.erofs", "make the image of the agent's program")
        .args(["--quiet", "--all-root", "-T1700000000"])
        .args(["-U", "73627800-0000-4000-8000-000000000002"])
        .args([image, &tree])
        .run(progress, &mut |_| {})?;
    remove_tree(&tree)
}

/// Writes the one wanted file of the archive to `program`, executable. No
/// name in the archive ever becomes a path of the host.
fn unpack(npm: &NpmPackage, archive: &Path, program: &Path) -> Result<(), Error> {
    let limit = npm.size.saturating_mul(MAX_GROWTH);
    let file = File::open(archive).map_err(Error::file("open", archive))?;
    let mut tar = tar::Archive::new(GzDecoder::new(file).take(limit));
    for entry in tar.entries().map_err(Error::file("read", archive))? {
        let mut entry = entry.map_err(Error::file("read", archive))?;
        let wanted = entry.header().entry_type().is_file()
            && entry.path_bytes().as_ref() == npm.program.as_bytes();
        if !wanted {
            continue;
        }
        let mut out = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(program)
            .map_err(Error::file("create", program))?;
        let size = entry.size();
        let copied = io::copy(&mut entry, &mut out).map_err(Error::file("unpack", archive))?;
        if copied != size {
            return Err(Error::form(
                format!("package {}", npm.package),
                "its program is cut off",
            ));
        }
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        return out
            .set_permissions(executable)
            .map_err(Error::file("open up", program));
    }
    let reason = format!("it does not hold `{}`", npm.program);
    Err(Error::form(format!("package {}", npm.package), reason))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn package(entries: &[(&str, tar::EntryType, &[u8])]) -> (tempfile::TempDir, NpmPackage) {
        let dir = tempfile::tempdir().unwrap();
        let gz = GzEncoder::new(
            File::create(dir.path().join("a.tgz")).unwrap(),
            Compression::fast(),
        );
        let mut tar = tar::Builder::new(gz);
        for (name, kind, data) in entries {
            let mut header = tar::Header::new_gnu();
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            if *kind == tar::EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            tar.append(&header, *data).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap();
        let npm = NpmPackage {
            package: "p".to_owned(),
            version: "1".to_owned(),
            integrity: String::new(),
            size: 1 << 20,
            program: "package/tool".to_owned(),
            install_as: "bin/tool".to_owned(),
        };
        (dir, npm)
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn only_the_program_is_taken_out() {
        let (dir, npm) = package(&[
            ("../../escape", FILE, b"x"),
            ("/absolute", FILE, b"x"),
            ("package/tool", FILE, b"program"),
        ]);
        let out = dir.path().join("tool");
        unpack(&npm, &dir.path().join("a.tgz"), &out).unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"program");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_link_in_place_of_the_program_is_refused() {
        let (dir, npm) = package(&[("package/tool", tar::EntryType::Symlink, b"")]);
        assert!(unpack(&npm, &dir.path().join("a.tgz"), &dir.path().join("tool")).is_err());
    }

    #[test]
    fn a_bomb_is_cut_off() {
        let (dir, mut npm) = package(&[("package/tool", FILE, &vec![0; 1 << 20])]);
        npm.size = 1 << 10;
        assert!(unpack(&npm, &dir.path().join("a.tgz"), &dir.path().join("tool")).is_err());
    }
}
