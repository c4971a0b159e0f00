//! Fetches a package by its ecosystem's own client, which sees nothing of
//! the host but programs, trust store and resolver.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::{Mode, OFlags};
use sbx_spec::ByteSize;
use sha2::{Digest, Sha512};

use super::NpmPackage;
use crate::cache::{bytes_on_disk, make_directory, remove_tree};
use crate::command::Tool;
use crate::error::Error;
use crate::host::Host;
use crate::progress::{Progress, Silent};

/// The identity of the client when the caller is root: it owns nothing on
/// the host. Outside the range of a template build.
const CLIENT_ID: u32 = 1_899_999_999;

/// Trust store of the host; npm brings its own, which lacks the roots that
/// the host was given.
const TRUST_STORE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Read-only files of the host that the client may see, where they are.
const VISIBLE: [&str; 8] = [
    "/etc/ssl",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/npmrc",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/usr/local/share/ca-certificates",
];

/// Settings of the user's npm that say where the registry is and how it is
/// reached. Nothing else of it is copied.
const NPM_SETTINGS: [&str; 8] = [
    "registry",
    "cafile",
    "ca",
    "proxy",
    "https-proxy",
    "noproxy",
    "strict-ssl",
    "maxsockets",
];

/// Room of the client's temporary files, which are in memory.
const TEMPORARY: &str = "67108864";

/// What the client may write for a package: the archive, the copy in its
/// cache, one on the way, and what the registry says of the package.
fn most(npm: &NpmPackage) -> u64 {
    npm.size.saturating_mul(4).saturating_add(64 << 20)
}

/// The package's archive in `work`, checked against the pin.
pub(super) fn fetch(
    npm: &NpmPackage,
    host: &Host,
    work: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, Error> {
    let archive = work.join("package.tgz");
    if archive.exists() && verify(npm, &archive).is_ok() {
        return Ok(archive);
    }
    let room = work.join("room");
    remove_tree(&room)?;
    make_directory(&room)?;
    let fetched = fetch_into(npm, host, &room, &archive, progress);
    // Whatever the client left: it has the user's keys, and may be large.
    let _ = remove_tree(&room);
    fetched.map(|()| archive)
}

fn fetch_into(
    npm: &NpmPackage,
    host: &Host,
    room: &Path,
    archive: &Path,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let settings = npm_settings(npm, host);
    let rc = room.join(".npmrc");
    fs::write(&rc, settings).map_err(Error::file("write", &rc))?;
    if host.is_root() {
        for path in [room, &rc] {
            chown(path, Some(CLIENT_ID), Some(CLIENT_ID)).map_err(Error::file("give", path))?;
        }
    }
    check(host)?;
    let growing = Growing {
        progress,
        room,
        npm,
        too_much: AtomicBool::new(false),
    };
    growing.hold(client(npm, host, room))?;
    progress.step(&growing.name(), npm.size, npm.size);

    let made = made_archive(room)?;
    verify(npm, &made)?;
    fs::rename(&made, archive).map_err(Error::file("store", &made))
}

/// The client in its room: own namespaces, an empty root with /usr and the
/// few files of `VISIBLE`, the network of the host, one writable directory.
fn client(npm: &NpmPackage, host: &Host, room: &Path) -> Tool {
    let mut tool = boxed(host, &format!("fetch {}", npm.package));
    for path in VISIBLE {
        tool = show(tool, path);
    }
    for (name, value) in host.client_env() {
        if value.starts_with('/') {
            tool = show(tool, value);
        }
        tool = tool.args(["--setenv", name, value]);
    }
    let tool = tool
        .arg("--bind")
        .arg(room)
        .args(["/room", "--chdir", "/room"])
        .args(["--setenv", "HOME", "/room"])
        .args(["--setenv", "PATH", "/usr/bin:/bin"])
        .args(["--setenv", "npm_config_update_notifier", "false"])
        // These are in memory too, and have no bound.
        .args(["--remount-ro", "/", "--remount-ro", "/dev", "--"]);
    drop_identity(tool, host)
        .args([
            "npm",
            "pack",
            "--ignore-scripts",
            "--loglevel=error",
            "--pack-destination=/room",
        ])
        .arg(format!("{}@{}", npm.package, npm.version))
}

/// Binds a file or directory read-only at its own path. The directories
/// above it would otherwise be root's alone.
fn show(mut tool: Tool, path: &str) -> Tool {
    let above: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
    for directory in above.into_iter().rev().filter(|dir| dir.parent().is_some()) {
        if !directory.starts_with("/usr") {
            tool = tool.args(["--perms", "0755", "--dir"]).arg(directory);
        }
    }
    tool.args(["--ro-bind-try", path, path])
}

/// The walls, without what is inside.
fn boxed(host: &Host, task: &str) -> Tool {
    let tool = Tool::new("bwrap", task).args([
        "--die-with-parent",
        "--new-session",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--clearenv",
        "--ro-bind",
        "/usr",
        "/usr",
        "--symlink",
        "usr/bin",
        "/bin",
        "--symlink",
        "usr/sbin",
        "/sbin",
        "--symlink",
        "usr/lib",
        "/lib",
        "--symlink",
        "usr/lib64",
        "/lib64",
        "--dev",
        "/dev",
        "--proc",
        "/proc",
        "--perms",
        "1777",
        "--size",
        TEMPORARY,
        "--tmpfs",
        "/tmp",
    ]);
    if !host.is_root() {
        return tool.arg("--unshare-user");
    }
    // Root needs no user namespace to build the room; inside it becomes a
    // user without a name instead, since root mapped to another number in a
    // namespace would still own root's files.
    tool.args([
        "--cap-add",
        "CAP_SETUID",
        "--cap-add",
        "CAP_SETGID",
        "--cap-add",
        "CAP_SETPCAP",
    ])
}

fn drop_identity(tool: Tool, host: &Host) -> Tool {
    if !host.is_root() {
        return tool;
    }
    let (user, group) = (
        format!("--reuid={CLIENT_ID}"),
        format!("--regid={CLIENT_ID}"),
    );
    tool.args([
        "setpriv",
        &user,
        &group,
        "--clear-groups",
        "--bounding-set=-all",
    ])
    .args(["--inh-caps=-all", "--no-new-privs", "--"])
}

/// Says plainly what the host refuses, before the client fails on it.
fn check(host: &Host) -> Result<(), Error> {
    let tool = drop_identity(boxed(host, "make a build sandbox").arg("--"), host).arg("true");
    let tried = tool.finish(&Silent, &mut |_| {})?;
    if tried.status.success() {
        return Ok(());
    }
    Err(Error::Namespaces {
        reason: tried.tail.join("; "),
    })
}

/// The settings for the client: where the registry is, as the user has it.
fn npm_settings(npm: &NpmPackage, host: &Host) -> String {
    let own = host.home.as_ref().map(|home| home.join(".npmrc"));
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    let text = own.as_deref().map(read).unwrap_or_default();
    let global = read(Path::new("/etc/npmrc"));
    let mut out = settings_for(npm, &text, &global);
    let has_cafile = [&text, &global]
        .iter()
        .any(|text| settings(text).any(|(name, ..)| name == "cafile"));
    if !has_cafile && Path::new(TRUST_STORE).exists() {
        out.push_str("cafile=");
        out.push_str(TRUST_STORE);
        out.push('\n');
    }
    out
}

/// The lines of the user's settings that the client needs for this package.
///
/// "//host/path/:_authToken" is how a private registry is entered; only what
/// enters the registry of this package goes along.
fn settings_for(npm: &NpmPackage, own: &str, global: &str) -> String {
    let scope = npm.package.split('/').next().unwrap_or_default();
    let scoped = format!("{scope}:registry");
    let value_of = |wanted: &str| {
        [own, global].iter().find_map(|text| {
            settings(text)
                .filter(|(name, ..)| *name == wanted)
                .last()
                .map(|(_, value, _)| value)
        })
    };
    // Where none is set it is the client's own, which asks for no key.
    let registry = value_of(&scoped)
        .or_else(|| value_of("registry"))
        .map_or("", address_of);
    let mut out = String::new();
    for (name, _, line) in settings(own) {
        if NPM_SETTINGS.contains(&name) || name == scoped || enters(name, registry) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// Name, value and whole line of each setting. Values may be quoted.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.lines().filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim(), value.trim().trim_matches(['"', '\'']), line))
    })
}

/// `https://host/path/` as `host/path`: what the client looks keys up by.
fn address_of(registry: &str) -> &str {
    let rest = registry.split_once("//").map_or(registry, |(_, rest)| rest);
    rest.trim_end_matches('/')
}

/// Whether a setting `//host/path/:key` is for `registry` or a place that it
/// is below.
fn enters(name: &str, registry: &str) -> bool {
    let Some((place, _)) = name
        .strip_prefix("//")
        .and_then(|rest| rest.rsplit_once(':'))
    else {
        return false;
    };
    let place = place.trim_end_matches('/');
    !place.is_empty()
        && registry
            .strip_prefix(place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The one archive that the client left.
fn made_archive(room: &Path) -> Result<PathBuf, Error> {
    let list = fs::read_dir(room).map_err(Error::file("list", room))?;
    let mut archives = list
        .flatten()
        .map(|item| item.path())
        .filter(|path| path.extension() == Some("tgz".as_ref()));
    match (archives.next(), archives.next()) {
        (Some(path), None) => Ok(path),
        _ => Err(Error::form("what npm left", "it is not one archive")),
    }
}

/// Compares the archive's size and SHA-512 with the pin. It was written by
/// the client: only a regular file is read, and no more of it than pinned.
pub(super) fn verify(npm: &NpmPackage, archive: &Path) -> Result<(), Error> {
    let what = format!("{} {}", npm.package, npm.version);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let fd =
        rustix::fs::open(archive, flags, Mode::empty()).map_err(Error::errno("open", archive))?;
    let file = fs::File::from(fd);
    let meta = file.metadata().map_err(Error::file("look at", archive))?;
    if !meta.is_file() || meta.len() != npm.size {
        let (expected, found) = (
            format!("{} bytes", npm.size),
            format!("{} bytes", meta.len()),
        );
        return Err(Error::Integrity {
            what,
            expected,
            found,
        });
    }
    let mut hash = Sha512::new();
    let mut reader = file.take(npm.size);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = reader
            .read(&mut buffer)
            .map_err(Error::file("read", archive))?;
        let Some(chunk) = buffer.get(..n).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        hash.update(chunk);
    }
    let found = format!("sha512-{}", STANDARD.encode(hash.finalize()));
    if found != npm.integrity {
        return Err(Error::Integrity {
            what,
            expected: npm.integrity.clone(),
            found,
        });
    }
    fs::set_permissions(archive, fs::Permissions::from_mode(0o400))
        .map_err(Error::file("protect", archive))
}

/// The client says nothing while it fetches; the bytes in its room do.
struct Growing<'a> {
    progress: &'a dyn Progress,
    room: &'a Path,
    npm: &'a NpmPackage,
    too_much: AtomicBool,
}

impl Growing<'_> {
    /// Runs the client until it ends or has written more than it may.
    fn hold(&self, client: Tool) -> Result<(), Error> {
        let ended = client.run(self, &mut |_| {});
        // What is beyond the bound by its end is no package of ours either.
        let too_much = bytes_on_disk(self.room) > most(self.npm);
        if too_much || self.too_much.load(Ordering::Relaxed) {
            let most = ByteSize::bytes(most(self.npm)).about();
            let reason = format!("it is more than {most}");
            return Err(Error::form("what npm wrote", reason));
        }
        ended
    }

    fn name(&self) -> String {
        format!("fetch {} {}", self.npm.package, self.npm.version)
    }
}

impl Progress for Growing<'_> {
    fn step(&self, name: &str, done: u64, total: u64) {
        self.progress.step(name, done, total);
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }

    fn cancelled(&self) -> bool {
        let written = bytes_on_disk(self.room);
        let done = written.min(self.npm.size.saturating_sub(1));
        self.progress.step(&self.name(), done, self.npm.size);
        if written > most(self.npm) {
            self.too_much.store(true, Ordering::Relaxed);
            return true;
        }
        self.progress.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NPMRC: &str = "registry=https://npm.example/all/\n\
        @anthropic-ai:registry = \"https://agents.example:8443/npm/\"\n\
        //agents.example:8443/npm/:_authToken=ours\n\
        //agents.example:8443/:username=also-ours\n\
        //agents.example/npm/:_authToken=other-port\n\
        //agents.example:8443/npm-private/:_authToken=other-path\n\
        //npm.example/all/:_authToken=other-registry\n\
        //ghost.example/:_password=elsewhere\n\
        _authToken=everywhere\n\
        email=me@example\n\
        proxy=http://proxy.example:3128\n";

    fn package(name: &str) -> NpmPackage {
        NpmPackage {
            package: name.to_owned(),
            version: "1.0.0".to_owned(),
            integrity: String::new(),
            size: 1,
            program: String::new(),
            install_as: String::new(),
        }
    }

    /// Runs a script in place of the client, in a room of its own.
    fn write_as_client(script: &str) -> Result<(), Error> {
        let dir = tempfile::tempdir().unwrap();
        let growing = Growing {
            progress: &Silent,
            room: dir.path(),
            npm: &package("x"),
            too_much: AtomicBool::new(false),
        };
        let script = Tool::new("sh", "write").args(["-c", script]);
        growing.hold(script.directory(dir.path()))
    }

    #[test]
    fn a_client_that_writes_without_end_is_ended() {
        let error = write_as_client("exec cat /dev/zero >x").unwrap_err();
        assert!(error.to_string().contains("more than 64m"), "{error}");
        let error = write_as_client("head -c 70m /dev/zero >x").unwrap_err();
        assert!(error.to_string().contains("more than 64m"), "{error}");
        write_as_client("head -c 60m /dev/zero >x").unwrap();
    }

    #[test]
    fn keys_of_other_registries_stay_outside() {
        let out = settings_for(&package("@anthropic-ai/x"), NPMRC, "");
        let names: Vec<&str> = settings(&out).map(|(name, ..)| name).collect();
        assert_eq!(
            names,
            [
                "registry",
                "@anthropic-ai:registry",
                "//agents.example:8443/npm/:_authToken",
                "//agents.example:8443/:username",
                "proxy",
            ]
        );
    }

    #[test]
    fn the_key_of_the_registry_in_use_goes_along() {
        let out = settings_for(&package("plain"), NPMRC, "");
        assert!(out.contains("other-registry"), "{out}");
        assert!(!out.contains("ours"), "{out}");
    }

    #[test]
    fn a_registry_of_the_whole_host_counts() {
        let own = "//host.example/:_authToken=key\n//b.example/:_authToken=other\n";
        let out = settings_for(&package("x"), own, "registry=https://host.example\n");
        assert_eq!(out, "//host.example/:_authToken=key\n");
    }

    #[test]
    fn no_key_goes_to_the_clients_own_registry() {
        let own = "//host.example/:_authToken=key\n//:_authToken=key\n";
        assert_eq!(settings_for(&package("x"), own, ""), "");
    }
}
