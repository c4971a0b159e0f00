//! The door of `sudo`: accepts, and hands each connection to a process of its
//! own, so that nothing that a client passes is ever opened, read or closed
//! by PID 1.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use rustix::net::SocketFlags;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::World;
use super::link::readiness;
use crate::error::{Attempt as _, Result};
use crate::launch::parent::memory_file;
use crate::program;

/// Most `sudo` at once; more wait in the socket's backlog.
const MAX_SERVERS: usize = 48;

/// Accepts on `socket` for ever.
pub(crate) fn accept(world: Rc<World>, socket: OwnedFd) -> Result<impl Future<Output = ()>> {
    let socket = readiness(socket).attempt("watch the socket of sudo")?;
    let free = Arc::new(Semaphore::new(MAX_SERVERS));
    Ok(async move {
        loop {
            let Ok(permit) = Arc::clone(&free).acquire_owned().await else {
                return;
            };
            let Ok(mut ready) = socket.readable().await else {
                return;
            };
            let accepted =
                ready.try_io(|socket| Ok(rustix::net::accept_with(socket, SocketFlags::CLOEXEC)?));
            match accepted {
                Ok(Ok(connection)) => {
                    if let Err(error) = serve(&world, connection, permit) {
                        program::log(&error.line());
                    }
                }
                Ok(Err(error)) if error.kind() != io::ErrorKind::ConnectionAborted => {
                    program::log(&format!("accept a sudo: {error}"));
                    // Out of descriptors or memory: not at full speed.
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                _ => {}
            }
        }
    })
}

fn serve(world: &Rc<World>, connection: OwnedFd, permit: OwnedSemaphorePermit) -> Result<()> {
    let context = memory_file(&world.context)?;
    let pid = program::spawn_role(
        program::SUDO_SERVER,
        None,
        [connection.as_fd(), context.as_fd()],
    )?;
    let exit = world.reaper.borrow_mut().exit_of(pid);
    if let Some(cgroup) = &world.cgroup {
        cgroup.enter(pid)?;
    }
    tokio::task::spawn_local(async move {
        let _ = exit.await;
        drop(permit);
    });
    Ok(())
}
