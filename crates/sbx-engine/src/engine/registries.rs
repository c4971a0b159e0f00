//! The package registries that count for a sandbox: those that the tools of
//! whoever started it use, for as long as it runs. Who edits its policy from
//! another shell, or without any settings, changes nothing about them.

use sbx_spec::Resource;
use sbx_sys::file;
use serde::{Deserialize, Serialize};

use super::Engine;
use crate::command::{Code, Error};
use crate::store::{SandboxDir, State};

/// What was found at the start, in the sandbox's directory.
const FILE: &str = "registries.json";
/// Most bytes of it.
const MAX_FILE: usize = 64 * 1024;
const VERSION: u32 = 1;

/// Registries, each with the name of its tool.
pub(super) type Registries = Vec<(String, Resource)>;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    registries: Registries,
}

impl Engine {
    /// The registries that count for a sandbox: the caller's, unless it runs.
    ///
    /// # Errors
    /// If it cannot be told whether it runs, or those of its start cannot be
    /// read.
    pub(super) fn registries(&self, sandbox: &SandboxDir) -> Result<Registries, Error> {
        if !matches!(sandbox.state()?, State::Live(_)) {
            return Ok(self.caller.registries.clone());
        }
        let failed = || {
            let what = format!("cannot read the registries of `{}`", sandbox.name());
            Error::new(Code::BrokenSandbox, what)
        };
        let bytes = match file::read_bounded(sandbox.join(FILE), MAX_FILE) {
            Ok(bytes) => bytes,
            // An earlier version started it.
            Err(error) if error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
                return Ok(self.caller.registries.clone());
            }
            Err(error) => return Err(failed().because(error)),
        };
        let file: File = serde_json::from_slice(&bytes).map_err(|error| failed().because(error))?;
        if file.version != VERSION {
            return Err(failed().hint("another version of sbx wrote it"));
        }
        Ok(file.registries)
    }

    /// Keeps the caller's registries for a sandbox that is about to start.
    ///
    /// # Errors
    /// If they cannot be written.
    pub(super) fn keep_registries(&self, sandbox: &SandboxDir) -> Result<(), Error> {
        let failed = || {
            let what = format!("cannot write the registries of `{}`", sandbox.name());
            Error::new(Code::State, what)
        };
        let file = File {
            version: VERSION,
            registries: self.caller.registries.clone(),
        };
        let text = serde_json::to_vec(&file).map_err(|error| failed().because(error))?;
        file::open_dir(sandbox.join("."))
            .and_then(|directory| file::replace_for_this_boot_at(&directory, FILE, &text))
            .map_err(|error| failed().because(error))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fake::host;
    use super::*;
    use crate::command::PolicyScope;

    #[tokio::test]
    async fn the_registries_of_a_start_count_whoever_edits_the_policy_meanwhile() {
        let mut host = host();
        let corp = ("npm".to_owned(), "npm.corp.example:443".parse().unwrap());
        host.engine.caller.registries = vec![corp.clone()];
        let sandbox = host.sandbox("box");
        host.engine.keep_registries(&sandbox).unwrap();
        let (proof, calls) = host.running(&sandbox, |_| Ok(json!({ "cut": 0 })));

        let other = ("pip".to_owned(), "pip.other.example:443".parse().unwrap());
        host.engine.caller.registries = vec![other.clone()];
        host.engine
            .edit_policy(&PolicyScope::User, &[])
            .await
            .unwrap();
        let told = calls.lock()[0].to_string();
        assert!(told.contains("npm.corp.example"), "{told}");
        assert!(!told.contains("pip.other.example"), "{told}");
        // The next start is by the settings of whoever starts it.
        drop(proof);
        assert_eq!(host.engine.registries(&sandbox).unwrap(), [other]);
    }

    #[test]
    fn registries_of_another_version_are_not_taken_for_none() {
        let host = host();
        let sandbox = host.sandbox("box");
        let _proof = sandbox.supervise().unwrap();
        assert_eq!(host.engine.registries(&sandbox).unwrap(), []);
        std::fs::write(sandbox.join(FILE), r#"{"version":2,"registries":[]}"#).unwrap();
        let error = host.engine.registries(&sandbox).unwrap_err();
        assert_eq!(error.code, Code::BrokenSandbox);
    }
}
