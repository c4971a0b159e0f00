//! The names that sbx ships as held, each with what the host would do with it.
//!
//! One table: the patterns are made from it, and a test holds `docs/workspace.md` against it.
//! What is only read as prose (`AGENTS.md`, `CLAUDE.md`) or run by hand is not on it.

/// One held name and why.
#[derive(Clone, Copy, Debug)]
pub struct HeldName {
    /// The name of one entry, or for [`PATHS`] several joined by slashes. A `*` stands for any
    /// part of one name.
    pub name: &'static str,
    /// What a program of the host would do with it, unasked.
    pub why: &'static str,
}

impl HeldName {
    /// Whether `name` is the last part of it.
    #[must_use]
    pub fn ends_as(&self, name: &[u8]) -> bool {
        let last = self.name.rsplit('/').next().unwrap_or_default();
        super::pattern::is(last.as_bytes(), name)
    }
}

const fn held(name: &'static str, why: &'static str) -> HeldName {
    HeldName { name, why }
}

const EDITOR: &str = "tasks and settings of an editor";
const AGENT: &str = "commands, hooks and servers of an agent on the host";
const ENTERED: &str = "run when a shell enters the directory";
const SHELL: &str = "read by a shell when it starts";
const VENV: &str = "run by editors that find the virtual environment";
const COMMIT: &str = "says what the hooks in place run at the next commit";
const HOOKS: &str = "hooks that git is commonly told to run from here";
const VIM: &str = "sourced by vim or neovim in this directory";
const GIT: &str = "executed by git, or says what git executes";
const REPOSITORY: &str = "says what programs another version control runs";
const SEQUENCE: &str = "may hold commands for `git rebase --continue`";

/// Held at any depth, with all that is beneath.
pub const ANYWHERE: &[HeldName] = &[
    held(".vscode", EDITOR),
    held(".idea", EDITOR),
    held(".zed", EDITOR),
    held(".helix", EDITOR),
    held(".vim", VIM),
    held(".exrc", VIM),
    held(".vimrc", VIM),
    held(".lvimrc", VIM),
    held(".nvimrc", VIM),
    held(".nvim.lua", VIM),
    held(".dir-locals.el", EDITOR),
    held(".dir-locals-2.el", EDITOR),
    held(".devcontainer", "commands of a development container"),
    held(".devcontainer.json", "commands of a development container"),
    held(".claude", AGENT),
    held(".mcp.json", AGENT),
    held(".cursor", AGENT),
    held(".windsurf", AGENT),
    held(".codex", AGENT),
    held(".gemini", AGENT),
    held(".copilot", AGENT),
    held(".opencode", AGENT),
    held("opencode.json", AGENT),
    held("opencode.jsonc", AGENT),
    held(".aider.conf.yml", AGENT),
    held(".qwen", AGENT),
    held(".kiro", AGENT),
    held(".roo", AGENT),
    held(".kilocode", AGENT),
    held(".amazonq", AGENT),
    held(".continue", AGENT),
    held(".factory", AGENT),
    held(".junie", AGENT),
    held(".amp", AGENT),
    held(".augment", AGENT),
    held(".grok", AGENT),
    held(".pi", AGENT),
    held(".vibe", AGENT),
    held("crush.json", AGENT),
    held(".crush.json", AGENT),
    held(".envrc", ENTERED),
    held("mise.toml", ENTERED),
    held(".mise.toml", ENTERED),
    held("mise.*.toml", ENTERED),
    held(".mise.*.toml", ENTERED),
    held(".mise", ENTERED),
    held("miserc.toml", ENTERED),
    held(".miserc.toml", ENTERED),
    held(".rtx.toml", ENTERED),
    held(".rtx.*.toml", ENTERED),
    held(".shadowenv.d", ENTERED),
    held(".bashrc", SHELL),
    held(".bash_profile", SHELL),
    held(".bash_login", SHELL),
    held(".bash_logout", SHELL),
    held(".profile", SHELL),
    held(".zshrc", SHELL),
    held(".zshenv", SHELL),
    held(".zprofile", SHELL),
    held(".zlogin", SHELL),
    held(".zlogout", SHELL),
    held(".kshrc", SHELL),
    held(".cshrc", SHELL),
    held(".tcshrc", SHELL),
    held("config.fish", SHELL),
    held(".husky", HOOKS),
    held(".githooks", HOOKS),
    held(".lefthook", HOOKS),
    held(".lefthook-local", HOOKS),
    held(".pre-commit-config.yaml", COMMIT),
    held(".pre-commit-config.yml", COMMIT),
    held("prek.toml", COMMIT),
    held("hk.pkl", COMMIT),
    held("hk.local.pkl", COMMIT),
    held(".hkrc.pkl", COMMIT),
    held("lefthook.yml", COMMIT),
    held(".lefthook.yml", COMMIT),
    held("lefthook.yaml", COMMIT),
    held("lefthook.toml", COMMIT),
    held("lefthook.json", COMMIT),
    held("lefthook.jsonc", COMMIT),
    held("lefthook-local.yml", COMMIT),
    held("lefthook-local.yaml", COMMIT),
    held("lefthook-local.toml", COMMIT),
    held("lefthook-local.json", COMMIT),
    held("lefthook-local.jsonc", COMMIT),
    held(".lefthook.yaml", COMMIT),
    held(".lefthook.toml", COMMIT),
    held(".lefthook.json", COMMIT),
    held(".lefthook.jsonc", COMMIT),
    held(".lefthook-local.yml", COMMIT),
    held(".lefthook-local.yaml", COMMIT),
    held(".lefthook-local.toml", COMMIT),
    held(".lefthook-local.json", COMMIT),
    held(".lefthook-local.jsonc", COMMIT),
    held(".overcommit.yml", COMMIT),
    held("hgrc", "hooks of a Mercurial repository"),
    held("hgrc-not-shared", "hooks of a Mercurial repository"),
];

/// Held below a directory, at any depth.
pub const PATHS: &[HeldName] = &[
    held(".github/hooks", AGENT),
    held(".clinerules/hooks", AGENT),
    held(".config/mise", ENTERED),
    held("mise/conf.d", ENTERED),
    held("mise/config.toml", ENTERED),
    held("mise/config.*.toml", ENTERED),
    held(".jj/repo/config.toml", REPOSITORY),
    held(".jj/workspace-config.toml", REPOSITORY),
    held(".sl/config", REPOSITORY),
];

/// Held outside of any `.git` directory unless it is a directory.
pub const OUTSIDE_GIT: &[HeldName] = &[
    held("HEAD", "what makes a directory a repository"),
    held("pyvenv.cfg", VENV),
    held("python", VENV),
    held("python3", VENV),
    held("python3.9", VENV),
    held("python3.10", VENV),
    held("python3.11", VENV),
    held("python3.12", VENV),
    held("python3.13", VENV),
    held("python3.14", VENV),
    held("python3.15", VENV),
    held("activate", VENV),
    held("activate.csh", VENV),
    held("activate.fish", VENV),
];

/// Held at any depth inside a `.git` directory, and in a repository without one.
pub const INSIDE_GIT: &[HeldName] = &[
    held("hooks", GIT),
    held("config", GIT),
    held("config.worktree", GIT),
    held("commondir", "points git elsewhere"),
    held("gitdir", "points git elsewhere"),
    held("rebase-merge", SEQUENCE),
    held("rebase-apply", SEQUENCE),
    held("sequencer", SEQUENCE),
];

/// Held at any depth among the branches and logs inside a `.git` directory, where the names above
/// are names of branches.
pub const INSIDE_GIT_DATA: &[HeldName] = &[
    held("objects", "what makes a directory a repository"),
    held("commondir", "points git elsewhere"),
];

/// Directly inside a `.git` directory: held as far as the host does not have it yet.
pub const NEW_INSIDE_GIT: &[HeldName] = &[held("worktrees", "points git elsewhere")];

/// Directories directly inside `.git` whose contents are data under names that users choose.
pub(super) const GIT_DATA: &[&str] = &["refs", "logs"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_held_name_in_its_table() {
        let table: String = include_str!("../../../../docs/workspace.md")
            .lines()
            .filter(|line| line.starts_with('|'))
            .filter_map(|line| line.split(" | ").nth(1))
            .collect();
        for held in [ANYWHERE, PATHS, OUTSIDE_GIT, INSIDE_GIT, INSIDE_GIT_DATA]
            .into_iter()
            .flatten()
            .chain(NEW_INSIDE_GIT)
        {
            let HeldName { name, why } = held;
            assert!(table.contains(&format!("`{name}`")), "{name}: {why}");
        }
    }
}
