//! What no isolation may allow, each with the twin that shows the same act
//! where it is allowed.

mod host_loopback;
mod host_secrets;
mod terminal_escapes;
