//! The first words of a guest on a connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_net::replay::opening(bytes);
});
