//! The isolation `docker`: two containers of the user's own engine.
//!
//! Owns: all that is said to an engine. One container keeps the network, in
//! which nothing of the agent runs; the agent's joins it. Never: touches what
//! does not carry the labels of this state directory. Trusts the engine with
//! the boundary, since it is what makes it; of what it answers, nothing: it is
//! bounded, and what it mounts the first process inside compares before
//! anything runs.

mod bodies;
mod client;
mod config;
mod endpoint;
mod facts;
mod found;
mod images;
mod objects;
mod role;
mod ssh;
mod streams;
mod tls;

pub(crate) use client::Client;
pub(crate) use config::DockConfig;
pub(crate) use endpoint::{Endpoint, discover};
pub(crate) use facts::EngineFacts;
pub(crate) use found::{Record, owner_of};
pub(crate) use images::{Loaded, foreign, in_use, sidecar, template};
pub(crate) use objects::{end, remove, remove_strays, strays};
pub(crate) use role::run;
pub(crate) use ssh::variables;
pub(crate) use streams::readiness;

use crate::command::{Code, Error};

/// Whose a container, volume or image is: the state directory.
const OWNER: &str = "dev.sbx.owner";
/// Of which sandbox.
const SANDBOX: &str = "dev.sbx.sandbox";
/// What it was made as.
const MADE: &str = "dev.sbx.made";
/// Of which image it was made at first.
const FROM: &str = "dev.sbx.from";
/// What an image of ours is, instead of the first two.
const IMAGE: &str = "dev.sbx.image";

/// `what` could not be done with the engine.
fn failed(what: &str) -> Error {
    Error::new(Code::Engine, format!("cannot {what}"))
}
