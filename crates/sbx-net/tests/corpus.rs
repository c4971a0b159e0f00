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

/// Files whose name starts so are what an honest guest sends.
fn is_good(file: &Path) -> bool {
    let name = file.file_name().unwrap().to_string_lossy();
    name.starts_with("good-")
}

#[test]
fn every_frame_of_the_corpus_is_read_or_dropped() {
    for file in corpus("net_frame") {
        let read = sbx_net::replay::frame(&std::fs::read(&file).unwrap());
        assert_eq!(read, is_good(&file), "{}", file.display());
    }
}

#[test]
fn every_query_of_the_corpus_is_answered_or_dropped() {
    for file in corpus("net_dns") {
        let answered = sbx_net::replay::dns(&std::fs::read(&file).unwrap());
        assert_eq!(answered, is_good(&file), "{}", file.display());
    }
}

#[test]
fn every_opening_of_the_corpus_is_known_or_not_let_on() {
    for file in corpus("net_opening") {
        let known = sbx_net::replay::opening(&std::fs::read(&file).unwrap());
        assert_eq!(known, is_good(&file), "{}", file.display());
    }
}

#[test]
fn every_stream_of_requests_of_the_corpus_is_read_in_one_way_or_refused() {
    for file in corpus("net_http1") {
        let read = sbx_net::replay::http1(&std::fs::read(&file).unwrap());
        assert_eq!(read, is_good(&file), "{}", file.display());
    }
}

#[test]
fn every_request_to_a_proxy_of_the_corpus_is_understood_or_refused() {
    for file in corpus("net_proxy") {
        let read = sbx_net::replay::proxy(&std::fs::read(&file).unwrap());
        assert_eq!(read, is_good(&file), "{}", file.display());
    }
}

#[test]
fn every_answer_of_another_name_server_in_the_corpus_is_read_or_dropped() {
    for file in corpus("net_records") {
        let read = sbx_net::replay::records(&std::fs::read(&file).unwrap());
        assert_eq!(read, is_good(&file), "{}", file.display());
    }
}

#[test]
fn every_connection_of_http2_in_the_corpus_says_what_it_may_or_reaches_nobody() {
    for file in corpus("net_http2") {
        let reached = sbx_net::replay::http2(&std::fs::read(&file).unwrap());
        assert_eq!(reached, is_good(&file), "{}", file.display());
    }
}
