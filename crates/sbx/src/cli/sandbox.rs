//! The flags that say what a sandbox should be like, shared by `run`,
//! `create` and `plan`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use clap::Args;
use sbx_engine::command::{Code, Error, Subject, User};
use sbx_spec::{
    Action, ChoiceError, GuestPath, MountRequest, MountText, Origin, Publication, Rule,
    SandboxRequest, WorkspacePath, WorkspaceRequest,
};

use super::Door;
use super::argv::not_in_this_version;
use super::policy::rule;
use super::variables::VariableFlags;
use crate::host_path;

/// Agents that come with sbx: such a word is never the name of a sandbox.
pub(crate) const SHIPPED_KITS: &[&str] = &["claude", "shell"];

/// The flags of a sandbox.
#[derive(Args, Debug)]
pub(crate) struct SandboxFlags {
    /// Call it NAME instead of AGENT-DIRECTORY; alone, enter that sandbox again
    #[arg(long, value_name = "NAME", help_heading = "Sandbox")]
    pub(crate) name: Option<String>,

    /// Choose the boundary: microvm (default), container or docker
    #[arg(long, value_name = "KIND", help_heading = "Sandbox")]
    isolation: Option<String>,

    /// Choose what runs the microVM: auto (default) or qemu
    #[arg(long, value_name = "DRIVER", help_heading = "Sandbox")]
    driver: Option<String>,

    /// Choose what executes it: auto (default), kvm or tcg
    #[arg(long, value_name = "ACCEL", help_heading = "Sandbox")]
    accel: Option<String>,

    /// Take this image of the engine (--isolation docker) [default: the template]
    #[arg(
        short,
        long,
        visible_alias = "image",
        value_name = "IMAGE",
        help_heading = "Sandbox"
    )]
    template: Option<String>,

    /// Fetch that image: missing (default), always or never
    #[arg(long, value_name = "WHEN", help_heading = "Sandbox")]
    pull: Option<String>,

    /// Limit the processors, fractions too [default: all]
    #[arg(long, value_name = "N", help_heading = "Sandbox")]
    cpus: Option<String>,

    /// Limit the memory [default: half of the host's, 512m to 8g]
    #[arg(short, long, value_name = "SIZE", help_heading = "Sandbox")]
    memory: Option<String>,

    /// Limit the sandbox's own disk [default: 20g]
    #[arg(long, value_name = "SIZE", help_heading = "Sandbox")]
    disk: Option<String>,

    /// Limit the processes and threads inside [default: 4096]
    #[arg(long, value_name = "N", help_heading = "Sandbox")]
    pids_limit: Option<String>,

    /// Write to the workspace directly (direct, default) or not at all (ro)
    #[arg(long, value_name = "MODE", help_heading = "Workspace")]
    workspace_mode: Option<String>,

    /// Hold names the host obeys: full (default) or, in a container, existing
    #[arg(long, value_name = "GUARD", help_heading = "Workspace")]
    workspace_guard: Option<String>,

    /// Take no workspace at all
    #[arg(long, help_heading = "Workspace")]
    no_workspace: bool,

    /// Start in DIR inside [default: the workspace]
    #[arg(short, long, value_name = "DIR", help_heading = "Workspace")]
    workdir: Option<String>,

    /// Mount a directory or file (SOURCE:TARGET[:ro]) or a volume (NAME:TARGET)
    #[arg(short, long, value_name = "SPEC", help_heading = "Workspace")]
    volume: Vec<String>,

    /// Mount type=bind|volume|tmpfs,source=…,target=…[,readonly]
    #[arg(long, value_name = "SPEC", help_heading = "Workspace")]
    mount: Vec<String>,

    /// Let PATH be shared although it holds keys, the home directory or the like
    #[arg(long, value_name = "PATH", help_heading = "Workspace")]
    allow_sensitive_mount: Vec<OsString>,

    /// Choose what may be reached: open, balanced, locked or none [default: the user's policy]
    #[arg(long, value_name = "PRESET", help_heading = "Network")]
    network: Option<String>,

    /// Let RESOURCE be reached by this sandbox: a host, a range, or localhost:PORT
    #[arg(
        long,
        value_name = "RESOURCE",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    allow_network: Vec<String>,

    /// Deny RESOURCE to this sandbox, whatever else allows it
    #[arg(
        long,
        value_name = "RESOURCE",
        value_delimiter = ',',
        help_heading = "Network"
    )]
    deny_network: Vec<String>,

    /// Publish a port of the sandbox on this host: [[IP:]HOST:]GUEST[/tcp|udp]
    #[arg(short, long, value_name = "PORT", help_heading = "Network")]
    publish: Vec<String>,

    #[command(flatten)]
    pub(crate) variables: VariableFlags,

    #[command(flatten)]
    later: LaterFlags,
}

/// Flags of later versions: known, so that they are not mistaken for slips.
#[derive(Args, Debug)]
struct LaterFlags {
    #[arg(long, hide = true, num_args = 1, value_name = "REF")]
    kit: Vec<OsString>,
    #[arg(long, hide = true, num_args = 1, value_name = "PATTERN")]
    hide: Vec<OsString>,
    #[arg(long, hide = true, num_args = 1, value_name = "NAME")]
    plain_env: Vec<OsString>,
    #[arg(long, hide = true)]
    clone: bool,
    #[arg(long, hide = true)]
    devcontainer: bool,
}

impl LaterFlags {
    fn check(&self) -> Result<(), Error> {
        let later = [
            ("--kit", !self.kit.is_empty()),
            ("--hide", !self.hide.is_empty()),
            ("--clone", self.clone),
            ("--devcontainer", self.devcontainer),
        ];
        if let Some((flag, _)) = later.iter().find(|(_, given)| *given) {
            return Err(not_in_this_version(&format!("`{flag}`")));
        }
        if !self.plain_env.is_empty() {
            return Err(not_in_this_version("`--plain-env`")
                .hint("in this version `--env NAME` passes the value itself"));
        }
        Ok(())
    }
}

impl SandboxFlags {
    /// The request, and which agent it is for. `words` are the positional
    /// arguments.
    pub(crate) fn request(
        self,
        words: Vec<OsString>,
        door: &mut Door<'_>,
    ) -> Result<(Subject, SandboxRequest), Error> {
        self.later.check()?;
        let (agent, paths) = agent_and_paths(words)?;
        door.directory = agent.clone().filter(|word| door.cwd.join(word).is_dir());
        let may_be_sandbox = paths.is_empty()
            && self.name.is_none()
            && !self.no_workspace
            && agent
                .as_deref()
                .is_some_and(|word| !SHIPPED_KITS.contains(&word));
        let request = SandboxRequest {
            workspace: self.workspace(paths, may_be_sandbox, door)?,
            isolation: self.isolation(door)?,
            driver: choice("--driver", self.driver.as_deref())?,
            accel: choice("--accel", self.accel.as_deref())?,
            image: self.template.clone(),
            pull: choice("--pull", self.pull.as_deref())?,
            cpus: value("--cpus", self.cpus.as_deref())?,
            memory: value("--memory", self.memory.as_deref())?,
            disk: value("--disk", self.disk.as_deref())?,
            pids: value("--pids-limit", self.pids_limit.as_deref())?,
            workspace_access: choice("--workspace-mode", self.workspace_mode.as_deref())?,
            guard: choice("--workspace-guard", self.workspace_guard.as_deref())?,
            mounts: self.mounts(door)?,
            allow_sensitive: self
                .allow_sensitive_mount
                .iter()
                .flat_map(|path| host_path::both_forms(&door.cwd, path))
                .collect(),
            workdir: self.workdir.as_deref().map(guest_path).transpose()?,
            network: choice("--network", self.network.as_deref())?,
            rules: self.rules()?,
            publish: publications("--publish", &self.publish)
                .map_err(|error| error.hint("an argument of the agent stands after `--`"))?,
            name: value("--name", self.name.as_deref())?,
            env: self.variables.resolve(door)?,
        };
        Ok((
            Subject {
                word: agent,
                may_be_sandbox,
            },
            request,
        ))
    }

    fn rules(&self) -> Result<Vec<Rule>, Error> {
        let lists = [
            ("--deny-network", Action::Deny, &self.deny_network),
            ("--allow-network", Action::Allow, &self.allow_network),
        ];
        lists
            .into_iter()
            .flat_map(|(flag, action, texts)| {
                texts
                    .iter()
                    .map(move |text| rule(flag, action, text, Origin::Sandbox))
            })
            .collect()
    }

    fn isolation(&self, door: &Door<'_>) -> Result<Option<sbx_spec::Isolation>, Error> {
        match (&self.isolation, door.environment.value("SBX_ISOLATION")) {
            (Some(word), _) => choice("--isolation", Some(word)),
            (None, Some(word)) => choice("SBX_ISOLATION", Some(&word.to_string_lossy())),
            (None, None) => Ok(None),
        }
    }

    fn workspace(
        &self,
        paths: Vec<OsString>,
        may_be_sandbox: bool,
        door: &Door<'_>,
    ) -> Result<WorkspaceRequest, Error> {
        if self.no_workspace {
            if !paths.is_empty() {
                let message = "`--no-workspace` and a path contradict each other";
                return Err(Error::new(Code::Usage, message));
            }
            return Ok(WorkspaceRequest::None);
        }
        if paths.is_empty() {
            // The sandbox that is named may have a workspace of its own, so
            // a current directory that cannot be one is no error yet.
            let named = self.name.is_some() || may_be_sandbox;
            return match host_path::workspace(&door.cwd, OsStr::new(".")) {
                Ok(path) => Ok(WorkspaceRequest::Current(path)),
                Err(_) if named => Ok(WorkspaceRequest::Unsaid),
                Err(error) => Err(error),
            };
        }
        let look = |word: &OsString| {
            let (path, read_only) = split_mode(word);
            let host = host_path::workspace(&door.cwd, path)?;
            Ok(WorkspacePath { host, read_only })
        };
        paths
            .iter()
            .map(look)
            .collect::<Result<_, _>>()
            .map(WorkspaceRequest::Paths)
    }

    fn mounts(&self, door: &Door<'_>) -> Result<Vec<MountRequest>, Error> {
        let long = self
            .mount
            .iter()
            .map(|text| ("--mount", text, MountText::parse_mount(text)));
        let short = self
            .volume
            .iter()
            .map(|text| ("--volume", text, MountText::parse_volume(text)));
        let mut mounts = Vec::new();
        for (flag, text, parsed) in long.chain(short) {
            let parsed = parsed.map_err(|error| wrong(flag, text, &error))?;
            mounts.push(match parsed {
                MountText::Bind {
                    source,
                    guest,
                    access,
                } => MountRequest::Bind {
                    host: host_path::source(&door.cwd, source.as_os_str())?,
                    guest,
                    access,
                },
                MountText::Volume { name, guest } => MountRequest::Volume { name, guest },
                MountText::Tmpfs { guest, size } => MountRequest::Tmpfs { guest, size },
            });
        }
        Ok(mounts)
    }
}

/// Reads published ports, which were typed as `flag`.
pub(super) fn publications(flag: &str, texts: &[String]) -> Result<Vec<Publication>, Error> {
    let read = |text: &String| text.parse().map_err(|error| wrong(flag, text, &error));
    texts.iter().map(read).collect()
}

/// Splits the positional words: paths are `.`, `..` and what holds a slash;
/// one other word may name the agent.
fn agent_and_paths(words: Vec<OsString>) -> Result<(Option<String>, Vec<OsString>), Error> {
    let mut agent: Option<String> = None;
    let mut paths = Vec::new();
    for word in words {
        let (path, _) = split_mode(&word);
        let is_path = path == "." || path == ".." || path.as_encoded_bytes().contains(&b'/');
        if is_path {
            paths.push(word);
            continue;
        }
        let text = crate::render::escape(&word.to_string_lossy());
        match &agent {
            None => agent = Some(text),
            Some(first) => {
                let message = format!("`{first}` and `{text}` cannot both be the agent");
                return Err(Error::new(Code::Usage, message).hint(format!(
                    "a directory is written `./{text}`; arguments of the agent stand after `--`"
                )));
            }
        }
    }
    Ok((agent, paths))
}

/// A path and whether `:ro` was written behind it.
fn split_mode(word: &OsStr) -> (&OsStr, bool) {
    let text = word.as_encoded_bytes();
    for (mode, read_only) in [(":ro", true), (":rw", false)] {
        if text.ends_with(mode.as_bytes()) {
            return (front(word, mode.len()), read_only);
        }
    }
    (word, false)
}

fn front(word: &OsStr, cut: usize) -> &OsStr {
    use std::os::unix::ffi::OsStrExt;
    let bytes = word.as_bytes();
    OsStr::from_bytes(
        bytes
            .get(..bytes.len().saturating_sub(cut))
            .unwrap_or_default(),
    )
}

/// Reads the value of a flag.
pub(crate) fn value<T>(flag: &str, text: Option<&str>) -> Result<Option<T>, Error>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    text.map(|text| {
        text.parse()
            .map_err(|error: T::Err| wrong(flag, text, &error))
    })
    .transpose()
}

/// Reads the value of a flag that is one of a few words.
fn choice<T>(flag: &str, text: Option<&str>) -> Result<Option<T>, Error>
where
    T: FromStr<Err = ChoiceError>,
{
    let Some(text) = text else { return Ok(None) };
    text.parse().map(Some).map_err(|error| match error {
        ChoiceError::Later(_) => not_in_this_version(&format!("`{flag} {text}`")),
        ChoiceError::Unknown(known) => {
            let error = wrong(flag, text, &error);
            match sbx_spec::nearest(text, known.iter().copied()) {
                Some(nearest) => error.hint(format!("did you mean `{flag} {nearest}`?")),
                None => error,
            }
        }
    })
}

/// The error for a value that a flag does not take.
pub(crate) fn wrong(flag: &str, text: &str, why: &dyn fmt::Display) -> Error {
    Error::new(
        Code::Usage,
        format!("{flag} {}: {why}", crate::render::escape(text)),
    )
}

/// Reads a directory inside.
pub(crate) fn guest_path(text: &str) -> Result<GuestPath, Error> {
    GuestPath::new(Path::new(text)).map_err(|error| wrong("--workdir", text, &error))
}

/// Reads `--user`: a name or a number, each with `:group` if need be.
pub(crate) fn user(text: &str) -> Result<User, Error> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let is_name = |name: &str| {
        name.len() <= 32
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
    };
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    let numbers = (number(user), group.map(number));
    match (user, group, numbers) {
        ("agent", None, _) => Ok(User::Agent),
        ("root" | "0", None, _) => Ok(User::Root),
        (_, _, (Some(uid), None)) => Ok(User::Ids(uid, None)),
        (_, _, (Some(uid), Some(Some(gid)))) => Ok(User::Ids(uid, Some(gid))),
        (user, group, _) if is_name(user) && group.is_none_or(is_name) => {
            Ok(User::Name(user.to_owned(), group.map(str::to_owned)))
        }
        _ => Err(wrong(
            "--user",
            text,
            &"it is a name or number, with `:group` if need be",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(words: &[&str]) -> Result<(Option<String>, Vec<OsString>), Error> {
        agent_and_paths(words.iter().map(OsString::from).collect())
    }

    #[test]
    fn a_path_has_a_slash_or_is_made_of_dots() {
        let (agent, paths) = split(&["claude", ".", "..:ro", "src/", "./x", "/y:ro"]).unwrap();
        assert_eq!(agent.as_deref(), Some("claude"));
        assert_eq!(paths.len(), 5);
        assert_eq!(split(&["src"]).unwrap().0.as_deref(), Some("src"));
    }

    #[test]
    fn two_words_cannot_both_be_the_agent() {
        let error = split(&["claude", "src"]).unwrap_err();
        assert!(error.hint.unwrap().contains("`./src`"));
    }

    #[test]
    fn a_mode_is_cut_from_the_end_only() {
        assert_eq!(split_mode(OsStr::new("/a:ro")), (OsStr::new("/a"), true));
        assert_eq!(split_mode(OsStr::new("/a:rw")), (OsStr::new("/a"), false));
        assert_eq!(
            split_mode(OsStr::new("/a:ro/b")),
            (OsStr::new("/a:ro/b"), false)
        );
    }

    #[test]
    fn a_user_is_a_name_or_a_number() {
        assert_eq!(user("agent").unwrap(), User::Agent);
        assert_eq!(user("0").unwrap(), User::Root);
        assert_eq!(user("1000:100").unwrap(), User::Ids(1000, Some(100)));
        assert_eq!(
            user("www-data").unwrap(),
            User::Name("www-data".into(), None)
        );
        for text in ["", ":1", "a b", "-x", "1000:", "+1", "root:"] {
            assert!(user(text).is_err(), "{text}");
        }
    }
}
