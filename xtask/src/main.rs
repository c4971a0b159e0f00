//! House rules as a program: `cargo xtask tidy`.

fn main() {}
