//! vhost-user-fs: serves the file system to QEMU's `vhost-user-fs-device`.
//!
//! Owns the virtqueues of one device. The front end (QEMU) is as hostile as the guest: a request
//! that cannot be parsed is answered with an empty reply, and only its own queue suffers.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;

use fuse_backend_rs::api::filesystem::FileSystem;
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FsCacheReqHandler, Reader, VirtioFsWriter, Writer};
use parking_lot::{Condvar, Mutex, RwLock};
use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{
    Error as DaemonError, VhostUserBackend, VhostUserDaemon, VringMutex, VringT,
};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::error::Error;
use crate::fs::ShareFs;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>;

const QUEUE_SIZE: usize = 1024;
/// One queue for forgets and interrupts, one for requests.
const QUEUES: usize = 2;
const HIGH_PRIORITY: u16 = 0;
const REQUESTS: u16 = 1;
/// Threads that serve requests: enough that one slow disk operation does not stop the others.
const WORKERS: usize = 4;
/// Requests taken from the ring and not yet served. The ring bounds what a sane driver has in
/// flight; this bounds what an insane one can make us hold.
const BACKLOG: usize = 2 * QUEUE_SIZE;

/// Serves `fs` on the first connection that `listener` accepts, until the front end hangs up.
///
/// # Errors
/// If the device cannot be set up or the front end breaks the protocol.
pub(crate) fn serve(fs: ShareFs, listener: OwnedFd) -> Result<(), Error> {
    let backend =
        Arc::new(Device::start(fs).map_err(Error::io("start the file server's threads"))?);
    let memory = Memory::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("vhost-user".to_owned(), Arc::clone(&backend), memory)
        .map_err(|e| Error::new("set up the vhost-user device", e.to_string()))?;
    let mut listener = Listener::from(UnixListener::from(listener));
    daemon
        .start(&mut listener)
        .map_err(|e| Error::new("accept the virtual machine's connection", e.to_string()))?;
    drop(listener);
    let ended = daemon.wait();
    backend.work.close();
    use vhost::vhost_user::Error as Wire;
    match ended {
        Ok(()) | Err(DaemonError::HandleRequest(Wire::Disconnected | Wire::PartialMessage)) => {
            Ok(())
        }
        Err(e) => Err(Error::new("talk to the virtual machine", e.to_string())),
    }
}

/// One request on its way to a worker.
struct Job {
    chain: Chain,
    vring: VringMutex<Memory>,
    event_idx: bool,
}

#[derive(Default)]
struct Backlog {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// The requests between the ring and the workers.
#[derive(Default)]
struct Work {
    backlog: Mutex<Backlog>,
    more: Condvar,
    room: Condvar,
}

impl Work {
    fn put(&self, job: Job) {
        let mut backlog = self.backlog.lock();
        while backlog.jobs.len() >= BACKLOG && !backlog.closed {
            self.room.wait(&mut backlog);
        }
        backlog.jobs.push_back(job);
        self.more.notify_one();
    }

    fn take(&self) -> Option<Job> {
        let mut backlog = self.backlog.lock();
        loop {
            if let Some(job) = backlog.jobs.pop_front() {
                self.room.notify_one();
                return Some(job);
            }
            if backlog.closed {
                return None;
            }
            self.more.wait(&mut backlog);
        }
    }

    fn close(&self) {
        let mut backlog = self.backlog.lock();
        backlog.closed = true;
        backlog.jobs.clear();
        self.more.notify_all();
        self.room.notify_all();
    }
}

struct Settings {
    memory: Option<Memory>,
    event_idx: bool,
}

struct Device {
    fs: Arc<ShareFs>,
    server: Arc<Server<Arc<ShareFs>>>,
    work: Arc<Work>,
    settings: RwLock<Settings>,
}

impl Device {
    fn start(fs: ShareFs) -> io::Result<Self> {
        let fs = Arc::new(fs);
        let server = Arc::new(Server::new(Arc::clone(&fs)));
        let work = Arc::new(Work::default());
        for number in 0..WORKERS {
            let (server, work) = (Arc::clone(&server), Arc::clone(&work));
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    while let Some(job) = work.take() {
                        finish(&server, job);
                    }
                })?;
        }
        Ok(Self {
            fs,
            server,
            work,
            settings: RwLock::new(Settings {
                memory: None,
                event_idx: false,
            }),
        })
    }

    /// Takes what the guest has put into a ring.
    fn drain(&self, vring: &VringMutex<Memory>, inline: bool) -> io::Result<()> {
        let (memory, event_idx) = {
            let settings = self.settings.read();
            let memory = settings.memory.as_ref().map(GuestAddressSpace::memory);
            (memory, settings.event_idx)
        };
        let memory = memory.ok_or_else(|| io::Error::other("no guest memory yet"))?;
        loop {
            let chain = vring
                .get_mut()
                .get_queue_mut()
                .iter(memory.clone())
                .map_err(io::Error::other)?
                .next();
            let Some(chain) = chain else {
                return Ok(());
            };
            let job = Job {
                chain,
                vring: vring.clone(),
                event_idx,
            };
            if inline {
                finish(&self.server, job);
            } else {
                self.work.put(job);
            }
        }
    }
}

/// Serves one request and gives its buffers back.
fn finish(server: &Server<Arc<ShareFs>>, job: Job) {
    let head = job.chain.head_index();
    let length = match answer(server, job.chain) {
        Ok(length) => length,
        Err(e) => {
            log::debug!("a malformed request was dropped: {e}");
            0
        }
    };
    let mut vring = job.vring.get_mut();
    if let Err(e) = vring.add_used(head, u32::try_from(length).unwrap_or(0)) {
        log::debug!("cannot give buffers back: {e}");
        return;
    }
    let wanted = !job.event_idx || vring.needs_notification().unwrap_or(true);
    if wanted && let Err(e) = vring.signal_used_queue() {
        log::debug!("cannot notify the guest: {e}");
    }
}

fn answer(server: &Server<Arc<ShareFs>>, chain: Chain) -> Result<usize, String> {
    let memory = chain.memory().clone();
    let reader =
        Reader::from_descriptor_chain(&memory, chain.clone()).map_err(|e| e.to_string())?;
    let writer = VirtioFsWriter::new(&memory, chain).map_err(|e| e.to_string())?;
    server
        .handle_message(
            reader,
            Writer::VirtioFs(writer),
            None::<&mut dyn FsCacheReqHandler>,
            None,
        )
        .map_err(|e| e.to_string())
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = VringMutex<Memory>;

    fn num_queues(&self) -> usize {
        QUEUES
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        (1 << VIRTIO_F_VERSION_1)
            | (1 << VIRTIO_RING_F_INDIRECT_DESC)
            | (1 << VIRTIO_RING_F_EVENT_IDX)
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::RESET_DEVICE
    }

    fn reset_device(&self) {
        self.fs.destroy();
    }

    fn set_event_idx(&self, enabled: bool) {
        self.settings.write().event_idx = enabled;
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        self.settings.write().memory = Some(memory);
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        set: EventSet,
        vrings: &[VringMutex<Memory>],
        _thread: usize,
    ) -> io::Result<()> {
        if set != EventSet::IN || !matches!(event, HIGH_PRIORITY | REQUESTS) {
            return Err(io::Error::other("unexpected event"));
        }
        let vring = vrings
            .get(usize::from(event))
            .ok_or_else(|| io::Error::other("no such queue"))?;
        let inline = event == HIGH_PRIORITY;
        if !self.settings.read().event_idx {
            return self.drain(vring, inline);
        }
        // With event suppression the ring has to be looked at again after asking for events.
        loop {
            vring.disable_notification().map_err(io::Error::other)?;
            self.drain(vring, inline)?;
            if !vring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK).ok()
    }
}
