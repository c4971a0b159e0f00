//! The sbx command line.

fn main() {}
