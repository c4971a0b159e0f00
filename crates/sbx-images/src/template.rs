//! The base template: a root file system from the host's own package
//! archive, as one read-only image.
//!
//! Owns: the list of packages and how their image is made. Never: runs a
//! package's script as the caller or as the host's root; bakes in anything
//! of this host but the address of its archive (extra root certificates,
//! host name and resolver enter at boot).

mod archive;
mod namespace;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use sbx_spec::ByteSize;
use sha2::{Digest, Sha256};

use crate::cache::{Artifact, Cache, EntryName, Key, hex, write_atomically};
use crate::error::{Error, MissingPackage};
use crate::host::{Host, Need, missing};
use crate::progress::Progress;

use archive::Archive;
pub(crate) use namespace::remove_leftovers;

/// Packages of the base root beside the distribution's required ones.
pub const PACKAGES: [&str; 29] = [
    "bash",
    "bzip2",
    "ca-certificates",
    "curl",
    "file",
    "g++",
    "gcc",
    "git",
    "iproute2",
    "iputils-ping",
    "jq",
    "less",
    "libc6-dev",
    "make",
    "nano",
    "nodejs",
    "npm",
    "openssh-client",
    "patch",
    "procps",
    "python3",
    "python3-pip",
    "python3-venv",
    "ripgrep",
    "tmux",
    "unzip",
    "wget",
    "xz-utils",
    "zip",
];

const INNER: &str = include_str!("template/inner.sh");
const OUTER: &str = include_str!("template/outer.sh");
const IMAGE: &str = "base.erofs";
/// Changes whenever the same recipe would give another image.
const BUILDER: &[u8] = b"base-1";
/// Counts the refreshes asked for: part of the key.
const REFRESHES: &str = "base-refreshes";
/// Lines that a whole build writes, about: Debian 12.
const EXPECTED_LINES: u64 = 2_900;

const NEEDS: [Need; 3] = [
    Need {
        program: "mmdebstrap",
        package: "mmdebstrap",
        why: "builds the base template",
    },
    Need {
        program: "mkfs.erofs",
        package: "erofs-utils",
        why: "makes read-only images",
    },
    Need {
        program: "apt-get",
        package: "apt",
        why: "names the archive of this host",
    },
];

/// The base root of sandboxes.
#[derive(Clone, Debug)]
pub struct Base {
    /// An uncompressed EROFS image.
    pub image: Artifact,
    /// When it was built: its packages are as old.
    pub built: Option<SystemTime>,
}

/// The base root for this host, built if there is none.
///
/// # Errors
/// [`Error::MissingPackages`], [`Error::Namespaces`] with the cure, or
/// [`Error::Program`] with the last lines of the build.
pub fn base(cache: &Cache, host: &Host, progress: &dyn Progress) -> Result<Base, Error> {
    if let Some(base) = present_base(cache)? {
        return Ok(base);
    }
    let missing = missing_for_base(cache, host)?;
    if !missing.is_empty() {
        return Err(Error::MissingPackages(missing));
    }
    let archive = Archive::of_host()?;
    let name = entry_name(cache)?;
    let image = cache.make(&name, progress, |place| {
        let work = place.work()?;
        let sources = work.join("sources.list");
        if fs::write(&sources, archive.lines.join("\n")).is_err() {
            // An earlier attempt left the directory to its build identities.
            remove_leftovers(work)?;
            fs::write(&sources, archive.lines.join("\n"))
                .map_err(Error::file("write", &sources))?;
        }
        build(host, work, &archive, progress)?;
        let built = work.join(IMAGE);
        fs::rename(&built, place.entry.join(IMAGE)).map_err(Error::file("store", &built))
    })?;
    Ok(with_age(image))
}

/// The base root that [`base`] would return without building, if any.
///
/// # Errors
/// [`Error::File`] if the cache cannot be read.
pub fn present_base(cache: &Cache) -> Result<Option<Base>, Error> {
    Ok(cache.find(&entry_name(cache)?)?.map(with_age))
}

/// What this host lacks to build a base root; empty if none has to be built.
///
/// # Errors
/// As [`present_base`].
pub fn missing_for_base(cache: &Cache, host: &Host) -> Result<Vec<MissingPackage>, Error> {
    if present_base(cache)?.is_some() {
        return Ok(Vec::new());
    }
    let mut list = missing(&NEEDS);
    list.extend(namespace::missing_for(host));
    Ok(list)
}

/// Makes the next [`base`] build a root from today's packages. Sandboxes
/// that exist keep theirs.
///
/// # Errors
/// [`Error::File`] if the cache cannot be written.
pub fn refresh_base(cache: &Cache) -> Result<(), Error> {
    let next = refreshes(cache).saturating_add(1);
    write_atomically(&cache.root().join(REFRESHES), next.to_string().as_bytes())
}

fn refreshes(cache: &Cache) -> u64 {
    let text = fs::read_to_string(cache.root().join(REFRESHES)).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// The key is the recipe, the distribution's release and the number of
/// refreshes; not the package versions, which would make a new root at each
/// upload to the archive.
pub(crate) fn entry_name(cache: &Cache) -> Result<EntryName, Error> {
    let path = Path::new("/etc/os-release");
    let os_release = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let release: String = os_release
        .lines()
        .filter(|line| line.starts_with("ID=") || line.starts_with("VERSION_CODENAME="))
        .collect();
    let recipe = hex(&Sha256::digest(
        [INNER, OUTER, &PACKAGES.join(" ")].join("\n"),
    ));
    let refreshes = refreshes(cache).to_le_bytes();
    let key = Key::of(&[BUILDER, recipe.as_bytes(), release.as_bytes(), &refreshes]);
    Ok(EntryName {
        kind: "base",
        key,
        payload: IMAGE,
        title: "the base template".to_owned(),
        // The packages, the tree and the image, each once.
        room: ByteSize::gib(2),
    })
}

fn with_age(image: Artifact) -> Base {
    let built = fs::metadata(&image.path)
        .and_then(|meta| meta.modified())
        .ok();
    Base { image, built }
}

fn build(
    host: &Host,
    work: &Path,
    archive: &Archive,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let mut args = vec![archive.suite.clone(), PACKAGES.join(" ")];
    args.extend(
        archive
            .options
            .iter()
            .map(|option| format!("--aptopt={option}")),
    );
    let script = namespace::Script {
        task: "build the base template",
        text: INNER,
        args: &args,
        result: IMAGE,
    };
    let mut lines = 0;
    let step = format!(
        "build base template ({} {})",
        archive.distribution, archive.suite
    );
    namespace::run(host, work, &script, progress, &mut |_| {
        lines += 1;
        progress.step(&step, lines, EXPECTED_LINES.max(lines + 1));
    })?;
    progress.step(&step, lines, lines);
    Ok(())
}
