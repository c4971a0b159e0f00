//! Bytes from the guest become intents. Nothing here decides and nothing here
//! dials.

pub(crate) mod dns;
pub(crate) mod icmp;
pub(crate) mod proxy;
pub(crate) mod tcp;
pub(crate) mod udp;
