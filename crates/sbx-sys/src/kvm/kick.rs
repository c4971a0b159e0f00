//! A thread that can be called out of a system call by a signal.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Once;
use std::thread::JoinHandle;

/// A number that nothing else here uses.
fn signal() -> i32 {
    libc::SIGRTMIN() + 7
}

/// Whom to call.
#[derive(Clone, Copy)]
pub(super) struct Target(libc::pthread_t);

/// Runs `work` in a thread that [`Target::kick`] interrupts. The target must
/// not be kicked after the thread was joined.
pub(super) fn thread(work: impl FnOnce() + Send + 'static) -> io::Result<(JoinHandle<()>, Target)> {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(install);
    let thread = std::thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn(work)?;
    let target = Target(thread.as_pthread_t());
    Ok((thread, target))
}

impl Target {
    /// Interrupts the system call that the thread is in, if it is in one.
    pub(super) fn kick(self) {
        // SAFETY: the thread was not joined yet, so its handle is valid; its
        // handler does nothing.
        unsafe { libc::pthread_kill(self.0, signal()) };
    }
}

fn install() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: all zero is a valid value of this plain type: no flags, so
    // interrupted calls are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler touches nothing, so it may run anywhere.
    unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
}
