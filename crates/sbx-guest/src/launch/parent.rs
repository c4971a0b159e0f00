//! The starting side: hands a [`Launch`] to a fresh process and reads whether
//! it came to exec.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use minicbor::Encode;
use rustix::fs::MemfdFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Pid;

use crate::error::{Attempt as _, Error, Result};
use crate::launch::{Failure, Launch};
use crate::program::{self, StandardFds};

/// Longest failure report that is read, in bytes.
pub(crate) const MAX_REPORT: usize = 4096;

/// `value` as CBOR in a memory file, position at its start.
pub(crate) fn memory_file<T: Encode<()>>(value: &T) -> Result<OwnedFd> {
    let bytes = minicbor::to_vec(value).map_err(|_| Error::new("encode a request"))?;
    let fd =
        rustix::fs::memfd_create("sbx", MemfdFlags::CLOEXEC).attempt("create a memory file")?;
    let mut file = File::from(fd);
    file.write_all(&bytes)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .attempt("fill a memory file")?;
    Ok(file.into())
}

/// Starts the process of `launch`. The descriptor that is returned ends
/// without a byte once the program runs, and with a report if it does not.
pub(crate) fn start(launch: &Launch, stdio: StandardFds) -> Result<(Pid, OwnedFd)> {
    let request = memory_file(launch)?;
    let (report, status) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).attempt("create a pipe")?;
    let pid = program::spawn_role(
        program::LAUNCH,
        Some(stdio),
        [request.as_fd(), status.as_fd()],
    )?;
    Ok((pid, report))
}

/// Reads the bytes of a report.
pub(crate) fn parse_report(report: &[u8]) -> std::result::Result<(), Failure> {
    if report.is_empty() {
        return Ok(());
    }
    Err(minicbor::decode(report).unwrap_or_else(|_| Failure {
        code: 125,
        message: "start a program: unreadable report".to_owned(),
    }))
}

/// Waits for the report of [`start`]; blocks.
pub(crate) fn wait_report(report: OwnedFd) -> std::result::Result<(), Failure> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_REPORT).unwrap_or(u64::MAX);
    match File::from(report).take(limit).read_to_end(&mut bytes) {
        Ok(_) => parse_report(&bytes),
        Err(error) => Err(Failure {
            code: 125,
            message: format!("read a report: {error}"),
        }),
    }
}
