//! Which sandbox and which agent a command means where it does not say.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{KitName, NameError, SandboxName};

/// The sandbox that stands under a name already.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its agent.
    pub kit: KitName,
    /// Its first workspace on the host.
    pub workspace: Option<PathBuf>,
}

/// What a default name stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DefaultName {
    /// Nothing has it yet.
    Free(SandboxName),
    /// The sandbox of this very agent and workspace has it.
    Own(SandboxName),
}

impl DefaultName {
    /// The name itself.
    #[must_use]
    pub fn name(&self) -> &SandboxName {
        match self {
            Self::Free(name) | Self::Own(name) => name,
        }
    }
}

/// Why there is no default name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoDefaultName {
    /// Both names that could be given belong to other workspaces.
    Taken(SandboxName, SandboxName),
    /// The directory's name leaves nothing a name could be made of.
    Name(NameError),
}

impl fmt::Display for NoDefaultName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken(short, long) => {
                write!(
                    f,
                    "`{short}` and `{long}` are sandboxes of other workspaces"
                )
            }
            Self::Name(error) => write!(f, "no name can be made of the directory's: {error}"),
        }
    }
}

impl std::error::Error for NoDefaultName {}

impl From<NameError> for NoDefaultName {
    fn from(error: NameError) -> Self {
        Self::Name(error)
    }
}

/// The name of the sandbox for `kit` on `workspace`: `<kit>-<basename>`, and
/// with 4 hex digits of the path behind it where another workspace has that
/// name. A sandbox of this workspace is found again under either, whatever
/// became of the other one. `owner` tells who has a name.
///
/// # Errors
/// [`NoDefaultName`] if both are another's.
pub fn default_name(
    kit: &KitName,
    workspace: Option<&Path>,
    owner: impl Fn(&SandboxName) -> Option<Owner>,
) -> Result<DefaultName, NoDefaultName> {
    let (short, long) = candidates(kit, workspace)?;
    let mut free = None;
    for name in [&short, &long] {
        match owner(name) {
            Some(found) if found.kit == *kit && found.workspace.as_deref() == workspace => {
                return Ok(DefaultName::Own(name.clone()));
            }
            Some(_) => {}
            None => free = free.or_else(|| Some(name.clone())),
        }
    }
    free.map(DefaultName::Free)
        .ok_or(NoDefaultName::Taken(short, long))
}

fn candidates(
    kit: &KitName,
    workspace: Option<&Path>,
) -> Result<(SandboxName, SandboxName), NameError> {
    let (base, path) = match workspace {
        Some(path) => {
            let base = path
                .file_name()
                .map(|name| name.to_string_lossy())
                .unwrap_or_default();
            (clean(&base), path.as_os_str().as_encoded_bytes())
        }
        None => ("scratch".to_owned(), &[][..]),
    };
    let digits = format!("{:04x}", hash(path) >> 48);
    let mut stem = format!("{kit}-{base}");
    stem.truncate(SandboxName::MAX - 5);
    let stem = stem.trim_end_matches(['-', '.']);
    let long: SandboxName = format!("{stem}-{digits}").parse()?;
    // A kit's name of one letter and nothing to add to it is too short.
    let short = stem.parse().unwrap_or_else(|_| long.clone());
    Ok((short, long))
}

/// What of a directory's name can stand in a sandbox's.
fn clean(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            c if c.is_ascii_alphanumeric() => out.push(c),
            '.' if !out.ends_with(['.', '-']) && !out.is_empty() => out.push('.'),
            _ if !out.ends_with(['.', '-']) && !out.is_empty() => out.push('-'),
            _ => {}
        }
    }
    out.truncate(40);
    out.trim_end_matches(['-', '.']).to_owned()
}

/// FNV-1a, 64 bits (<http://www.isthe.com/chongo/tech/comp/fnv/>): stable
/// across releases, which a hasher of the standard library is not.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What the positional word of `run` stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Subject {
    /// An agent to run.
    Agent(KitName),
    /// No agent of ours: a sandbox by its name, as `run NAME` was spelled
    /// once. If there is no such sandbox the word was a wrong agent.
    Sandbox(SandboxName),
}

/// The word is no agent, and no sandbox can be meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownAgent {
    /// The word.
    pub word: String,
    /// The agent that is spelled most alike, if one is.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no agent `{}`", self.word)
    }
}

impl std::error::Error for UnknownAgent {}

impl UnknownAgent {
    /// The error for `word` beside the agents that there are.
    #[must_use]
    pub fn new(word: &str, kits: &[KitName]) -> Self {
        let nearest = nearest(word, kits.iter().map(KitName::as_str)).map(str::to_owned);
        Self {
            word: word.to_owned(),
            nearest,
        }
    }
}

/// Decides what `word` means: an agent of `kits`, or else, where
/// `may_be_sandbox` (it stood alone), a sandbox. No word means `default`.
///
/// # Errors
/// [`UnknownAgent`] if it can be neither.
pub fn subject(
    word: Option<&str>,
    may_be_sandbox: bool,
    default: &KitName,
    kits: &[KitName],
) -> Result<Subject, UnknownAgent> {
    let Some(word) = word else {
        return Ok(Subject::Agent(default.clone()));
    };
    if let Some(kit) = kits.iter().find(|kit| kit.as_str() == word) {
        return Ok(Subject::Agent(kit.clone()));
    }
    match word.parse() {
        Ok(name) if may_be_sandbox => Ok(Subject::Sandbox(name)),
        _ => Err(UnknownAgent::new(word, kits)),
    }
}

/// The candidate that is spelled most like `word`, if any is near enough to
/// be a slip: alike from the beginning, or one keystroke away.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |candidate: &str| {
        let one_slip = strsim::osa_distance(word, candidate) == 1 && word.len() > 1;
        let alike = strsim::jaro_winkler(word, candidate);
        if one_slip { alike.max(0.9) } else { alike }
    };
    candidates
        .into_iter()
        .map(|candidate| (likeness(candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kit(name: &str) -> KitName {
        name.parse().unwrap()
    }

    fn owned_by(names: &[(&str, &str)], name: &SandboxName) -> Option<Owner> {
        names
            .iter()
            .find(|(taken, _)| *taken == name.as_str())
            .map(|(_, path)| Owner {
                kit: kit("claude"),
                workspace: Some(path.into()),
            })
    }

    fn named(workspace: &str, taken: &[(&str, &str)]) -> String {
        default_name(&kit("claude"), Some(Path::new(workspace)), |name| {
            owned_by(taken, name)
        })
        .map(|found| found.name().to_string())
        .unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn is_made_of_agent_and_directory() {
        assert_eq!(named("/home/u/app", &[]), "claude-app");
        assert_eq!(named("/home/u/My App (2)", &[]), "claude-My-App-2");
        assert_eq!(named("/home/u/..a..b--", &[]), "claude-a.b");
        assert_eq!(named(&format!("/{}", "x".repeat(200)), &[]).len(), 47);
        assert_eq!(named("/home/u/日本", &[]), "claude");
        assert_eq!(
            default_name(&kit("shell"), None, |_| None)
                .unwrap()
                .name()
                .as_str(),
            "shell-scratch"
        );
    }

    #[test]
    fn gets_digits_of_the_path_when_another_workspace_has_the_name() {
        let name = named("/y/app", &[("claude-app", "/x/app")]);
        assert!(
            name.starts_with("claude-app-") && name.len() == "claude-app-".len() + 4,
            "{name}"
        );
    }

    #[test]
    fn finds_its_sandbox_again_after_the_other_one_is_gone() {
        let long = named("/y/app", &[("claude-app", "/x/app")]);
        assert_eq!(named("/y/app", &[(&long, "/y/app")]), long);
        assert_eq!(named("/y/app", &[("claude-app", "/y/app")]), "claude-app");
    }

    #[test]
    fn both_names_taken_is_an_error() {
        let long = named("/y/app", &[("claude-app", "/x/app")]);
        assert!(
            named("/y/app", &[("claude-app", "/x/app"), (&long, "/z")])
                .contains("other workspaces")
        );
    }

    #[test]
    fn the_sandbox_of_another_agent_is_another_one() {
        let other = |_: &SandboxName| {
            Some(Owner {
                kit: kit("shell"),
                workspace: Some("/x/app".into()),
            })
        };
        assert!(default_name(&kit("claude"), Some(Path::new("/x/app")), other).is_err());
    }

    #[test]
    fn a_word_is_an_agent_before_it_is_a_sandbox() {
        let kits = [kit("claude"), kit("shell")];
        let means = |word, alone| subject(word, alone, &kits[0], &kits);
        assert_eq!(means(None, true), Ok(Subject::Agent(kit("claude"))));
        assert_eq!(means(Some("shell"), true), Ok(Subject::Agent(kit("shell"))));
        assert_eq!(
            means(Some("my-box"), true),
            Ok(Subject::Sandbox("my-box".parse().unwrap()))
        );
        assert_eq!(means(Some("my-box"), false).unwrap_err().nearest, None);
        assert_eq!(
            means(Some("cluade"), false).unwrap_err().nearest.as_deref(),
            Some("claude")
        );
        assert!(means(Some("a b"), true).is_err());
    }

    #[test]
    fn a_slip_is_one_keystroke_or_a_likeness() {
        let words = ["run", "rm", "create", "exec"];
        assert_eq!(nearest("rnu", words), Some("run"));
        assert_eq!(nearest("crate", words), Some("create"));
        assert_eq!(nearest("x", words), None);
        assert_eq!(nearest("policy", words), None);
    }
}
