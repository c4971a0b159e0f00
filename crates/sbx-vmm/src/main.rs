//! Jails itself and becomes the virtual machine monitor.
//!
//! The monitor is treated as hostile as its guest. It inherits the links it
//! needs as descriptors, so it can make no socket, opens no file but those
//! listed, and executes nothing but itself. Any wall that cannot be put up
//! ends the start with a line on descriptor 2.

use std::io::Write;
use std::process::ExitCode;

mod start;

fn main() -> ExitCode {
    match start::run() {
        Ok(never) => match never {},
        Err(error) => {
            // Nobody is left to tell when the log is gone.
            let _ = writeln!(std::io::stderr(), "error: {}", start::explain(&error));
            ExitCode::from(1)
        }
    }
}
