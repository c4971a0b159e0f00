//! A copy of this process that goes on where it is, for steps that no program
//! can be executed for: those that make the namespaces of a container.

use super::Child;
use crate::error::{Error, Result};
use crate::{jail, process};

/// Which side of a [`fork`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The process that was there; the other one is its child.
    Parent(Child),
    /// The new process. It has copies of all descriptors and no other thread.
    Child,
}

/// Forks this process, which has one thread: with more, the copy could find a
/// lock held by a thread that it does not have.
///
/// # Errors
/// When there are other threads, or no process can be made.
pub fn fork() -> Result<Fork> {
    jail::single_thread()?;
    // SAFETY: without other threads, the copy is as consistent as this
    // process is.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        return Ok(Fork::Child);
    }
    let pid = u32::try_from(pid)
        .map_err(|_| Error::new("fork this process", std::io::Error::last_os_error()))?;
    let gone = || Error::refused("watch a forked process: it is gone");
    let pidfd = process::open(pid)?.ok_or_else(gone)?;
    Ok(Fork::Parent(Child { pid, pidfd }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The runner of tests has a thread of its own beside this one.
        let (stay, stayed) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || stayed.recv());
        assert!(fork().is_err());
        drop(stay);
        let _ = other.join();
    }
}
