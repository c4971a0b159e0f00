//! What an agent would ask at its first start and the kit can answer.

use sbx_spec::{EnvVar, GuestPath};
use serde::Deserialize;
use serde_json::json;

use crate::error::Error;

/// What is known about a session before it starts.
#[derive(Clone, Copy, Debug)]
pub struct HomeContext<'a> {
    /// Where the session starts.
    pub workdir: &'a GuestPath,
    /// The session's variables.
    pub env: &'a [EnvVar],
}

/// A file in the agent's home, to be written only where there is none: what
/// the agent made of it later stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HomeFile {
    /// Below the home directory, such as `.claude.json`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Contents.
    pub content: Vec<u8>,
}

/// Whose first start it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FirstStart {
    /// Nobody asks anything.
    None,
    /// Claude Code.
    ClaudeCode,
}

impl FirstStart {
    pub(super) fn home_files(self, context: &HomeContext<'_>) -> Result<Vec<HomeFile>, Error> {
        match self {
            Self::None => Ok(Vec::new()),
            Self::ClaudeCode => Ok(vec![claude_json(context)?]),
        }
    }
}

/// Claude Code 2.1 asks, in this order: theme and login (onboarding, which
/// also probes the vendor's hosts), whether to use an API key it finds, whether
/// the directory is trusted, and, in its unattended mode, whether the user
/// means it. All four were answered when `sbx run` was typed.
fn claude_json(context: &HomeContext<'_>) -> Result<HomeFile, Error> {
    let mut settings = json!({
        "hasCompletedOnboarding": true,
        "theme": "dark",
        "bypassPermissionsModeAccepted": true,
        "projects": {
            context.workdir.as_path().to_string_lossy(): { "hasTrustDialogAccepted": true }
        },
    });
    let key = context
        .env
        .iter()
        .find(|var| var.name == "ANTHROPIC_API_KEY");
    if let Some(key) = key.filter(|key| !key.value.is_empty()) {
        settings["customApiKeyResponses"] =
            json!({ "approved": [last_characters(&key.value, 20)], "rejected": [] });
    }
    let content = serde_json::to_vec_pretty(&settings)
        .map_err(|error| Error::form("the settings of claude", error))?;
    Ok(HomeFile {
        path: ".claude.json".to_owned(),
        mode: 0o600,
        content,
    })
}

/// The agent recognises an approved key by its end.
fn last_characters(text: &str, n: usize) -> String {
    let skip = text.chars().count().saturating_sub(n);
    text.chars().skip(skip).collect()
}
