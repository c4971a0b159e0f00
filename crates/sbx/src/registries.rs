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

/// Every registry found, with the name of its tool, each once. `etc` has what
/// the host's tools are configured by for everybody.
pub(crate) fn registries(
    environment: &Environment,
    home: &Path,
    etc: &Path,
) -> Vec<(String, Resource)> {
    let mut found = Found::default();
    npm(environment, home, etc, &mut found);
    pip(environment, home, etc, &mut found);
    cargo(environment, home, &mut found);
    go(environment, home, &mut found);
    apt(etc, &mut found);
    found.0
}

/// Where programs that keep to the XDG specification have their settings: a
/// relative path in the variable counts as none.
fn config(environment: &Environment, home: &Path) -> PathBuf {
    environment
        .value("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .unwrap_or_else(|| home.join(".config"))
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

fn npm(environment: &Environment, home: &Path, etc: &Path, found: &mut Found) {
    for name in ["npm_config_registry", "NPM_CONFIG_REGISTRY"] {
        found.add("npm", environment.text(name).unwrap_or_default());
    }
    let own = environment
        .value("NPM_CONFIG_USERCONFIG")
        .map_or_else(|| home.join(".npmrc"), PathBuf::from);
    for path in [own, etc.join("npmrc")] {
        for (key, value) in settings(&text(&path)) {
            if key == "registry" || (key.starts_with('@') && key.ends_with(":registry")) {
                found.add("npm", value);
            }
        }
    }
}

fn pip(environment: &Environment, home: &Path, etc: &Path, found: &mut Found) {
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
        config(environment, home).join("pip/pip.conf"),
        home.join(".pip/pip.conf"),
        etc.join("xdg/pip/pip.conf"),
        etc.join("pip.conf"),
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
    let mut add = |index: &str| {
        found.add("cargo", index.strip_prefix("sparse+").unwrap_or(index));
    };
    for (name, value) in environment.texts() {
        // The registry's name stands in between, in capitals.
        if name.starts_with("CARGO_REGISTRIES_") && name.ends_with("_INDEX") {
            add(value);
        }
    }
    for name in ["config.toml", "config"] {
        // What is no TOML is nothing to cargo either.
        let Ok(table) = text(&root.join(name)).parse::<toml::Table>() else {
            continue;
        };
        let of = |value: &toml::Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        let below = |section: &str, key: &str| {
            let entries = table.get(section).and_then(toml::Value::as_table);
            let entries = entries.into_iter().flatten();
            entries.filter_map(|(_, entry)| of(entry, key)).collect()
        };
        let indices: Vec<String> = below("registries", "index");
        let replaced: Vec<String> = below("source", "registry");
        let default = table.get("registry").and_then(|value| of(value, "index"));
        for index in indices.iter().chain(&replaced).chain(&default) {
            add(index);
        }
    }
}

fn go(environment: &Environment, home: &Path, found: &mut Found) {
    let file = match environment.text("GOENV") {
        Some("off") => String::new(),
        Some(path) => text(Path::new(path)),
        None => text(&config(environment, home).join("go/env")),
    };
    let written = settings(&file)
        .find(|(key, _)| *key == "GOPROXY")
        .map(|(_, value)| value);
    let value = environment.text("GOPROXY").or(written).unwrap_or_default();
    for url in value.split([',', '|']) {
        found.add("go", url);
    }
}

fn apt(etc: &Path, found: &mut Found) {
    let mut paths = vec![etc.join("apt/sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc.join("apt/sources.list.d")) {
        paths.extend(entries.flatten().map(|entry| entry.path()));
    }
    paths.sort();
    for path in paths.iter().take(MAX) {
        let text = text(path);
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("list") => text.lines().for_each(|line| source(line, found)),
            Some("sources") => stanzas(&text, found),
            // apt reads no others.
            _ => {}
        }
    }
}

/// A line of `sources.list` (5): type, options in brackets, address, the rest.
fn source(line: &str, found: &mut Found) {
    let Some((kind, rest)) = line.trim().split_once([' ', '\t']) else {
        return;
    };
    let rest = rest.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
        None => rest,
    };
    if matches!(kind, "deb" | "deb-src") {
        found.add("apt", rest.split_whitespace().next().unwrap_or_default());
    }
}

/// A file of `sources.list` (5) in its other form: paragraphs of fields, of
/// which each may go on in lines that begin with a space.
fn stanzas(text: &str, found: &mut Found) {
    let mut addresses: Vec<String> = Vec::new();
    let (mut enabled, mut field) = (true, String::new());
    // The last paragraph ends with the text.
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            if enabled {
                addresses.iter().for_each(|url| found.add("apt", url));
            }
            (addresses, enabled, field) = (Vec::new(), true, String::new());
            continue;
        }
        let mut value = line;
        if !line.starts_with([' ', '\t'])
            && let Some((name, rest)) = line.split_once(':')
        {
            (field, value) = (name.trim().to_ascii_lowercase(), rest);
        }
        match field.as_str() {
            "uris" => addresses.extend(value.split_whitespace().map(str::to_owned)),
            "enabled" => enabled = !matches!(value.trim(), "no" | "false" | "0" | "off"),
            _ => {}
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

    /// What is found where these files are below `home` and `etc`.
    fn found(files: &[(&str, &str)], vars: &[(&str, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        let home = root.path().join("home");
        let vars: Vec<(&str, String)> = vars
            .iter()
            .map(|(name, value)| (*name, value.replace('~', home.to_str().unwrap())))
            .collect();
        let vars: Vec<(&str, &str)> = vars.iter().map(|(name, value)| (*name, &**value)).collect();
        registries(&Environment::of(&vars), &home, &root.path().join("etc"))
            .into_iter()
            .map(|(tool, resource)| format!("{tool} {resource}"))
            .collect()
    }

    #[test]
    fn the_registries_of_each_tool_are_found_and_nothing_else() {
        let files = [
            (
                "home/.npmrc",
                "registry=https://npm.corp.example/x/\n@a:registry = https://a.example:8443/\n\
                 //npm.corp.example/:_authToken=secret\n; registry=https://no.example/\n",
            ),
            (
                "home/.config/pip/pip.conf",
                "[global]\nindex-url = https://u:p@pip.corp.example/simple\n\
                 extra-index-url =\n    https://b.example/simple\n    http://c.example\n",
            ),
            (
                "home/.cargo/config.toml",
                "[source.x]\nregistry = \"sparse+https://cargo.corp.example/i/\"\n[build]\njobs = 1\n",
            ),
            (
                "home/.config/go/env",
                "GOPROXY=https://go.corp.example,direct\n",
            ),
        ];
        assert_eq!(
            found(&files, &[("PIP_INDEX_URL", "https://env.example/simple")]),
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
                "home/.npmrc",
                "registry=\nregistry=file:///x\nregistry=https://localhost:4873/\n\
                 registry=https://127.0.0.1/\nregistry=https://**/\n",
            ),
            ("home/.config/go/env", "GOPROXY=off\n"),
        ];
        assert_eq!(found(&files, &[]), [""; 0]);
    }

    #[test]
    fn cargo_is_understood_however_it_is_written_and_by_its_variables() {
        let config = "registries.dotted.index = \"sparse+https://dotted.example/i/\"\n\
                      source.mirror = { registry = 'https://inline.example/i' }\n\
                      # registries.no.index = \"https://no.example\"\n\
                      [registries.spaced]\nindex=\"https://table.example/\"\n\
                      token = \"https://secret.example\"\n\
                      [net]\nindex = \"https://other.example\"\n";
        assert_eq!(
            found(
                &[("home/.cargo/config.toml", config)],
                &[(
                    "CARGO_REGISTRIES_CORP_INDEX",
                    "sparse+https://env.example/i/"
                )],
            ),
            [
                "cargo env.example:443",
                "cargo dotted.example:443",
                "cargo table.example:443",
                "cargo inline.example:443",
            ]
        );
    }

    #[test]
    fn apt_is_understood_in_both_forms() {
        let list = "# deb https://no.example/debian x main\n\
                    deb [arch=amd64 signed-by=/k.gpg] https://list.example/debian x main\n\
                    deb-src http://sources.example/debian x main\n\
                    rpm https://no.example/\n";
        let stanzas = "Types: deb\nuris: https://first.example/debian\n\
                       # https://no.example/\n https://second.example:8443/debian\n\
                       Suites: x\n  https://no.example/\n\n\
                       Types: deb\nURIs: https://off.example/\nEnabled: no\n\n\
                       URIs:\n\thttps://third.example/\n";
        let files = [
            ("etc/apt/sources.list", list),
            ("etc/apt/sources.list.d/corp.sources", stanzas),
            ("etc/apt/sources.list.d/old.list.save", list),
            (
                "etc/apt/sources.list.d/other.sources.disabled",
                "URIs: https://no.example/\n",
            ),
        ];
        assert_eq!(
            found(&files, &[]),
            [
                "apt list.example:443",
                "apt sources.example:80",
                "apt first.example:443",
                "apt second.example:8443",
                "apt third.example:443",
            ]
        );
    }

    #[test]
    fn settings_are_looked_for_where_the_tools_look() {
        let files = [
            (
                "home/.config/pip/pip.conf",
                "index-url = https://no.example/\n",
            ),
            ("home/.config/go/env", "GOPROXY=https://no.example\n"),
            (
                "home/xdg/pip/pip.conf",
                "index-url = https://pip.example/\n",
            ),
            ("home/xdg/go/env", "GOPROXY=https://xdg.example\n"),
            ("home/goenv", "GOPROXY=https://goenv.example\n"),
            ("etc/npmrc", "registry=https://npm.example/\n"),
        ];
        let xdg = ("XDG_CONFIG_HOME", "~/xdg");
        let rest = ["npm npm.example:443", "pip pip.example:443"];
        let with = |vars: &[(&str, &str)]| found(&files, vars);
        assert_eq!(with(&[xdg]), [&rest[..], &["go xdg.example:443"]].concat());
        assert_eq!(
            with(&[xdg, ("GOENV", "~/goenv")]),
            [&rest[..], &["go goenv.example:443"]].concat()
        );
        assert_eq!(with(&[xdg, ("GOENV", "off")]), rest);
    }
}
