//! What no file of this repository says or is: places of one machine, hosts of package
//! registries, binaries.

use super::Finding;
use crate::tree::Tree;

/// Not written by hand.
const GENERATED: &[&str] = &["Cargo.lock"];

/// Hostile bytes that tests replay: small, and only here.
const CORPUS: &str = "fuzz/corpus/";
const MAX_SAMPLE: usize = 64 * 1024;

/// Directories that exist on a developer's machine only. In two parts, so that this file is not
/// its own first finding.
const PLACES: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/Use", "rs/"),
    ("/root/.", "pyenv"),
    ("/root/.", "cargo"),
];

/// Hosts that package clients are configured with. Policy names registrable domains, and tools are
/// asked for their own configuration; a host of one mirror would work on one machine.
const HOSTS: &[(&str, &str)] = &[
    ("registry.", "npmjs."),
    ("registry.", "yarnpkg."),
    ("index.", "crates.io"),
    ("static.", "crates.io"),
    ("files.", "pythonhosted."),
    ("proxy.", "golang."),
    ("deb.", "debian.org"),
    ("security.", "debian.org"),
    ("archive.", "ubuntu.com"),
    ("security.", "ubuntu.com"),
    ("registry-1.", "docker.io"),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree
        .files
        .iter()
        .filter(|f| !GENERATED.contains(&f.path.as_str()))
    {
        match &file.text {
            Some(text) => findings.extend(in_text(&file.path, text)),
            None if file.path.starts_with(CORPUS) && file.size <= MAX_SAMPLE => {}
            None => findings.push(Finding::new(&file.path, "is not text")),
        }
    }
    findings
}

fn in_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for (one, two) in PLACES {
            if starts_path(line, &format!("{one}{two}")) {
                let what = format!("names `{one}{two}`, a place of one machine");
                findings.push(Finding::at(path, at + 1, what));
            }
        }
        for (one, two) in HOSTS {
            if line.contains(&format!("{one}{two}")) {
                let what = format!("names `{one}{two}`, a host of a package registry");
                findings.push(Finding::at(path, at + 1, what));
            }
        }
    }
    findings
}

/// Whether `place` is the beginning of a path in this line, not a part of a longer one.
fn starts_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default().chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "._-}$*".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use super::super::whats;
    use super::*;

    #[test]
    fn places_of_a_machine_are_found_at_the_start_of_a_path() {
        let line = format!("see {}{}main", "/wo", "rk/");
        assert_eq!(in_text("p", &line).len(), 1);
        assert_eq!(in_text("p", "workdir=/scratch/work/x and $a/work/y"), []);
    }

    #[test]
    fn hosts_of_registries_are_found_and_domains_are_not() {
        let line = format!("https://{}{}org/x", "registry.", "npmjs.");
        assert_eq!(in_text("p", &line).len(), 1);
        assert_eq!(in_text("p", "allow **.npmjs.org"), []);
    }

    #[test]
    fn binaries_are_found_by_their_contents() {
        let tree = Tree::new(vec![
            crate::tree::File::new("a.txt", b"text".to_vec()),
            crate::tree::File::new("b.txt", b"\x7fELF\0".to_vec()),
            crate::tree::File::new("fuzz/corpus/t/c", b"\0".to_vec()),
        ]);
        assert_eq!(whats(&check(&tree)), ["is not text"]);
    }
}
