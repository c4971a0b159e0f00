//! Tells the host when a limit has struck: the control group's own counters,
//! which the kernel announces.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::rc::Rc;
use std::time::Duration;

use sbx_proto::link::Event;
use sbx_proto::{LINK, Message};
use tokio::io::Interest;

use super::World;
use super::link::announcements;

/// Least time between two events of a kind.
const PAUSE: Duration = Duration::from_secs(1);

/// Watches the limits of the sandbox, if it has any.
pub(crate) fn start(world: &Rc<World>) {
    let Some(cgroup) = &world.cgroup else { return };
    if let Some(file) = cgroup.events("memory.events") {
        let event = |kills| Event::OutOfMemory { kills };
        tokio::task::spawn_local(follow(Rc::clone(world), file, "oom_kill ", event));
    }
    if let Some(file) = cgroup.events("pids.events") {
        let event = |hits| Event::PidsLimit { hits };
        tokio::task::spawn_local(follow(Rc::clone(world), file, "max ", event));
    }
}

async fn follow(world: Rc<World>, file: File, name: &'static str, event: fn(u64) -> Event) {
    let Ok(mut file) = announcements(file) else {
        return;
    };
    let mut seen = 0;
    loop {
        let count = read_counter(file.get_mut(), name).unwrap_or(seen);
        if count > seen {
            seen = count;
            // Dropped when the link is slow: the next one holds the sum.
            if let Ok(frame) = event(count).to_frame(LINK) {
                let _ = world.out.try_send(frame);
            }
            tokio::time::sleep(PAUSE).await;
        }
        match file.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => return,
        }
    }
}

fn read_counter(file: &mut File, name: &str) -> Option<u64> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(4096).read_to_string(&mut text).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}
