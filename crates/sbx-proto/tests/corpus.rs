//! Replays what the fuzz targets have found or start from.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let entries = std::fs::read_dir(root.join(target)).unwrap();
    let files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "the corpus of {target} is gone");
    files
}

/// Files whose name starts so are what an honest side sends.
fn is_good(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_string_lossy();
    name.starts_with("good-")
}

#[test]
fn every_frame_of_the_corpus_is_taken_or_refused() {
    for file in corpus("proto_frame") {
        let frames = sbx_proto::replay::frames(&std::fs::read(&file).unwrap());
        assert_eq!(frames > 0, is_good(&file), "{}", file.display());
    }
}

#[test]
fn every_message_of_the_corpus_is_taken_or_refused() {
    for file in corpus("proto_messages") {
        let messages = sbx_proto::replay::messages(&std::fs::read(&file).unwrap());
        assert_eq!(messages > 0, is_good(&file), "{}", file.display());
    }
}
