//! A guest's connection of HTTP/2, before a server that answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_net::replay::http2(bytes);
});
