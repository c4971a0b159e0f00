//! The Ethernet link: framing, neighbours, and packets as values.
//!
//! Owns: what a frame may look like. Trusts: nobody; the VMM is as hostile as
//! its guest. A malformed frame is dropped, a malformed length ends the link.

pub(crate) mod link;
pub(crate) mod neighbour;
pub(crate) mod packet;
pub(crate) mod port;
