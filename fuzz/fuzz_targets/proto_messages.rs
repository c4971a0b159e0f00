//! Every message of the link.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_proto::replay::messages(bytes);
});
