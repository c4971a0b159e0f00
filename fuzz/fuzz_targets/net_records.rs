//! Answers of other name servers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_net::replay::records(bytes);
});
