//! Why the engine did not do what it was asked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A failure: what was attempted on what, why, and what to do about it.
///
/// Serialised as `{"code", "message", "cause", "hint"}`, the object that
/// `--json` prints. `Display` is the message alone.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Error {
    /// Which kind, stable across releases.
    pub code: Code,
    /// What was attempted on what: lower case, no full stop.
    pub message: String,
    /// Why, the nearest cause first.
    #[serde(rename = "cause", default)]
    pub causes: Vec<String>,
    /// What to type or do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// How the system says that a file system is full.
const DISK_FULL: &str = "No space left on device";

/// What helps then.
const ROOM: &str = "make room, with `sbx gc` and `sbx rm` or elsewhere, then try again";

/// The kinds of failure a caller may want to tell apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The command line itself is wrong.
    Usage,
    /// A word or flag that is kept for a later version.
    NotInThisVersion,
    /// The configuration file or a variable of ours is wrong.
    Config,
    /// No sandbox of that name.
    SandboxNotFound,
    /// A sandbox of that name exists.
    NameTaken,
    /// The sandbox exists with other values than those typed.
    SandboxDiffers,
    /// Its state cannot be read.
    BrokenSandbox,
    /// Another command works on it, or it is running where it must not be.
    Busy,
    /// No such rule in a policy.
    RuleNotFound,
    /// No such question is open.
    QuestionNotFound,
    /// No such port is published.
    PortNotFound,
    /// A port of this host cannot be bound.
    PortTaken,
    /// No agent or kit of that name.
    UnknownAgent,
    /// The workspace is missing, or is none that may be served.
    Workspace,
    /// A mount that is refused or cannot be made.
    Mount,
    /// A value the host cannot give.
    Limit,
    /// Something the host lacks: a program, a kernel feature.
    HostUnfit,
    /// The user's container engine did not do what it was asked.
    Engine,
    /// Hardware virtualisation is there and not permitted.
    KvmDenied,
    /// A wall around a process of ours could not be set up.
    Jail,
    /// Kernel, template or kit could not be made or is corrupt.
    Image,
    /// The virtual machine did not come up in time, or went down.
    Boot,
    /// The link to the sandbox broke.
    Link,
    /// The program cannot be executed inside.
    CannotExecute,
    /// There is no such program inside.
    ProgramNotFound,
    /// The state directory cannot be used.
    State,
    /// No space left.
    NoSpace,
    /// Any other failure of the operating system.
    Io,
    /// A limit on what is waited for passed.
    Timeout,
    /// Nobody can be asked; the message names the flag.
    NoTerminal,
    /// The user said no.
    Declined,
    /// Policy says no.
    Refused,
    /// The user interrupted it.
    Interrupted,
    /// A bug of ours.
    Internal,
}

impl Code {
    /// Every code, in the order of `docs/json.md`.
    pub const ALL: &[Self] = &[
        Self::Usage,
        Self::NotInThisVersion,
        Self::Config,
        Self::SandboxNotFound,
        Self::NameTaken,
        Self::SandboxDiffers,
        Self::BrokenSandbox,
        Self::Busy,
        Self::RuleNotFound,
        Self::QuestionNotFound,
        Self::PortNotFound,
        Self::PortTaken,
        Self::UnknownAgent,
        Self::Workspace,
        Self::Mount,
        Self::Limit,
        Self::HostUnfit,
        Self::Engine,
        Self::KvmDenied,
        Self::Jail,
        Self::Image,
        Self::Boot,
        Self::Link,
        Self::CannotExecute,
        Self::ProgramNotFound,
        Self::State,
        Self::NoSpace,
        Self::Io,
        Self::Timeout,
        Self::NoTerminal,
        Self::Declined,
        Self::Refused,
        Self::Interrupted,
        Self::Internal,
    ];

    /// What a command other than `run` and `exec` returns for it.
    #[must_use]
    pub fn exit(self) -> u8 {
        match self {
            Self::Usage | Self::NotInThisVersion | Self::Config | Self::NoTerminal => 2,
            Self::SandboxNotFound
            | Self::UnknownAgent
            | Self::RuleNotFound
            | Self::QuestionNotFound
            | Self::PortNotFound => 3,
            Self::Declined | Self::Refused => 4,
            _ => 1,
        }
    }

    /// What `run` and `exec` return for it: the codes below 125 are the
    /// inner program's there.
    #[must_use]
    pub fn session_exit(self) -> u8 {
        match self {
            Self::CannotExecute => 126,
            Self::ProgramNotFound => 127,
            _ => 125,
        }
    }
}

impl Error {
    /// A failure without a cause or a hint.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
        }
    }

    /// The same with its cause, and the cause's causes.
    #[must_use]
    pub fn because(mut self, cause: impl std::error::Error) -> Self {
        self.causes.push(cause.to_string());
        let mut next = cause.source();
        while let Some(source) = next {
            let text = source.to_string();
            if self.causes.last() != Some(&text) {
                self.causes.push(text);
            }
            next = source.source();
        }
        // Whatever was attempted, the way out is the same.
        let causes = self.causes.clone();
        self.if_full(&causes)
    }

    /// The same as a lack of room, where a program said so in its own words.
    #[must_use]
    pub(crate) fn if_full(mut self, said: &[String]) -> Self {
        if said.iter().any(|line| line.contains(DISK_FULL)) {
            self.code = Code::NoSpace;
            self.hint.get_or_insert_with(|| ROOM.to_owned());
        }
        self
    }

    /// The same with advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What a command other than `run` and `exec` returns for it.
    #[must_use]
    pub fn exit(&self) -> u8 {
        self.code.exit()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn is_the_object_that_json_callers_read() {
        let error = Error::new(Code::SandboxNotFound, "no sandbox `x`")
            .because(std::io::Error::other("gone"))
            .hint("run `sbx ls`");
        let json = serde_json::to_value(&error).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "code": "sandbox_not_found", "message": "no sandbox `x`",
                "cause": ["gone"], "hint": "run `sbx ls`",
            })
        );
        assert_eq!(serde_json::from_value::<Error>(json).unwrap(), error);
    }

    #[test]
    fn lists_each_code_once() {
        let distinct: HashSet<_> = Code::ALL.iter().collect();
        assert_eq!(distinct.len(), Code::ALL.len());
        assert_eq!(Code::ALL.last(), Some(&Code::Internal));
    }

    #[test]
    fn keeps_the_low_codes_of_a_session_for_the_program_inside() {
        for code in Code::ALL {
            assert!(code.exit() <= 4 && code.exit() >= 1, "{code:?}");
            assert!((125..=127).contains(&code.session_exit()), "{code:?}");
        }
    }
}
