//! Connections by way of a proxy of the host's.

use std::io;
use std::os::fd::OwnedFd;

use super::Engine;
use super::serve::why;
use crate::flow::State;
use crate::gate::Pass;
use crate::limits;
use crate::relay::raw::{Pipe, Upstream};
use crate::table::Key;
use crate::upstream::Proxy;

impl Engine {
    /// Has a proxy asked for what may be dialled.
    pub(super) fn tunnel(&mut self, key: Key, proxy: Proxy, passes: Vec<Pass>) {
        let deadline = self.now + limits::DIAL_TIME;
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        // One is enough: where it has to be an address, the first that is
        // allowed.
        let asked = passes.into_iter().find_map(|pass| {
            let target = proxy.target(&flow.intent, &pass)?;
            Some((pass, target))
        });
        let Some((pass, target)) = asked else {
            return self.dial_failed(key, "unreachable");
        };
        flow.deadline = Some(deadline);
        flow.state = State::Tunnelling(pass);
        self.table.set_timer(key, deadline);
        self.table.queue(key);
        self.inspector.tunnel(key, proxy, target);
    }

    /// Hears what came of it.
    pub(super) fn tunnelled(&mut self, key: Key, tunnel: io::Result<OwnedFd>) {
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let State::Tunnelling(pass) = &flow.state else {
            return;
        };
        let pass = pass.clone();
        match tunnel {
            Ok(fd) if self.watch(&fd, key.token(0)).is_ok() => {
                let pipe = Pipe::new(fd);
                self.accept(key, Upstream { pipe, pass });
            }
            Ok(_) => self.dial_failed(key, "no memory"),
            Err(error) => self.dial_failed(key, why(&error)),
        }
    }
}
