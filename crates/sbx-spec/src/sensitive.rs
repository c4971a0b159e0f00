//! Places of a host that no sandbox sees unless the user names that very
//! path: keys, other programs' control sockets, the system, our own state.
//!
//! Pure: whoever makes the list follows the links of the host and adds what
//! they lead to ([`SensitivePlaces::add`]).

use std::fmt;
use std::path::{Path, PathBuf};

/// Below the home directory: credentials, and what the host's own programs
/// execute or obey at their next start.
const HOME: &[&str] = &[
    ".ssh",
    ".aws",
    ".azure",
    ".kube",
    ".gnupg",
    ".docker",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".gitconfig",
    ".git-credentials",
    ".config/git",
    ".config/gh",
    ".config/gcloud",
    ".config/op",
    ".config/containers",
    ".config/systemd",
    ".config/autostart",
    ".config/google-chrome",
    ".config/chromium",
    ".mozilla",
    ".password-store",
    ".local/share/keyrings",
    ".vault-token",
    ".terraform.d",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".claude",
    ".claude.json",
    ".codex",
    ".gemini",
    ".bashrc",
    ".bash_profile",
    ".profile",
    ".zshrc",
    ".zshenv",
    ".zprofile",
];

/// Of the system: the whole tree.
const SYSTEM_TREES: &[&str] = &[
    "/proc",
    "/sys",
    "/dev",
    "/boot",
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/ssh",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/run/docker.sock",
    "/run/docker",
    "/run/containerd",
    "/run/podman",
    "/run/crio",
    "/run/dbus",
    "/run/systemd",
    "/run/libvirt",
    "/run/snapd.socket",
    "/var/run/docker.sock",
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
];

/// Of the system: the directory itself and what holds it, while something
/// below it may be mounted.
const SYSTEM_DIRECTORIES: &[&str] = &["/", "/etc", "/run", "/run/user", "/var/run", "/home"];

/// Why a place is in the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The root of the host.
    Root,
    /// The user's home directory.
    Home,
    /// Keys and settings in the home directory.
    Keys,
    /// A part of the host's system.
    System,
    /// Our own files.
    Own,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "the host's root directory",
            Self::Home => "the home directory",
            Self::Keys => "keys or start-up files of the host's user",
            Self::System => "a part of the host's system",
            Self::Own => "sbx's own files",
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    path: PathBuf,
    why: Why,
    /// Whether what lies below is meant too.
    tree: bool,
}

/// The places of one host and user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SensitivePlaces(Vec<Place>);

/// A path leads to a sensitive place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sensitive {
    /// The place.
    pub place: PathBuf,
    /// Why it is one.
    pub why: Why,
    /// Whether the path only holds the place, rather than being or lying
    /// in it.
    pub holds: bool,
}

impl fmt::Display for Sensitive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.holds {
            write!(f, "it holds `{}`, {}", self.place.display(), self.why)
        } else if self.why == Why::Root || self.why == Why::Home {
            write!(f, "it is {}", self.why)
        } else {
            write!(f, "`{}` is {}", self.place.display(), self.why)
        }
    }
}

impl std::error::Error for Sensitive {}

impl SensitivePlaces {
    /// The places for a user with this home directory and number, and these
    /// directories of ours.
    #[must_use]
    pub fn new(home: &Path, uid: u32, own: &[&Path]) -> Self {
        let mut places = Self(Vec::new());
        for path in SYSTEM_TREES {
            places.add(PathBuf::from(path), Why::System, true);
        }
        for path in SYSTEM_DIRECTORIES {
            let why = if *path == "/" { Why::Root } else { Why::System };
            places.add(PathBuf::from(path), why, false);
        }
        places.add(format!("/run/user/{uid}").into(), Why::System, false);
        for name in [
            "bus",
            "docker.sock",
            "podman",
            "gnupg",
            "keyring",
            "systemd",
        ] {
            places.add(format!("/run/user/{uid}/{name}").into(), Why::System, true);
        }
        for path in HOME {
            places.add(home.join(path), Why::Keys, true);
        }
        places.add(home.to_owned(), Why::Home, false);
        for path in own {
            places.add((*path).to_owned(), Why::Own, true);
        }
        places
    }

    /// Adds a place; `tree` if what lies below is meant too.
    pub fn add(&mut self, path: PathBuf, why: Why, tree: bool) {
        if !self.0.iter().any(|place| place.path == path) {
            self.0.push(Place { path, why, tree });
        }
    }

    /// Adds for each place what `follow` says it leads to, for a host on
    /// which it is a link.
    pub fn follow_links(&mut self, follow: impl Fn(&Path) -> Option<PathBuf>) {
        for place in self.0.clone() {
            if let Some(path) = follow(&place.path) {
                self.add(path, place.why, place.tree);
            }
        }
    }

    /// Looks for a place that `path` (absolute, links followed) is, holds or
    /// lies in. The nearest reason is given: being one before holding one.
    ///
    /// # Errors
    /// [`Sensitive`] names the place.
    pub fn check(&self, path: &Path) -> Result<(), Sensitive> {
        let found = |place: &Place, holds| {
            Err(Sensitive {
                place: place.path.clone(),
                why: place.why,
                holds,
            })
        };
        if let Some(place) = self.0.iter().find(|place| place.path == path) {
            return found(place, false);
        }
        if let Some(place) = self
            .0
            .iter()
            .find(|place| place.tree && path.starts_with(&place.path))
        {
            return found(place, false);
        }
        let inner = self.0.iter().filter(|place| place.path.starts_with(path));
        match inner.min_by_key(|place| place.path.components().count()) {
            Some(place) => found(place, true),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> SensitivePlaces {
        SensitivePlaces::new(
            Path::new("/home/u"),
            1000,
            &[Path::new("/home/u/.local/state/sbx")],
        )
    }

    fn why(path: &str) -> Option<String> {
        places()
            .check(Path::new(path))
            .err()
            .map(|found| found.to_string())
    }

    #[test]
    fn ordinary_directories_may_be_mounted() {
        for path in [
            "/home/u/src/app",
            "/srv/data",
            "/tmp/x",
            "/etc/ssl/certs",
            "/home/u/.cargo/bin",
        ] {
            assert_eq!(why(path), None, "{path}");
        }
    }

    #[test]
    fn keys_are_refused_themselves_and_below() {
        for path in [
            "/home/u/.ssh",
            "/home/u/.ssh/id_ed25519",
            "/home/u/.aws/credentials",
        ] {
            assert!(
                why(path).is_some_and(|text| text.contains("keys")),
                "{path}"
            );
        }
    }

    #[test]
    fn what_holds_a_place_is_refused_with_it() {
        assert_eq!(
            why("/home/u/.config").unwrap(),
            "it holds `/home/u/.config/git`, keys or start-up files of the host's user"
        );
        for path in [
            "/",
            "/home",
            "/home/u",
            "/run",
            "/var",
            "/var/lib",
            "/run/user/1000",
        ] {
            assert!(why(path).is_some(), "{path}");
        }
        assert_eq!(why("/home/u").unwrap(), "it is the home directory");
        assert_eq!(why("/").unwrap(), "it is the host's root directory");
    }

    #[test]
    fn sockets_of_container_engines_are_refused() {
        for path in [
            "/var/run/docker.sock",
            "/run/docker.sock",
            "/run/user/1000/podman/podman.sock",
        ] {
            assert!(why(path).is_some(), "{path}");
        }
    }

    #[test]
    fn our_own_state_is_refused() {
        assert!(
            why("/home/u/.local/state/sbx/sandboxes/x")
                .unwrap()
                .contains("own files")
        );
        assert!(why("/home/u/.local").unwrap().contains("holds"));
        assert_eq!(why("/home/u/.local/state/other"), None);
    }

    #[test]
    fn a_place_that_is_a_link_is_refused_where_it_leads() {
        let mut places = places();
        assert!(places.check(Path::new("/secure/ssh")).is_ok());
        places.follow_links(|path| path.ends_with(".ssh").then(|| PathBuf::from("/secure/ssh")));
        assert!(places.check(Path::new("/secure/ssh/id")).is_err());
    }
}
