//! Messages to the name server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_net::replay::dns(bytes);
});
