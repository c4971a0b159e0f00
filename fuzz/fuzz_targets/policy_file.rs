//! The text of a `policy.toml`.
#![no_main]

use sbx_spec::{Origin, PolicyEdit, PolicyFile};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(read) = PolicyFile::parse(text, &Origin::User) else {
        return;
    };
    // What was read is read again once it is written.
    let edits: Vec<_> = read.rules.iter().cloned().map(PolicyEdit::Add).collect();
    let (written, _) = PolicyFile::edit("", &Origin::User, &edits).expect("rules can be written");
    let again = PolicyFile::parse(&written, &Origin::User).expect("what was written is a policy");
    assert!(read.rules.iter().all(|rule| again.rules.contains(rule)));
});
