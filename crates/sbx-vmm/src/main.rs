//! Jails itself and becomes the virtual machine monitor.

fn main() {}
