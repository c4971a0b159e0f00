//! Frames of every side, in pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_proto::replay::frames(bytes);
});
