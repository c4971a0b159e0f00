//! The commands on this host: doctor, gc, version, completion.

use clap::{Args, ValueEnum};
use sbx_engine::command::{Command, DoctorRequest, GcRequest};

/// Check this host, and say how to mend what is missing
///
/// Exits 1 if a check fails. Example: sbx doctor --json
#[derive(Args, Debug)]
pub(crate) struct DoctorFlags {
    /// Verify kernel, template and agents by their contents too
    #[arg(long)]
    full: bool,
}

/// Give back what nothing needs any more
///
/// Finishes what a crash left behind, and frees caches that no sandbox uses.
/// Example: sbx gc --dry-run
#[derive(Args, Debug)]
pub(crate) struct GcFlags {
    /// Say what would be freed and free nothing
    #[arg(long)]
    dry_run: bool,
}

/// Print the completion script of a shell
///
/// Example: sbx completion bash > ~/.local/share/bash-completion/completions/sbx
#[derive(Args, Debug)]
pub(crate) struct CompletionFlags {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// A shell that completions are made for.
#[derive(Clone, Copy, ValueEnum, Debug)]
pub(crate) enum Shell {
    /// GNU bash.
    Bash,
    /// zsh.
    Zsh,
    /// fish.
    Fish,
}

impl DoctorFlags {
    pub(super) fn command(&self) -> Command {
        Command::Doctor(DoctorRequest { full: self.full })
    }
}

impl GcFlags {
    pub(super) fn command(&self) -> Command {
        Command::Gc(GcRequest {
            dry_run: self.dry_run,
        })
    }
}

/// The completion script for `shell`.
pub(crate) fn completion(mut command: clap::Command, shell: Shell) -> Vec<u8> {
    use clap_complete::shells::{Bash, Fish, Zsh};
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(Bash, &mut command, "sbx", &mut script),
        Shell::Zsh => clap_complete::generate(Zsh, &mut command, "sbx", &mut script),
        Shell::Fish => clap_complete::generate(Fish, &mut command, "sbx", &mut script),
    }
    script
}
