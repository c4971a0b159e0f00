//! The user-space network endpoint of a sandbox.
//!
//! Owns: the Ethernet link to the virtual machine, the name server, the TCP
//! connections of the guest and the one place where they are judged. Never:
//! files, programs, terminals. Trusts: nobody on the link; the VMM that holds
//! its other end is as hostile as the guest.
//!
//! The way of a packet: [`device`] makes it a value, [`entry`] an intent,
//! [`gate`] judges it, [`relay`] dials what passed. No step can be left out:
//! a dialer takes only the proof that the gate makes. Where the verdict
//! depends on what is asked, [`inspect`] reads the requests and has the gate
//! judge each.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod buffers;
mod control;
mod device;
mod engine;
mod entry;
pub mod error;
mod flow;
mod gate;
mod inspect;
mod jail;
pub mod layout;
mod ledger;
pub mod limits;
mod names;
mod opening;
pub mod process;
mod questions;
mod records;
mod refusal;
mod relay;
#[doc(hidden)]
pub mod replay;
mod resolve;
mod stack;
mod table;
mod upstream;
mod workers;

pub use error::{Attempt, Error};
pub use gate::host_addresses;
pub use inspect::{Authority, AuthorityError};
pub use names::{KnownName, file as names_file};
pub use resolve::look_up;
pub use upstream::{Config, Proxies, ProxyError, resolved_elsewhere};
