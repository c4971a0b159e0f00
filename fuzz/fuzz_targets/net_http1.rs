//! What a client or a server says in HTTP/1.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_net::replay::http1(bytes);
});
