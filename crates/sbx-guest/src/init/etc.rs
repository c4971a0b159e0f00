//! Files of /etc that follow from the set-up, written anew at each start.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use rustix::fs::Mode;
use sbx_proto::link::{NetSetup, Setup};

use super::Warnings;
use super::early::make_directory;
use crate::error::{Attempt as _, Error, Result};
use crate::launch::path::profile;
use crate::serve;

/// Read first of its directory, so that what is installed inside may add to it.
const PROFILE: &str = "/etc/profile.d/00-sbx.sh";
/// First line of a file that the next start may remove.
const OURS: &[u8; 31] = b"# Written by sbx at each start\n";

/// Writes them all.
pub(super) fn write(setup: &Setup, warnings: &mut Warnings) {
    let hostname = format!("{}\n", setup.hostname);
    for (path, text) in [
        ("/etc/hostname", hostname),
        ("/etc/hosts", hosts(&setup.hostname, setup.network.as_ref())),
        ("/etc/resolv.conf", resolv_conf(setup.network.as_ref())),
    ] {
        warnings.note(replace(Path::new(path), text.as_bytes(), 0o644));
    }
    warnings.note(write_profile(setup));
    warnings.note(write_git_config(
        Path::new("/etc/gitconfig"),
        setup.git_config.as_ref().map(|text| &text[..]),
    ));
    if let Some(name) = &setup.timezone {
        warnings.note(link_timezone(name));
    }
}

/// Writes git's system-wide file, or removes the one of an earlier start; one
/// that was put there inside stays until the host has something to say.
fn write_git_config(path: &Path, content: Option<&[u8]>) -> Result<()> {
    if let Some(content) = content {
        return replace(path, &[OURS, content].concat(), 0o644);
    }
    let is_file = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let mut start = [0; OURS.len()];
    let is_ours = is_file
        && File::open(path)
            .and_then(|mut file| file.read_exact(&mut start))
            .is_ok()
        && start == *OURS;
    if is_ours {
        std::fs::remove_file(path).attempt(format!("remove `{}`", path.display()))?;
    }
    Ok(())
}

fn write_profile(setup: &Setup) -> Result<()> {
    make_directory(Path::new("/etc/profile.d"))?;
    let text = profile(&serve::context(setup));
    replace(Path::new(PROFILE), &text, 0o644)
}

/// Makes `path` a file with this content and mode, whatever it was; does
/// nothing if it already is.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let found = path.symlink_metadata();
    let is_alike = found.is_ok_and(|meta| meta.is_file() && meta.len() == length);
    if is_alike && std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let what = || format!("write `{}`", path.display());
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".sbx");
    let temporary = Path::new(&temporary);
    let _ = std::fs::remove_file(temporary);
    std::fs::write(temporary, content).attempt(what())?;
    rustix::fs::chmod(temporary, Mode::from_raw_mode(mode)).attempt(what())?;
    match std::fs::rename(temporary, path) {
        // An engine has mounted it, and nothing else can stand there.
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
            let _ = std::fs::remove_file(temporary);
            std::fs::write(path, content).attempt(what())
        }
        renamed => renamed.attempt(what()),
    }
}

fn hosts(hostname: &str, network: Option<&NetSetup>) -> String {
    let mut text = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
    );
    for entry in network.into_iter().flat_map(|network| &network.hosts) {
        let _ = writeln!(text, "{}\t{}", entry.address, entry.names.join(" "));
    }
    text
}

fn resolv_conf(network: Option<&NetSetup>) -> String {
    let mut text = String::new();
    for server in network.into_iter().flat_map(|network| &network.dns) {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

fn link_timezone(name: &str) -> Result<()> {
    let what = format!("set the time zone `{name}`");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-/".contains(&byte);
    if name.is_empty() || name.starts_with('/') || !name.bytes().all(plain) {
        return Err(Error::new(what));
    }
    let target = format!("/usr/share/zoneinfo/{name}");
    let local = Path::new("/etc/localtime");
    if !Path::new(&target).is_file() {
        return Err(Error::new(format!("{what}: the template does not have it")));
    }
    if std::fs::read_link(local).is_ok_and(|old| old == Path::new(&target)) {
        return Ok(());
    }
    let _ = std::fs::remove_file(local);
    std::os::unix::fs::symlink(&target, local).attempt(&*what)?;
    replace(
        Path::new("/etc/timezone"),
        format!("{name}\n").as_bytes(),
        0o644,
    )
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use sbx_proto::link::HostEntry;

    use super::*;

    fn network() -> NetSetup {
        NetSetup {
            v4: Ipv4Addr::new(198, 19, 255, 2),
            v4_prefix: 24,
            v4_gateway: Ipv4Addr::new(198, 19, 255, 1),
            v6: Ipv6Addr::LOCALHOST,
            v6_prefix: 64,
            v6_gateway: Ipv6Addr::LOCALHOST,
            dns: vec![IpAddr::V4(Ipv4Addr::new(198, 19, 255, 1))],
            mtu: 1500,
            hosts: vec![HostEntry {
                address: IpAddr::V4(Ipv4Addr::new(198, 19, 255, 254)),
                names: vec!["host.sbx.internal".into(), "host.docker.internal".into()],
            }],
        }
    }

    #[test]
    fn hosts_names_the_host_and_itself() {
        let text = hosts("box", Some(&network()));
        assert!(text.contains("127.0.1.1\tbox\n"));
        assert!(text.contains("198.19.255.254\thost.sbx.internal host.docker.internal\n"));
        assert!(!hosts("box", None).contains("198."));
    }

    #[test]
    fn resolver_is_empty_without_a_network() {
        assert_eq!(resolv_conf(None), "");
        assert_eq!(resolv_conf(Some(&network())), "nameserver 198.19.255.1\n");
    }

    #[test]
    fn the_git_configuration_of_an_earlier_start_goes_when_the_host_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gitconfig");
        write_git_config(&path, Some(b"[user]\n\tname = A\n")).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.ends_with("[user]\n\tname = A\n"), "{text}");
        assert!(text.starts_with('#'), "{text}");
        write_git_config(&path, None).unwrap();
        assert!(!path.exists());
        write_git_config(&path, None).unwrap();
    }

    #[test]
    fn a_git_configuration_that_is_not_ours_stays_when_the_host_has_none() {
        let dir = tempfile::tempdir().unwrap();
        for own in ["[core]\n\tpager = less\n", "# Written by me\n", ""] {
            let path = dir.path().join("gitconfig");
            std::fs::write(&path, own).unwrap();
            write_git_config(&path, None).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
            write_git_config(&path, Some(b"x")).unwrap();
            assert_ne!(std::fs::read_to_string(&path).unwrap(), own);
        }
    }

    #[test]
    fn replace_puts_a_file_where_a_link_was() {
        let dir = tempfile::tempdir().unwrap();
        let (target, path) = (dir.path().join("t"), dir.path().join("p"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        replace(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(!path.is_symlink());
    }
}
