//! What the caller tells about the host: where things are, and the few
//! variables that the clients of package archives need.

use std::path::{Path, PathBuf};

use crate::error::{Error, MissingPackage};

/// Where programs of the host are looked for, whatever the caller's PATH.
const PROGRAM_DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Variables that decide how a package client reaches its archive. Nothing
/// else of the caller's environment reaches a program that we start.
const CLIENT_VARIABLES: [&str; 14] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "NODE_EXTRA_CA_CERTS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "npm_config_registry",
    "npm_config_cafile",
    "NPM_CONFIG_REGISTRY",
];

/// The host as the caller sees it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The directory of the running program, links resolved.
    pub exe_dir: PathBuf,
    /// The caller's home directory, if there is one.
    pub home: Option<PathBuf>,
    /// The caller's effective user id.
    pub uid: u32,
    client_env: Vec<(String, String)>,
}

impl Host {
    /// Describes the host. Of `env`, the caller's environment, only the
    /// variables that package clients need are kept.
    #[must_use]
    pub fn new(
        exe_dir: PathBuf,
        home: Option<PathBuf>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut client_env: Vec<_> = env
            .into_iter()
            .filter(|(name, _)| CLIENT_VARIABLES.contains(&name.as_str()))
            .collect();
        client_env.sort();
        Self {
            exe_dir,
            home,
            uid: rustix::process::geteuid().as_raw(),
            client_env,
        }
    }

    /// Whether the caller is root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(crate) fn client_env(&self) -> &[(String, String)] {
        &self.client_env
    }
}

/// A program of the host that some work needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
    pub(crate) why: &'static str,
}

/// Which of `needs` are not there. A program with a `/` is a file of any
/// kind at that path.
pub(crate) fn missing(needs: &[Need]) -> Vec<MissingPackage> {
    let absent = needs
        .iter()
        .filter(|need| find_program(need.program).is_none());
    absent
        .map(|need| MissingPackage {
            program: need.program.to_owned(),
            package: need.package.to_owned(),
            why: need.why.to_owned(),
        })
        .collect()
}

/// An error that lists everything missing, if anything is.
pub(crate) fn require(needs: &[Need]) -> Result<(), Error> {
    let missing = missing(needs);
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::MissingPackages(missing))
    }
}

pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| PathBuf::from(program));
    }
    PROGRAM_DIRECTORIES
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_clients_need_is_kept_of_the_environment() {
        let env = [
            ("https_proxy", "p"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("PATH", "/evil"),
        ];
        let env = env.map(|(n, v)| (n.to_owned(), v.to_owned()));
        let host = Host::new("/x".into(), None, env);
        assert_eq!(
            host.client_env(),
            [("https_proxy".to_owned(), "p".to_owned())]
        );
    }

    #[test]
    fn everything_missing_is_listed_at_once() {
        let needs = ["sh", "sbx-no-such-a", "sbx-no-such-b"].map(|program| Need {
            program,
            package: "p",
            why: "a test",
        });
        let Err(Error::MissingPackages(list)) = require(&needs) else {
            panic!("nothing missing")
        };
        assert_eq!(list.len(), 2);
        assert!(require(&needs[..1]).is_ok());
    }
}
