//! What a spawner can start: decided, and opened by name, before the first
//! request is read.
//!
//! Owns: the program, configuration, identity and files of every part of one
//! sandbox. A request chooses a part and brings the ends of links; it names
//! no program, no file and no setting. Trusts the plan; of the sandbox's own
//! directory only that it lies where it says, because an earlier supervisor
//! could write below it: no link in it is followed.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use sbx_net::Proxies;
use sbx_share::Channel;
use sbx_spec::{SandboxName, WorkspaceGuard};
use sbx_sys::cgroup::Group;
use sbx_sys::file;
use sbx_sys::memfd;
use sbx_sys::spawn::{Child, Ids, Resource, Signal, Spawn};
use serde::{Deserialize, Serialize};

use super::MAX_CONFIG;
use super::Verb;
use crate::command::{Code, Error};
use crate::container::BoxConfig;
use crate::docker::DockConfig;
use crate::microvm::{qemu, vmm};
use crate::plan::{Boundary, Container, Docker, Identity, Machine, Plan, SharePlan};
use crate::shares;
use crate::store::Store;

/// The parts of one sandbox, as its plan has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SpawnerConfig {
    /// What keeps it in.
    boundary: Boundary,
    /// What of the host it sees.
    shares: Vec<SharePlan>,
    /// Whether it has a network engine, which is told its rules later.
    network: bool,
    /// The trust store that the caller named in place of the host's.
    trust: Option<PathBuf>,
    /// The proxies that stand between this host and the network.
    proxies: Proxies,
    /// Whom the parts run as.
    identity: Identity,
    /// The sandbox.
    name: SandboxName,
    /// The directory of all sandboxes.
    sandboxes: PathBuf,
    /// The control group around all of them, if there is one.
    group: Option<Group>,
}

impl SpawnerConfig {
    /// The parts of `plan`, whose sandbox keeps its state below `sandboxes`
    /// and whose processes are in `group`. What the guest is told, variables
    /// above all, is not among it.
    pub(crate) fn new(plan: &Plan, sandboxes: &Path, group: Option<Group>) -> Self {
        Self {
            boundary: plan.boundary.clone(),
            shares: plan.shares.clone(),
            network: plan.network.is_some(),
            trust: plan
                .network
                .as_ref()
                .and_then(|network| network.trust.clone()),
            proxies: plan
                .network
                .as_ref()
                .map(|network| network.proxies.clone())
                .unwrap_or_default(),
            identity: plan.identity,
            name: plan.name.clone(),
            sandboxes: sandboxes.to_owned(),
            group,
        }
    }

    fn home(&self) -> PathBuf {
        self.sandboxes.join(self.name.as_str())
    }

    /// Lets this process and `supervisor` out of the control group, which
    /// all parts have left by then, and removes it.
    pub(super) fn give_back(&self, supervisor: Option<u32>) {
        let sandbox = Store::new(self.sandboxes.clone()).find(&self.name);
        if let (Some(group), Some(sandbox)) = (&self.group, sandbox) {
            for pid in supervisor.into_iter().chain([std::process::id()]) {
                let _ = group.expel(pid);
            }
            let _stays = crate::group::leave(&sandbox, group);
        }
    }
}

/// Everything that can be started.
pub(super) struct Parts {
    net: Option<Part>,
    shares: Vec<Part>,
    boundary: (Verb, Part),
}

struct Part {
    program: OwnedFd,
    argv: Vec<String>,
    config: Vec<u8>,
    ids: Option<(u32, u32)>,
    slots: Vec<Slot>,
    /// Whether it may gain privileges by what it executes: `newuidmap` does.
    gains: bool,
}

/// The number of `/dev/fuse`, from the kernel's list of devices.
const FUSE_NUMBER: (u32, u32) = (10, 229);

/// A descriptor of a part, from 4 on.
enum Slot {
    /// Opened here, once.
    Own(OwnedFd),
    /// The end of a link, brought by the request.
    Link,
    /// What a container has mounted with, brought by the request.
    Mount,
    /// A sealed memory file, brought by the request: what this part's
    /// predecessors handed on.
    Text,
}

impl Parts {
    /// Opens everything. `program` is the `sbx` program, `monitor` that
    /// which becomes the machine monitor.
    ///
    /// # Errors
    /// If a share, an image or the shadow of a share cannot be opened.
    pub(super) fn open(
        config: &SpawnerConfig,
        program: &OwnedFd,
        monitor: &OwnedFd,
    ) -> Result<Self, Error> {
        let role = |name: &str| (vec!["sbx".to_owned(), name.to_owned()], copy(program));
        let net = match config.network {
            false => None,
            true => {
                let (argv, program) = role("net");
                let trust = config.trust.as_deref().map(trust).transpose()?;
                let mut slots = vec![
                    Slot::Link,
                    Slot::Link,
                    Slot::Own(ledger()?),
                    Slot::Text,
                    Slot::Link,
                ];
                let net = net_config(config, trust.is_some())?;
                slots.extend(trust.map(Slot::Own));
                Some(Part {
                    program: program?,
                    argv,
                    config: net,
                    ids: config.identity.service,
                    slots,
                    gains: false,
                })
            }
        };
        let boundary = match &config.boundary {
            Boundary::MicroVm(machine) => (Verb::Vmm, monitored(config, machine, monitor)?),
            Boundary::Container(container) => {
                let (argv, program) = role("box");
                (Verb::Box, contained(config, container, argv, program?)?)
            }
            Boundary::Docker(docker) => {
                let (argv, program) = role("dock");
                return Ok(Self {
                    net,
                    shares: Vec::new(),
                    boundary: (Verb::Dock, docked(config, docker, argv, program?)?),
                });
            }
        };
        Ok(Self {
            net,
            shares: served(config, program)?,
            boundary,
        })
    }

    /// Starts the part `verb` with `log`, the end of a pipe, as its
    /// descriptor 2 and `links`, ends of sockets, as those it is reached by.
    ///
    /// # Errors
    /// If the sandbox has no such part, if what was brought is anything else,
    /// or if the process cannot be started.
    pub(super) fn start(&self, verb: Verb, brought: Vec<OwnedFd>) -> sbx_sys::Result<Child> {
        let part = match verb {
            Verb::Net => self.net.as_ref(),
            Verb::Share(number) => self.shares.get(number),
            Verb::Vmm | Verb::Box | Verb::Dock => {
                Some(&self.boundary.1).filter(|_| self.boundary.0 == verb)
            }
        };
        let part = part.ok_or_else(|| {
            sbx_sys::Error::refused(format!("start {verb}, which this sandbox does not have"))
        })?;
        let mut brought = brought.into_iter();
        let log = brought.next().filter(|fd| is(fd, FileType::Fifo));
        let wrong = || sbx_sys::Error::refused(format!("start {verb} with other than its links"));
        let mut fds = vec![
            (log.ok_or_else(wrong)?, 2),
            (memfd::sealed("sbx-config", &part.config)?, 3),
        ];
        let mut next = |fits: &dyn Fn(&OwnedFd) -> bool| {
            brought.next().filter(|fd| fits(fd)).ok_or_else(wrong)
        };
        for (slot, number) in part.slots.iter().zip(4..) {
            let fd = match slot {
                Slot::Own(fd) => copied(fd)?,
                Slot::Link => next(&|fd| is(fd, FileType::Socket))?,
                Slot::Mount => next(&is_fuse)?,
                Slot::Text => next(&is_sealed)?,
            };
            fds.push((fd, number));
        }
        if brought.next().is_some() {
            return Err(wrong());
        }
        let mut spawn = Spawn::fd(copied(&part.program)?, "sbx");
        spawn.argv = part.argv.iter().map(Into::into).collect();
        spawn.fds = fds;
        spawn.parent_death_signal = Some(Signal::KILL);
        spawn.ids = part.ids.map(|(uid, gid)| Ids {
            uid,
            gid,
            groups: Vec::new(),
        });
        // One byte is none too, and the kernel then starts no program of the
        // host for what crashes in a container.
        spawn.limits = vec![(Resource::Core, u64::from(part.gains))];
        spawn.no_new_privs = !part.gains;
        spawn.spawn()
    }
}

/// The file servers.
fn served(config: &SpawnerConfig, program: &OwnedFd) -> Result<Vec<Part>, Error> {
    let (channel, door): (_, fn() -> Slot) = match &config.boundary {
        Boundary::MicroVm(_) => (Channel::VhostUser, || Slot::Link),
        Boundary::Container(container) => match container.guard {
            WorkspaceGuard::Full => (Channel::Fuse, || Slot::Mount),
            WorkspaceGuard::Existing => return Ok(Vec::new()),
        },
        Boundary::Docker(_) => return Ok(Vec::new()),
    };
    let shadows = shadows(&config.home())?;
    let shares = config.shares.iter().map(|share| {
        let shadow = shadow(&shadows, &share.tag, config.identity.share)?;
        let served = shares::open(share, config.identity, channel)?;
        Ok(Part {
            program: copy(program)?,
            argv: vec!["sbx".to_owned(), "share".to_owned()],
            config: served.config,
            ids: config.identity.share,
            slots: vec![
                door(),
                Slot::Own(served.root),
                Slot::Own(shadow),
                Slot::Link,
            ],
            gains: false,
        })
    });
    shares.collect()
}

/// The machine monitor. It gives up root itself, after the namespaces that
/// only root can make everywhere.
fn monitored(config: &SpawnerConfig, machine: &Machine, monitor: &OwnedFd) -> Result<Part, Error> {
    let numbers =
        qemu::Descriptors::number(machine.disks.len(), config.network, config.shares.len());
    let mut slots = vec![Slot::Link, Slot::Link, Slot::Link];
    slots.push(Slot::Own(image(&machine.kernel, false)?));
    slots.push(Slot::Own(image(&machine.initrd, false)?));
    // Guest memory is a file too, in memory.
    let mut largest = machine.memory.as_bytes();
    for disk in &machine.disks {
        let opened = image(&disk.path, disk.writable)?;
        if disk.writable {
            let found = rustix::fs::fstat(&opened).map_err(|source| {
                Error::new(Code::Image, "cannot look at a disk").because(source)
            })?;
            largest = largest.max(u64::try_from(found.st_size).unwrap_or(0));
        }
        slots.push(Slot::Own(opened));
    }
    slots.extend(config.network.then_some(Slot::Link));
    slots.extend(config.shares.iter().map(|_| Slot::Link));
    let count = i32::try_from(slots.len()).unwrap_or(i32::MAX);
    // Where it says which walls it has.
    slots.push(Slot::Link);
    let tags: Vec<_> = config
        .shares
        .iter()
        .map(|share| share.tag.clone())
        .collect();
    let program = machine.program.to_str().ok_or_else(|| {
        Error::new(
            Code::HostUnfit,
            "the machine monitor's path is not valid text",
        )
    })?;
    Ok(Part {
        program: copy(monitor)?,
        argv: vec!["sbx-vmm".to_owned(), program.to_owned()],
        config: vmm::config(
            machine,
            config.identity,
            qemu::arguments(machine, &numbers, &tags),
            count,
            largest,
        )?,
        ids: None,
        slots,
        gains: false,
    })
}

/// The process that becomes a container. It stays who the caller is until it
/// has made the namespaces, and gains no privileges from then on.
fn contained(
    config: &SpawnerConfig,
    container: &Container,
    argv: Vec<String>,
    program: OwnedFd,
) -> Result<Part, Error> {
    let told = BoxConfig::new(
        container,
        &config.name,
        config.identity,
        &config.shares,
        config.network,
    )?;
    let mut slots = vec![Slot::Link, Slot::Link];
    slots.extend(config.network.then_some(Slot::Link));
    let served = container.guard == WorkspaceGuard::Full && !config.shares.is_empty();
    slots.extend(served.then_some(Slot::Link));
    Ok(Part {
        program,
        argv,
        config: serde_json::to_vec(&told)
            .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?,
        ids: None,
        slots,
        gains: true,
    })
}

/// The process that speaks with an engine: as the caller, who may.
fn docked(
    config: &SpawnerConfig,
    docker: &Docker,
    argv: Vec<String>,
    program: OwnedFd,
) -> Result<Part, Error> {
    let told = DockConfig::new(docker, &config.name, &config.shares, config.network)?;
    let mut slots = vec![Slot::Link, Slot::Link];
    slots.extend(config.network.then_some(Slot::Link));
    Ok(Part {
        program,
        argv,
        config: serde_json::to_vec(&told)
            .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?,
        ids: None,
        slots,
        gains: false,
    })
}

fn image(path: &Path, writable: bool) -> Result<OwnedFd, Error> {
    let failed = || Error::new(Code::Image, format!("cannot open `{}`", path.display()));
    let mode = if writable {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    let flags = mode | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|source| failed().because(source))?;
    if !is(&opened, FileType::RegularFile) {
        return Err(failed().because(std::io::Error::other("it is not a regular file")));
    }
    Ok(opened)
}

/// The directory of the stores of what is held back from shares.
fn shadows(home: &Path) -> Result<OwnedFd, Error> {
    let home = file::open_dir(home)
        .map_err(|source| Error::new(Code::State, "cannot open the sandbox").because(source))?;
    directory(&home, "shadow")
}

/// The store of what is held back from a share: kept with the sandbox, owned
/// by whom the file server runs as.
fn shadow(shadows: &OwnedFd, tag: &str, owner: Option<(u32, u32)>) -> Result<OwnedFd, Error> {
    let opened = directory(shadows, tag)?;
    if let Some((uid, gid)) = owner {
        let uid = Some(rustix::fs::Uid::from_raw(uid));
        let gid = Some(rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(&opened, "", uid, gid, AtFlags::EMPTY_PATH).map_err(|source| {
            Error::new(Code::State, format!("cannot give away the shadow `{tag}`")).because(source)
        })?;
    }
    Ok(opened)
}

fn directory(above: &OwnedFd, name: &str) -> Result<OwnedFd, Error> {
    let failed = |source: Errno| {
        Error::new(Code::State, format!("cannot make `{name}` of the sandbox")).because(source)
    };
    match rustix::fs::mkdirat(above, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(source) => return Err(failed(source)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty()).map_err(failed)
}

/// Whether a descriptor is an open file of this kind. One that was opened as
/// a mere place in the file tree is not: it could be of a file that whoever
/// opened it may not open.
fn is(fd: &OwnedFd, kind: FileType) -> bool {
    let open = rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| !flags.contains(OFlags::PATH));
    open && rustix::fs::fstat(fd).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == kind)
}

/// Whether a descriptor is an open `/dev/fuse`, under whatever name.
fn is_fuse(fd: &OwnedFd) -> bool {
    let number = |device| (rustix::fs::major(device), rustix::fs::minor(device));
    let found = rustix::fs::fstat(fd).map(|found| number(found.st_rdev));
    is(fd, FileType::CharacterDevice) && found == Ok(FUSE_NUMBER)
}

/// Whether a descriptor is a memory file that nobody can change any more.
fn is_sealed(fd: &OwnedFd) -> bool {
    rustix::fs::fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

/// What a network engine starts with, besides its descriptors.
fn net_config(config: &SpawnerConfig, trust: bool) -> Result<Vec<u8>, Error> {
    let text = sbx_net::Config {
        trust,
        proxies: config.proxies.clone(),
    };
    serde_json::to_vec(&text)
        .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))
}

/// The certificates that a network engine believes servers by where the caller
/// named them.
fn trust(path: &Path) -> Result<OwnedFd, Error> {
    let text = file::read_bounded(path, MAX_CONFIG);
    text.and_then(|text| memfd::sealed("sbx-trust", &text))
        .map_err(|source| {
            let what = format!("cannot read the trust store `{}`", path.display());
            Error::new(Code::HostUnfit, what)
                .because(source)
                .hint("SSL_CERT_FILE names it: correct that, or unset it")
        })
}

/// Where a network engine lists its connections for the one after it.
fn ledger() -> Result<OwnedFd, Error> {
    memfd::fixed("sbx-ledger", sbx_net::limits::LEDGER)
        .map_err(|source| Error::new(Code::Io, "cannot prepare the parts").because(source))
}

fn copied(fd: &OwnedFd) -> sbx_sys::Result<OwnedFd> {
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|source| sbx_sys::Error::new("copy a descriptor", source))
}

fn copy(fd: &OwnedFd) -> Result<OwnedFd, Error> {
    copied(fd).map_err(|source| Error::new(Code::Io, "cannot prepare the parts").because(source))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use sbx_spec::{Access, ByteSize, GuestPath, ShareRole};

    use super::*;
    use crate::plan::{Accelerator, Disk};

    fn host() -> (tempfile::TempDir, SpawnerConfig) {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for name in ["kernel", "initrd", "base", "home/scratch.img"] {
            std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::create_dir(at("app")).unwrap();
        let disk = |serial: &str, name: &str, writable| Disk {
            serial: serial.to_owned(),
            path: at(name),
            writable,
        };
        let config = SpawnerConfig {
            boundary: Boundary::MicroVm(Machine {
                program: "/usr/bin/qemu-system-x86_64".into(),
                accelerator: Accelerator::Tcg,
                cpus: 1,
                memory: ByteSize::mib(512),
                tsc_khz: None,
                kernel: at("kernel"),
                initrd: at("initrd"),
                disks: vec![
                    disk("base", "base", false),
                    disk("scratch", "home/scratch.img", true),
                ],
            }),
            shares: vec![SharePlan {
                tag: "s0".to_owned(),
                host: at("app"),
                guest: GuestPath::new("/app").unwrap(),
                access: Access::ReadWrite,
                role: ShareRole::Workspace,
            }],
            network: true,
            trust: None,
            proxies: Proxies::default(),
            identity: Identity {
                agent: (1000, 1000),
                service: None,
                share: None,
            },
            name: "home".parse().unwrap(),
            sandboxes: root.path().to_owned(),
            group: None,
        };
        (root, config)
    }

    /// The parts with a program in place of ours that ends at once.
    fn open(config: &SpawnerConfig) -> Result<Parts, Error> {
        let program = std::fs::File::open("/bin/true").unwrap().into();
        Parts::open(config, &program, &program)
    }

    fn log() -> OwnedFd {
        std::io::pipe().unwrap().1.into()
    }

    fn link() -> OwnedFd {
        UnixStream::pair().unwrap().0.into()
    }

    fn text() -> OwnedFd {
        memfd::sealed("names", b"").unwrap()
    }

    fn refusal(parts: &Parts, verb: Verb, brought: Vec<OwnedFd>) -> String {
        parts
            .start(verb, brought)
            .map(drop)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn every_part_of_the_plan_starts_with_its_links() {
        let (_root, config) = host();
        let parts = open(&config).unwrap();
        for (verb, links) in [(Verb::Net, 2), (Verb::Share(0), 2), (Verb::Vmm, 6)] {
            let mut brought = vec![log()];
            brought.extend((0..links).map(|_| link()));
            brought.extend((verb == Verb::Net).then(text));
            brought.extend((verb == Verb::Net).then(link));
            let child = parts.start(verb, brought).unwrap();
            assert!(child.wait().is_ok(), "{verb}");
        }
    }

    /// A container of what `host` made in `root`.
    fn contained(root: &Path, guard: WorkspaceGuard) -> Boundary {
        Boundary::Container(Container {
            tree: root.join("base"),
            kit: None,
            guest: root.join("kernel"),
            directory: root.join("home"),
            maps: sbx_sys::userns::Maps::own(1000, 1000).unwrap(),
            guard,
            memory: ByteSize::gib(1),
            volumes: Vec::new(),
            tmpfs: Vec::new(),
        })
    }

    #[test]
    fn a_container_starts_with_its_links_and_nothing_of_a_machine_does() {
        let (root, mut config) = host();
        config.boundary = contained(root.path(), WorkspaceGuard::Existing);
        let parts = open(&config).unwrap();
        let brought = |links: usize| {
            let links = (0..links).map(|_| link());
            std::iter::once(log()).chain(links).collect::<Vec<_>>()
        };
        let child = parts.start(Verb::Box, brought(3)).unwrap();
        assert!(child.wait().is_ok());
        for verb in [Verb::Vmm, Verb::Share(0)] {
            let said = refusal(&parts, verb, brought(6));
            assert!(said.contains("does not have"), "{said}");
        }
        config.network = false;
        let parts = open(&config).unwrap();
        let said = refusal(&parts, Verb::Box, brought(3));
        assert!(said.contains("other than its links"), "{said}");
    }

    #[test]
    fn the_file_server_of_a_container_is_given_a_mount_and_nothing_in_its_place() {
        let (root, mut config) = host();
        config.boundary = contained(root.path(), WorkspaceGuard::Full);
        let parts = open(&config).unwrap();
        // The box has one link more: where what it mounted with goes.
        let child = parts.start(Verb::Box, vec![log(), link(), link(), link(), link()]);
        assert!(child.unwrap().wait().is_ok());
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        for door in [link(), null()] {
            let said = refusal(&parts, Verb::Share(0), vec![log(), door, link()]);
            assert!(said.contains("other than its links"), "{said}");
        }
        let fuse = std::fs::File::options();
        let fuse = fuse.clone().read(true).write(true).open(crate::facts::FUSE);
        match fuse {
            Ok(device) => {
                let child = parts.start(Verb::Share(0), vec![log(), device.into(), link()]);
                assert!(child.unwrap().wait().is_ok());
            }
            // As where an ordinary user builds it.
            Err(error) => println!("skipped: cannot open `/dev/fuse`: {error}"),
        }
    }

    #[test]
    fn a_part_that_is_not_planned_does_not_start() {
        let (_root, mut config) = host();
        config.network = false;
        let parts = open(&config).unwrap();
        for verb in [Verb::Net, Verb::Share(1)] {
            let said = refusal(&parts, verb, vec![log(), link(), link()]);
            assert!(said.contains("does not have"), "{said}");
        }
    }

    #[test]
    fn files_and_directories_are_not_taken_for_links() {
        let (root, config) = host();
        let parts = open(&config).unwrap();
        let place = file::open_dir("/").unwrap();
        let socket = root.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let named = rustix::fs::open(&socket, OFlags::PATH, Mode::empty()).unwrap();
        let opened = std::fs::File::open(root.path().join("base")).unwrap();
        for wrong in [place, named, opened.into()] {
            let said = refusal(&parts, Verb::Share(0), vec![log(), link(), wrong]);
            assert!(said.contains("other than its links"), "{said}");
        }
        let logged_to = std::fs::File::open(root.path().join("base")).unwrap();
        let said = refusal(&parts, Verb::Net, vec![logged_to.into(), link(), link()]);
        assert!(said.contains("other than its links"), "{said}");
        let said = refusal(&parts, Verb::Share(0), vec![log(), link(), link(), link()]);
        assert!(said.contains("other than its links"), "{said}");
    }

    #[test]
    fn links_planted_in_the_state_directory_are_not_followed() {
        let (root, config) = host();
        let keys = root.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        let shadow = root.path().join("home/shadow");
        std::fs::create_dir(&shadow).unwrap();
        std::os::unix::fs::symlink(&keys, shadow.join("s0")).unwrap();
        assert_eq!(open(&config).map(drop).unwrap_err().code, Code::State);
        std::fs::remove_file(shadow.join("s0")).unwrap();
        assert!(open(&config).is_ok());

        let scratch = root.path().join("home/scratch.img");
        std::fs::rename(&scratch, keys.join("key")).unwrap();
        std::os::unix::fs::symlink(keys.join("key"), &scratch).unwrap();
        assert_eq!(open(&config).map(drop).unwrap_err().code, Code::Image);
    }

    #[test]
    fn what_a_request_would_add_is_refused() {
        let (_root, config) = host();
        let parts = open(&config).unwrap();
        let none = super::super::Children::new();
        let ask = |request: &str, links| {
            let brought = std::iter::once(log()).chain((0..links).map(|_| link()));
            super::super::start(&parts, &none, request.as_bytes(), brought.collect())
        };
        for request in [
            r#"{"verb":"vmm","program":"/bin/sh"}"#,
            r#"{"verb":"vmm","files":["/dev/mem"]}"#,
            r#"{"verb":{"share":0},"host":"/"}"#,
            r#"{"verb":"net","config":{"localhost_ports":[22]}}"#,
            r#"{"verb":"shell"}"#,
        ] {
            let error = ask(request, 6).map(drop).unwrap_err();
            assert!(
                error.to_string().contains("read a request"),
                "{request}: {error}"
            );
        }
        let (verb, child) = ask(r#"{"verb":"vmm"}"#, 6).unwrap();
        assert_eq!(verb, Verb::Vmm);
        let mut running = super::super::Children::new();
        running.insert(child.pid(), (verb, child));
        let twice = super::super::start(&parts, &running, br#"{"verb":"vmm"}"#, vec![log()]);
        assert!(
            twice
                .map(drop)
                .unwrap_err()
                .to_string()
                .contains("is running")
        );
    }
}
