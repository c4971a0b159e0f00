//! The only place that reads the environment of the caller, and the only
//! one that starts a program for it (git, for two values).
//!
//! Owns: the list of variables, the four directories, what a session takes
//! over from the caller's terminal. Trusts the caller; never the workspace:
//! nothing here depends on the current directory.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sbx_engine::Directories;
use sbx_engine::command::{AskedGit, Caller, Code, Error, GitIdentity};
use sbx_spec::{EnvVar, SensitivePlaces};

use crate::registries::registries;

/// A variable of ours.
pub(crate) struct Variable {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it does, one line.
    pub(crate) help: &'static str,
}

/// Every variable that sbx obeys: the source of the help and of
/// `docs/cli.md`.
pub(crate) const VARIABLES: &[Variable] = &[
    Variable {
        name: "SBX_ISOLATION",
        help: "isolation of new sandboxes, before the configuration",
    },
    Variable {
        name: "SBX_CONFIG_DIR",
        help: "configuration, instead of $XDG_CONFIG_HOME/sbx",
    },
    Variable {
        name: "SBX_STATE_DIR",
        help: "sandboxes, instead of $XDG_STATE_HOME/sbx",
    },
    Variable {
        name: "SBX_CACHE_DIR",
        help: "kernels, images and agents, instead of $XDG_CACHE_HOME/sbx",
    },
    Variable {
        name: "SBX_RUNTIME_DIR",
        help: "sockets, instead of $XDG_RUNTIME_DIR/sbx",
    },
    Variable {
        name: "SBX_NO_INPUT",
        help: "never ask, as --no-input; any value but 0",
    },
    Variable {
        name: "SBX_LOG",
        help: "`debug` shows more of what goes wrong, as --debug",
    },
    Variable {
        name: "NO_COLOR",
        help: "no colours where --color says nothing",
    },
];

/// Longest value that a session takes over from the caller's terminal.
const MAX_TERMINAL_VALUE: usize = 128;

/// Variables of other programs: how the clients of package archives reach
/// them. They count where images are made, and never enter a sandbox.
const ARCHIVES: &[&str] = &[
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "NPM_CONFIG_USERCONFIG",
    "NPM_CONFIG_REGISTRY",
    "npm_config_registry",
    "npm_config_cafile",
    "PIP_INDEX_URL",
    "PIP_CERT",
];

/// The same: by which clients of container engines find theirs.
const ENGINES: &[&str] = &[
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_TLS",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "XDG_RUNTIME_DIR",
    // Of `ssh`, which leads to engines elsewhere.
    "PATH",
    "SSH_AUTH_SOCK",
];

/// A snapshot of the caller's environment, taken once.
#[derive(Clone, Default, Debug)]
pub(crate) struct Environment {
    vars: Vec<(OsString, OsString)>,
}

impl Environment {
    /// Takes the snapshot.
    #[expect(
        clippy::disallowed_methods,
        reason = "the environment is read here and nowhere else"
    )]
    pub(crate) fn read() -> Self {
        Self {
            vars: std::env::vars_os().collect(),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(vars: &[(&str, &str)]) -> Self {
        Self {
            vars: vars
                .iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }
    }

    /// The value of a variable; an empty one counts as absent.
    pub(crate) fn value(&self, name: &str) -> Option<&OsString> {
        let found = self.vars.iter().find(|(found, _)| found == name);
        found
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
    }

    /// The value of a variable as it stands, empty ones too.
    pub(crate) fn exact(&self, name: &str) -> Option<&OsString> {
        self.vars
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value)
    }

    /// A value that must be text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(|value| value.to_str())
    }

    /// Every variable that is text and says something.
    pub(crate) fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        let said = self.vars.iter().filter(|(_, value)| !value.is_empty());
        said.filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)))
    }

    /// Whether a switch is on: set, and not to `0`.
    pub(crate) fn switch(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value != "0")
    }

    /// Where our files are: our own variables, then the XDG ones, then their
    /// defaults. Relative values of XDG variables are ignored, as that
    /// specification says; relative ones of ours are an error.
    pub(crate) fn directories(&self, home: &Path) -> Result<Directories, Error> {
        let ours = |name: &str| match self.value(name) {
            Some(value) if Path::new(value).is_absolute() => Ok(Some(PathBuf::from(value))),
            Some(_) => Err(Error::new(
                Code::Config,
                format!("{name} is not an absolute path"),
            )),
            None => Ok(None),
        };
        let xdg = |name: &str, default: &str| {
            let set = self
                .value(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute());
            set.unwrap_or_else(|| home.join(default)).join("sbx")
        };
        let state = match ours("SBX_STATE_DIR")? {
            Some(path) => path,
            None => xdg("XDG_STATE_HOME", ".local/state"),
        };
        let runtime = match (ours("SBX_RUNTIME_DIR")?, self.value("XDG_RUNTIME_DIR")) {
            (Some(path), _) => path,
            (None, Some(path)) if Path::new(path).is_absolute() => PathBuf::from(path).join("sbx"),
            (None, _) => state.join("run"),
        };
        Ok(Directories {
            config: ours("SBX_CONFIG_DIR")?.unwrap_or_else(|| xdg("XDG_CONFIG_HOME", ".config")),
            cache: ours("SBX_CACHE_DIR")?.unwrap_or_else(|| xdg("XDG_CACHE_HOME", ".cache")),
            state,
            runtime,
        })
    }

    /// The caller's home directory: `HOME`, links followed.
    pub(crate) fn home(&self) -> Result<PathBuf, Error> {
        let home = self
            .value("HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let Some(home) = home else {
            return Err(
                Error::new(Code::Config, "HOME is not set to an absolute path")
                    .hint("type `HOME=/home/you sbx …`"),
            );
        };
        home.canonicalize().map_err(|source| {
            let message = format!("cannot use the home directory `{}`", home.display());
            Error::new(Code::Config, message).because(source)
        })
    }

    /// What a session takes over: terminal type and locale, printable ASCII
    /// of bounded length only.
    pub(crate) fn terminal(&self) -> Vec<EnvVar> {
        let taken = |name: &str| {
            matches!(name, "TERM" | "COLORTERM" | "LANG" | "LANGUAGE")
                || (name.starts_with("LC_") && sbx_spec::is_variable_name(name))
        };
        let plain = |value: &str| {
            !value.is_empty()
                && value.len() <= MAX_TERMINAL_VALUE
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_graphic() || byte == b' ')
        };
        let text = |(name, value): &(OsString, OsString)| {
            Some(EnvVar {
                name: name.to_str()?.to_owned(),
                value: value.to_str()?.to_owned(),
            })
        };
        let mut found: Vec<EnvVar> = self.vars.iter().filter_map(text).collect();
        found.retain(|var| taken(&var.name) && plain(&var.value));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found.truncate(32);
        found
    }

    /// The caller's time zone: `TZ`, else where `/etc/localtime` leads.
    pub(crate) fn timezone(&self) -> Option<String> {
        let below_zoneinfo = |path: &str| {
            path.split_once("zoneinfo/")
                .map_or(path.to_owned(), |(_, zone)| zone.to_owned())
        };
        let zone = match self.text("TZ") {
            Some(zone) => below_zoneinfo(zone.strip_prefix(':').unwrap_or(zone)),
            None => below_zoneinfo(std::fs::read_link("/etc/localtime").ok()?.to_str()?),
        };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "+-_/,.:<>".contains(c);
        let sound = !zone.is_empty() && zone.len() <= 64 && zone.chars().all(allowed);
        (sound && !zone.starts_with('/') && !zone.contains("..")).then_some(zone)
    }

    /// What the clients of package archives need, or of something else.
    fn those(&self, names: &[&str]) -> Vec<(String, String)> {
        let value = |name: &&str| Some(((*name).to_owned(), self.text(name)?.to_owned()));
        names.iter().filter_map(value).collect()
    }

    /// Everything the engine may know of who asks. `with_git` asks git for
    /// the user's name and address, which takes it a few milliseconds.
    pub(crate) fn caller(
        &self,
        home: PathBuf,
        directories: &Directories,
        with_git: bool,
    ) -> Result<Caller, Error> {
        let program = std::env::current_exe().map_err(|source| {
            Error::new(Code::Io, "cannot find the program `sbx` itself").because(source)
        })?;
        let uid = rustix::process::geteuid().as_raw();
        let git = with_git.then(|| self.ask_git(&home)).flatten();
        Ok(Caller {
            uid,
            gid: rustix::process::getegid().as_raw(),
            // A directory that is gone is only an error for who needs it.
            cwd: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            program,
            terminal: self.terminal(),
            timezone: self.timezone(),
            git: AskedGit::new(move || Some(parse_identity(&git?()?))),
            archives: self.those(ARCHIVES),
            engines: self.those(ENGINES),
            registries: registries(self, &home, Path::new("/etc")),
            sensitive: sensitive(&home, uid, directories),
            home,
        })
    }

    /// Name and address from the user's own git configuration, never from
    /// that of a repository: git runs in `/` with nothing of the caller's
    /// environment but where the configuration is.
    fn ask_git(&self, home: &Path) -> Option<impl FnOnce() -> Option<Vec<u8>> + Send + use<>> {
        let candidates = ["/usr/bin/git", "/usr/local/bin/git", "/bin/git"];
        let git = candidates.iter().find(|path| Path::new(path).is_file())?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the one program started for the caller"
        )]
        let mut command = Command::new(git);
        command
            .args(["config", "--global", "--includes", "--null", "--get-regexp"])
            .arg("^user\\.(name|email)$")
            .current_dir("/")
            .env_clear()
            .env("HOME", home)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if let Some(config) = self.value("XDG_CONFIG_HOME") {
            command.env("XDG_CONFIG_HOME", config);
        }
        bounded_output(command.spawn().ok()?)
    }
}

/// At most 64 KiB of what a program prints within two seconds, once it is asked for.
fn bounded_output(mut child: Child) -> Option<impl FnOnce() -> Option<Vec<u8>> + Send + use<>> {
    let stdout = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.take(64 << 10).read_to_end(&mut bytes);
        // Nobody listens any more once the time is up.
        let _ = sender.send(read.is_ok().then_some(bytes));
    });
    let end = Instant::now() + Duration::from_secs(2);
    Some(move || {
        let left = end.saturating_duration_since(Instant::now());
        let output = receiver.recv_timeout(left).ok().flatten();
        let _ = child.kill();
        let _ = child.wait();
        output
    })
}

/// Reads `key\nvalue\0` records; the last of a key counts, as git has it.
fn parse_identity(output: &[u8]) -> GitIdentity {
    let mut identity = GitIdentity {
        name: None,
        email: None,
    };
    for record in output.split(|byte| *byte == 0) {
        let Ok(record) = std::str::from_utf8(record) else {
            continue;
        };
        let Some((key, value)) = record.split_once('\n') else {
            continue;
        };
        let value = value.lines().next().unwrap_or_default().trim();
        let value = (!value.is_empty() && value.len() <= 256).then(|| value.to_owned());
        match key {
            "user.name" => identity.name = value,
            "user.email" => identity.email = value,
            _ => {}
        }
    }
    identity
}

/// What of this host no sandbox sees, with the links of this host followed.
fn sensitive(home: &Path, uid: u32, directories: &Directories) -> SensitivePlaces {
    let Directories {
        config,
        state,
        cache,
        runtime,
    } = directories;
    let mut places = SensitivePlaces::new(home, uid, &[config, state, cache, runtime]);
    places.follow_links(|path| path.canonicalize().ok());
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "/home/u";

    fn directories(vars: &[(&str, &str)]) -> Result<Directories, Error> {
        Environment::of(vars).directories(Path::new(HOME))
    }

    #[test]
    fn directories_are_where_xdg_says() {
        let found = directories(&[("XDG_CONFIG_HOME", "/c"), ("XDG_RUNTIME_DIR", "/r")]).unwrap();
        assert_eq!(found.config, Path::new("/c/sbx"));
        assert_eq!(found.state, Path::new("/home/u/.local/state/sbx"));
        assert_eq!(found.cache, Path::new("/home/u/.cache/sbx"));
        assert_eq!(found.runtime, Path::new("/r/sbx"));
    }

    #[test]
    fn our_own_variables_come_first_and_sockets_have_a_place_without_a_login() {
        let found = directories(&[("SBX_STATE_DIR", "/s"), ("XDG_STATE_HOME", "/x")]).unwrap();
        assert_eq!(found.state, Path::new("/s"));
        assert_eq!(found.runtime, Path::new("/s/run"));
    }

    #[test]
    fn a_relative_directory_of_ours_is_an_error_and_one_of_xdg_is_ignored() {
        assert!(directories(&[("SBX_CACHE_DIR", "cache")]).is_err());
        let found = directories(&[("XDG_CACHE_HOME", "cache")]).unwrap();
        assert_eq!(found.cache, Path::new("/home/u/.cache/sbx"));
    }

    #[test]
    fn a_session_takes_over_terminal_and_locale_and_nothing_else() {
        let long = "x".repeat(129);
        let env = Environment::of(&[
            ("TERM", "xterm-256color"),
            ("LC_ALL", "de_DE.UTF-8"),
            ("LANG", "C\u{1b}[2J"),
            ("COLORTERM", &long),
            ("PATH", "/bin"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
        ]);
        let names: Vec<String> = env.terminal().into_iter().map(|var| var.name).collect();
        assert_eq!(names, ["LC_ALL", "TERM"]);
    }

    #[test]
    fn a_time_zone_is_a_name_or_a_rule() {
        let zone = |tz: &str| Environment::of(&[("TZ", tz)]).timezone();
        assert_eq!(zone("Europe/Berlin").as_deref(), Some("Europe/Berlin"));
        assert_eq!(zone(":/usr/share/zoneinfo/UTC").as_deref(), Some("UTC"));
        assert_eq!(zone("<-03>3").as_deref(), Some("<-03>3"));
        assert_eq!(zone("../../etc/shadow"), None);
        assert_eq!(zone("a b"), None);
    }

    #[test]
    fn a_git_identity_is_two_lines() {
        let found = parse_identity(b"user.name\nA B\0user.email\na@b.example\0user.name\nC\nD\0");
        assert_eq!(found.name.as_deref(), Some("C"));
        assert_eq!(found.email.as_deref(), Some("a@b.example"));
        assert_eq!(parse_identity(b"").name, None);
    }

    #[test]
    fn a_program_that_does_not_end_is_not_waited_for() {
        #[expect(clippy::disallowed_methods, reason = "a program that never ends")]
        let mut command = Command::new("/bin/sleep");
        let child = command.arg("60").stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(bounded_output(child).unwrap()(), None);
    }
}
