//! The house rules. Each is a function from the tree to findings; each works on text alone, so
//! that it is tested on a few lines.

mod bounds;
mod code;
mod crates;
mod documents;
pub(crate) mod guards;
mod names;
pub(crate) mod promises;
mod words;

use std::fmt;

use crate::tree::Tree;

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// `path` or `path:line`.
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            what: what.into(),
        }
    }

    fn at(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self::new(format!("{path}:{line}"), what)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// All findings, by place.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(crates::check(tree));
    findings.extend(code::check(tree));
    findings.extend(names::check(tree));
    findings.extend(words::check(tree));
    findings.extend(documents::check(tree));
    findings.extend(guards::check(tree));
    findings.extend(promises::check(tree));
    findings.sort();
    findings.dedup();
    findings
}

#[cfg(test)]
fn whats(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|f| f.what.as_str()).collect()
}
