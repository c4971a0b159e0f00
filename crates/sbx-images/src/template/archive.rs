//! The host's own package archive, as apt knows it.

use std::fs;
use std::path::Path;

use crate::command::Tool;
use crate::error::Error;

/// Bounds on what apt says of itself.
const MAX_OUTPUT: u64 = 1 << 20;

/// Where the packages of a base root come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Archive {
    /// The distribution: `debian`, `ubuntu`.
    pub(super) distribution: String,
    /// Its code name, such as `bookworm`.
    pub(super) suite: String,
    /// One `deb` line for each part of the archive.
    pub(super) lines: Vec<String>,
    /// Options of this host's apt that decide how the archive is reached.
    pub(super) options: Vec<String>,
}

impl Archive {
    /// The archive that this host installs its own packages from.
    pub(super) fn of_host() -> Result<Self, Error> {
        let path = Path::new("/etc/os-release");
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        let (distribution, suite) = distribution(&text)?;
        let format = "--format=$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)";
        let targets = Tool::new("apt-get", "ask apt for its archives")
            .args(["indextargets", format, "Created-By: Packages"])
            .output(MAX_OUTPUT)?;
        let keyring = format!("/usr/share/keyrings/{distribution}-archive-keyring.gpg");
        let keyring = Some(keyring).filter(|path| Path::new(path).exists());
        let targets = String::from_utf8_lossy(&targets);
        let lines = lines(&targets, &distribution, &suite, keyring.as_deref());
        if lines.is_empty() {
            let reason = format!("apt has no archive of {distribution} {suite} configured");
            return Err(Error::form("the host's package sources", reason));
        }
        let dump = Tool::new("apt-config", "ask apt for its proxy")
            .args(["dump", "--format", "%F \"%v\";%n", "Acquire"])
            .output(MAX_OUTPUT)?;
        let options = options(&String::from_utf8_lossy(&dump));
        Ok(Self {
            distribution,
            suite,
            lines,
            options,
        })
    }
}

fn distribution(os_release: &str) -> Result<(String, String), Error> {
    let field = |name: &str| {
        let line = os_release
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.map(|value| value.trim_matches(['"', '\'']).to_owned())
            .filter(|v| is_word(v))
    };
    match (field("ID"), field("VERSION_CODENAME")) {
        (Some(id), Some(suite)) if id == "debian" || id == "ubuntu" => Ok((id, suite)),
        _ => Err(Error::form(
            "/etc/os-release",
            "templates are built on Debian and Ubuntu releases only",
        )),
    }
}

/// `deb` lines for the suite, its updates and its security fixes; archives
/// of others that the host also uses stay out.
fn lines(targets: &str, distribution: &str, suite: &str, keyring: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    for target in targets.lines() {
        let fields: Vec<&str> = target.split('|').collect();
        let &[uri, release, component, origin] = fields.as_slice() else {
            continue;
        };
        let same_suite = release
            .strip_prefix(suite)
            .is_some_and(|rest| matches!(rest, "" | "-updates" | "-security"));
        // Without downloaded lists apt leaves the origin unexpanded.
        let same_origin = origin.eq_ignore_ascii_case(distribution) || origin.starts_with("$(");
        let clean = |text: &str| !text.contains(|c: char| c.is_whitespace() || c.is_control());
        if !same_suite || !same_origin || ![uri, release, component].into_iter().all(clean) {
            continue;
        }
        let signed = keyring.map_or(String::new(), |path| format!("[signed-by={path}] "));
        let line = format!("deb {signed}{uri} {release} {component}");
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// Proxies and certificate files of apt's configuration.
fn options(dump: &str) -> Vec<String> {
    let wanted = |line: &&str| {
        let name = line.split(' ').next().unwrap_or_default();
        let scheme = name.starts_with("Acquire::http::") || name.starts_with("Acquire::https::");
        scheme && (name.contains("::Proxy") || name.ends_with("::CaInfo")) && !line.contains('\'')
    };
    dump.lines().filter(wanted).map(str::to_owned).collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_and_its_fixes_are_taken_and_foreign_archives_are_not() {
        let targets = "http://a.example/debian/|bookworm|main|Debian\n\
                       http://a.example/debian/|bookworm|contrib|Debian\n\
                       http://a.example/debian/|bookworm-backports|main|Debian\n\
                       http://a.example/security/|bookworm-security|main|$(ORIGIN)\n\
                       http://tools.example/apt/|bookworm|main|Tools Inc\n\
                       http://a.example/evil dir/|bookworm|main|Debian\n\
                       http://a.example/debian/|bookworm|main|Debian\n";
        assert_eq!(
            lines(targets, "debian", "bookworm", Some("/k.gpg")),
            [
                "deb [signed-by=/k.gpg] http://a.example/debian/ bookworm main",
                "deb [signed-by=/k.gpg] http://a.example/debian/ bookworm contrib",
                "deb [signed-by=/k.gpg] http://a.example/security/ bookworm-security main",
            ]
        );
    }

    #[test]
    fn other_distributions_are_refused() {
        let ubuntu = "NAME=\"Ubuntu\"\nID=ubuntu\nVERSION_CODENAME=noble\n";
        assert_eq!(
            distribution(ubuntu).unwrap(),
            ("ubuntu".to_owned(), "noble".to_owned())
        );
        assert!(distribution("ID=fedora\nVERSION_CODENAME=\"\"\n").is_err());
        assert!(distribution("ID=debian\nVERSION_CODENAME=\"a b\"\n").is_err());
    }

    #[test]
    fn only_the_way_to_the_archive_is_taken_from_the_configuration() {
        let dump = "Acquire::http::Proxy \"http://p.example:3128\";\n\
                    Acquire::Languages \"none\";\n\
                    Acquire::https::CaInfo \"/etc/ca.pem\";\n";
        assert_eq!(options(dump).len(), 2);
    }
}
