//! The endpoint of `endpoint.rs` without one of its guards: for
//! `cargo xtask guards`. Beside that one, so that neither is taken for the
//! other.

#[path = "endpoint.rs"]
mod endpoint;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    endpoint::main()
}
