//! The package registries that this host's own tools are configured to use:
//! npm, pip, cargo, go and apt.
//!
//! Owns: where those tools keep that setting. Never: takes anything else
//! from their files, credentials least of all; asks the tools. What is no
//! address of a registry is left out: the worst of it is a denied download
//! that names the rule to add.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sbx_spec::Resource;

use crate::environment::Environment;

/// Most bytes of a configuration file that are looked at.
const MAX_FILE: u64 = 256 * 1024;
/// Most registries that are taken over.
const MAX: usize = 64;

/// Every registry found, with the name of its tool, each once.
pub(crate) fn registries(environment: &Environment, home: &Path) -> Vec<(String, Resource)> {
    let mut found = Found::default();
    npm(environment, home, &mut found);
    pip(environment, home, &mut found);
    cargo(environment, home, &mut found);
    go(environment, home, &mut found);
    apt(&mut found);
    found.0
}

#[derive(Default)]
struct Found(Vec<(String, Resource)>);

impl Found {
    /// Takes the host and port of an address, if it is one that a rule of
    /// this kind may name: never this host itself, and never a network.
    fn add(&mut self, tool: &str, url: &str) {
        let Some(resource) = Resource::of_url(url.trim()) else {
            return;
        };
        let entry = (tool.to_owned(), resource);
        if self.0.len() < MAX && !self.0.contains(&entry) {
            self.0.push(entry);
        }
    }
}

fn npm(environment: &Environment, home: &Path, found: &mut Found) {
    for name in ["npm_config_registry", "NPM_CONFIG_REGISTRY"] {
        found.add("npm", environment.text(name).unwrap_or_default());
    }
    let own = environment
        .value("NPM_CONFIG_USERCONFIG")
        .map_or_else(|| home.join(".npmrc"), PathBuf::from);
    for path in [own, PathBuf::from("/etc/npmrc")] {
        for (key, value) in settings(&text(&path)) {
            if key == "registry" || (key.starts_with('@') && key.ends_with(":registry")) {
                found.add("npm", value);
            }
        }
    }
}

fn pip(environment: &Environment, home: &Path, found: &mut Found) {
    for name in ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL"] {
        for url in environment
            .text(name)
            .unwrap_or_default()
            .split_whitespace()
        {
            found.add("pip", url);
        }
    }
    let mut paths = vec![
        home.join(".config/pip/pip.conf"),
        home.join(".pip/pip.conf"),
        PathBuf::from("/etc/pip.conf"),
    ];
    paths.extend(environment.value("PIP_CONFIG_FILE").map(PathBuf::from));
    for path in paths {
        let text = text(&path);
        let mut listing = false;
        for line in text.lines() {
            // A list goes on in the lines that are indented below its key.
            if listing && line.starts_with([' ', '\t']) {
                found.add("pip", line);
                continue;
            }
            listing = false;
            if let Some((key, value)) = setting(line)
                && matches!(key, "index-url" | "extra-index-url")
            {
                listing = true;
                for url in value.split_whitespace() {
                    found.add("pip", url);
                }
            }
        }
    }
}

fn cargo(environment: &Environment, home: &Path, found: &mut Found) {
    let root = environment
        .value("CARGO_HOME")
        .map_or_else(|| home.join(".cargo"), PathBuf::from);
    for name in ["config.toml", "config"] {
        for (key, value) in settings(&text(&root.join(name))) {
            if matches!(key, "registry" | "index") {
                let value = value.trim_matches(['"', '\'']);
                found.add("cargo", value.strip_prefix("sparse+").unwrap_or(value));
            }
        }
    }
}

fn go(environment: &Environment, home: &Path, found: &mut Found) {
    let file = text(&home.join(".config/go/env"));
    let written = settings(&file)
        .find(|(key, _)| *key == "GOPROXY")
        .map(|(_, value)| value);
    let value = environment.text("GOPROXY").or(written).unwrap_or_default();
    for url in value.split([',', '|']) {
        found.add("go", url);
    }
}

fn apt(found: &mut Found) {
    let mut paths = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    for path in paths.iter().take(MAX) {
        for line in text(path).lines() {
            let words = line.trim();
            if words.starts_with("deb") || words.starts_with("URIs:") {
                for word in words.split_whitespace() {
                    found.add("apt", word);
                }
            }
        }
    }
}

/// The text of a file, as far as it is looked at; nothing where there is
/// none.
fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| {
        if !file.metadata()?.is_file() {
            return Ok(0);
        }
        file.take(MAX_FILE).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

/// `key = value` lines; comments and headings are none.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(setting)
}

fn setting(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once('=')?;
    let key = key.trim();
    (!key.starts_with(['#', ';', '['])).then_some((key, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(files: &[(&str, &str)], vars: &[(&str, &str)]) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = home.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let environment = Environment::of(vars);
        let mut found = registries(&environment, home.path());
        found.retain(|(tool, _)| tool != "apt");
        found
            .into_iter()
            .map(|(tool, resource)| format!("{tool} {resource}"))
            .collect()
    }

    #[test]
    fn the_registries_of_each_tool_are_found_and_nothing_else() {
        let files = [
            (
                ".npmrc",
                "registry=https://npm.corp.example/x/\n@a:registry = https://a.example:8443/\n\
                 //npm.corp.example/:_authToken=secret\n; registry=https://no.example/\n",
            ),
            (
                ".config/pip/pip.conf",
                "[global]\nindex-url = https://u:p@pip.corp.example/simple\n\
                 extra-index-url =\n    https://b.example/simple\n    http://c.example\n",
            ),
            (
                ".cargo/config.toml",
                "[source.x]\nregistry = \"sparse+https://cargo.corp.example/i/\"\n[build]\njobs = 1\n",
            ),
            (".config/go/env", "GOPROXY=https://go.corp.example,direct\n"),
        ];
        assert_eq!(
            home(&files, &[("PIP_INDEX_URL", "https://env.example/simple")]),
            [
                "npm npm.corp.example:443",
                "npm a.example:8443",
                "pip env.example:443",
                "pip pip.corp.example:443",
                "pip b.example:443",
                "pip c.example:80",
                "cargo cargo.corp.example:443",
                "go go.corp.example:443",
            ]
        );
    }

    #[test]
    fn what_is_no_registry_is_left_out() {
        let files = [
            (
                ".npmrc",
                "registry=\nregistry=file:///x\nregistry=https://localhost:4873/\n\
                 registry=https://127.0.0.1/\nregistry=https://**/\n",
            ),
            (".config/go/env", "GOPROXY=off\n"),
        ];
        assert_eq!(home(&files, &[]), [""; 0]);
    }
}
