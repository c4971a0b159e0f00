//! One endpoint without a sandbox: the link is descriptor 0, the control link
//! descriptor 1, an argument the file of certificates to believe; its list of
//! connections has nobody to read it. For tests and benches.

use std::io;
use std::os::fd::AsFd;

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let link = io::stdin().as_fd().try_clone_to_owned()?;
    let control = io::stdout().as_fd().try_clone_to_owned()?;
    let ledger = sbx_sys::memfd::fixed("ledger", sbx_net::limits::LEDGER)?;
    // Nobody publishes anything.
    let (published, _doors) = sbx_sys::unix::message_pair()?;
    let links = sbx_net::process::Links {
        link,
        control,
        ledger,
        names: sbx_net::names_file(&[])?,
        published,
        proxies: sbx_net::Proxies::default(),
        trust: match std::env::args().nth(1) {
            Some(file) => std::fs::read(file)?,
            None => Vec::new(),
        },
    };
    sbx_net::process::run(links)?;
    Ok(())
}
