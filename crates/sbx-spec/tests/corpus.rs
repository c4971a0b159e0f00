//! Replays what the fuzz target of policies has found or starts from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use sbx_spec::{Origin, PolicyEdit, PolicyFile};

#[test]
fn every_policy_of_the_corpus_is_refused_or_read_again_as_it_was_written() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/policy_file");
    let mut good = 0;
    for entry in fs::read_dir(corpus).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let text = fs::read_to_string(entry.path()).unwrap();
        let read = PolicyFile::parse(&text, &Origin::User);
        assert_eq!(read.is_ok(), name.starts_with("good-"), "{name}: {read:?}");
        let Ok(read) = read else { continue };
        good += read.rules.len();
        let edits: Vec<_> = read.rules.iter().cloned().map(PolicyEdit::Add).collect();
        let (written, _) = PolicyFile::edit("", &Origin::User, &edits).unwrap();
        let again = PolicyFile::parse(&written, &Origin::User).unwrap();
        for rule in &read.rules {
            assert!(
                again.rules.contains(rule),
                "{name}: {rule:?} is not in {written}"
            );
        }
    }
    assert!(good > 0, "no policy of the corpus is good");
}
