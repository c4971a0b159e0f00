//! Tests are named as sentences.

use sbx_spec::Isolation;

use super::Finding;
use crate::tree::Tree;

/// Words of a sentence: fewer name a thing and say nothing of it.
const MIN_WORDS: usize = 3;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.rust() {
        let short = source.tests.iter().filter(|(_, name)| !is_sentence(name));
        findings.extend(short.map(|(line, name)| {
            Finding::at(
                &file.path,
                *line,
                format!("the test `{name}` is not named as a sentence"),
            )
        }));
    }
    findings
}

/// A behaviour of `e2e` is named as a sentence itself; the test of it in one isolation has the
/// isolation's name.
fn is_sentence(name: &str) -> bool {
    let mut isolations = Isolation::ALL.iter().map(ToString::to_string);
    isolations.any(|isolation| isolation == name) || is_long(name)
}

fn is_long(name: &str) -> bool {
    name.split('_').filter(|word| !word.is_empty()).count() >= MIN_WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_has_three_words() {
        assert!(is_sentence("absence_denies_everything"));
        assert!(is_sentence("container"), "of a behaviour");
        assert!(!is_sentence("decide_works"));
        assert!(!is_sentence("__decide__works__"));
    }
}
