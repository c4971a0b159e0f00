//! Ethernet frames of the guest.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    sbx_net::replay::frame(bytes);
});
