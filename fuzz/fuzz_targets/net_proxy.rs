//! What a program says to a proxy.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_net::replay::proxy(bytes);
});
