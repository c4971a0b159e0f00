//! The hidden roles: processes that the engine starts from this program.

pub(crate) use sbx_engine::role::{NAMES as ROLES, run as role};
