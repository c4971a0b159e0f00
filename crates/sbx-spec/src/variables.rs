//! The environment of a session: only what is listed here ever enters.

use crate::{EnvVar, SandboxName};

/// Variables that agents and tools read a credential from.
const CREDENTIALS: &[&str] = &[
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "OPENAI_API_KEY",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "GOOGLE_API_KEY",
    "GEMINI_API_KEY",
    "XAI_API_KEY",
    "GROQ_API_KEY",
    "MISTRAL_API_KEY",
    "OPENROUTER_API_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "DATABASE_URL",
];

/// Endings of names under which credentials are kept by custom.
const ENDINGS: &[&str] = &[
    "_API_KEY",
    "_TOKEN",
    "_SECRET",
    "_SECRET_KEY",
    "_PASSWORD",
    "_PASSWD",
    "_PRIVATE_KEY",
];

/// Whether a variable of this name carries a credential, by what is known
/// and by custom. Such a variable is never written down, and the user is
/// told that it enters as a value.
#[must_use]
pub fn is_credential(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    CREDENTIALS.contains(&upper.as_str()) || ENDINGS.iter().any(|end| upper.ends_with(end))
}

/// Whether a text can be the name of a variable that is passed in: as a
/// shell would take it, at most 256 bytes.
#[must_use]
pub fn is_variable_name(name: &str) -> bool {
    name.len() <= 256
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// What a session's environment is made of, later layers last.
#[derive(Clone, Copy, Debug)]
pub struct SessionVariables<'a> {
    /// Name of the sandbox.
    pub sandbox: &'a SandboxName,
    /// What the caller's terminal says of itself: `TERM`, `LANG`…
    pub terminal: &'a [EnvVar],
    /// The caller's time zone.
    pub timezone: Option<&'a str>,
    /// What the kit sets.
    pub kit: &'a [EnvVar],
    /// What was written down when the sandbox was created.
    pub spec: &'a [EnvVar],
    /// Credentials of this start.
    pub credentials: &'a [EnvVar],
    /// What was typed for this session.
    pub session: &'a [EnvVar],
}

impl SessionVariables<'_> {
    /// The environment: one entry per name, the latest layer's, sorted.
    /// `HOME`, `USER` and `PATH` are the guest's to set.
    #[must_use]
    pub fn resolve(&self) -> Vec<EnvVar> {
        let var = |name: &str, value: &str| EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let mut found = std::collections::BTreeMap::new();
        let zone = self.timezone.map(|zone| var("TZ", zone));
        let layers = self.terminal.iter().cloned().chain(zone);
        let layers = layers
            .chain(self.kit.iter().cloned())
            .chain(self.spec.iter().cloned());
        let layers = layers.chain(self.credentials.iter().cloned());
        for var in layers.chain(self.session.iter().cloned()) {
            found.insert(var.name, var.value);
        }
        found.insert("SANDBOX_NAME".to_owned(), self.sandbox.to_string());
        found
            .into_iter()
            .map(|(name, value)| EnvVar { name, value })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(list: &[(&str, &str)]) -> Vec<EnvVar> {
        list.iter()
            .map(|(n, v)| EnvVar {
                name: (*n).into(),
                value: (*v).into(),
            })
            .collect()
    }

    #[test]
    fn later_layers_win_and_the_name_cannot_be_forged() {
        let name = "box-1".parse().unwrap();
        let session = SessionVariables {
            sandbox: &name,
            terminal: &vars(&[("TERM", "xterm"), ("LANG", "C.UTF-8")]),
            timezone: Some("Europe/Berlin"),
            kit: &vars(&[("A", "kit"), ("B", "kit")]),
            spec: &vars(&[("B", "spec")]),
            credentials: &vars(&[("X_TOKEN", "t")]),
            session: &vars(&[("TERM", "dumb"), ("SANDBOX_NAME", "other")]),
        };
        assert_eq!(
            session.resolve(),
            vars(&[
                ("A", "kit"),
                ("B", "spec"),
                ("LANG", "C.UTF-8"),
                ("SANDBOX_NAME", "box-1"),
                ("TERM", "dumb"),
                ("TZ", "Europe/Berlin"),
                ("X_TOKEN", "t"),
            ])
        );
    }

    #[test]
    fn knows_credentials_by_name_and_by_custom() {
        for name in ["ANTHROPIC_API_KEY", "github_token", "MY_PASSWORD"] {
            assert!(is_credential(name), "{name}");
        }
        for name in ["PATH", "TOKENS", "ANTHROPIC_BASE_URL", "KEY"] {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn names_are_what_a_shell_takes() {
        assert!(is_variable_name("_A1"));
        for name in ["", "1A", "A-B", "A=B", "A\n", "É"] {
            assert!(!is_variable_name(name), "{name:?}");
        }
    }
}
