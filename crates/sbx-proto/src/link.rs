//! Messages of the link itself (stream 0), between supervisor and guest.

use std::net::IpAddr;

use minicbor::{Decode, Encode};

use crate::frame::Kind;
use crate::message::{Bytes, Message};

macro_rules! message {
    ($type:ty, $kind:ident) => {
        impl Message for $type {
            const KIND: Kind = Kind::$kind;
        }
    };
}

/// First frame of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Hello {
    /// [`crate::GENERATION`] of the guest.
    #[n(0)]
    pub generation: u16,
    /// Version of the guest program.
    #[n(1)]
    pub guest_version: String,
    /// `uname -r` of the guest.
    #[n(2)]
    pub kernel: String,
}
message!(Hello, Hello);

/// All that the guest needs to become the sandbox; sent once.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Setup {
    /// [`crate::GENERATION`] of the host.
    #[n(0)]
    pub generation: u16,
    /// Host name inside.
    #[n(1)]
    pub hostname: String,
    /// Nanoseconds since the Unix epoch.
    #[n(2)]
    pub clock_ns: u64,
    /// IANA name such as `Europe/Berlin`; nothing is linked if absent.
    #[n(3)]
    pub timezone: Option<String>,
    /// The agent user.
    #[n(4)]
    pub agent: AgentUser,
    /// Block devices by their serial.
    #[n(5)]
    pub disks: Disks,
    /// Read-only kit images.
    #[n(6)]
    pub kits: Vec<KitDisk>,
    /// Shares served by virtiofs, mounted in this order.
    #[n(7)]
    pub shares: Vec<ShareMount>,
    /// Volumes on the scratch disk.
    #[n(8)]
    pub volumes: Vec<VolumeMount>,
    /// Memory file systems.
    #[n(9)]
    pub tmpfs: Vec<TmpfsMount>,
    /// Absent: only loopback.
    #[n(10)]
    pub network: Option<NetSetup>,
    /// Extra root certificates for the system bundle, PEM; may be empty.
    #[n(11)]
    pub trust_pem: Bytes,
    /// Most tasks of all sessions together; absent: no limit but the kernel's.
    #[n(12)]
    pub pids_limit: Option<u32>,
    /// Most memory of all sessions together in bytes; absent: what the guest
    /// has, less what PID 1 and the kernel need.
    #[n(13)]
    pub memory_limit: Option<u64>,
    /// Environment of every session; [`crate::session::Exec::env`] wins.
    #[n(14)]
    pub env: Vec<(Bytes, Bytes)>,
    /// Working directory of a session that names none; absent: its home.
    #[n(15)]
    pub workdir: Option<Bytes>,
    /// Content of `/etc/gitconfig`: name and e-mail of the host's user.
    /// Absent: the sandbox has none of ours.
    #[n(16)]
    pub git_config: Option<Bytes>,
}
message!(Setup, Setup);

/// The agent user, always named `agent` with home `/home/agent`.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct AgentUser {
    /// User id; 0 only where an engine's container has no other that its files
    /// are of, and then without any capability.
    #[n(0)]
    pub uid: u32,
    /// Group id, likewise.
    #[n(1)]
    pub gid: u32,
    /// Supplementary group ids.
    #[n(2)]
    pub groups: Vec<u32>,
}

/// Serials of the disks that make the root.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Disks {
    /// erofs, read-only: the template.
    #[n(0)]
    pub base: String,
    /// ext4, read-write: `/upper`, `/work` and `/volumes` of this sandbox.
    /// Absent: a memory file system takes its place.
    #[n(1)]
    pub scratch: Option<String>,
}

/// A kit image (erofs).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct KitDisk {
    /// Serial of its disk, `kit-<name>`.
    #[n(0)]
    pub serial: String,
    /// Absolute path, `/opt/sbx/kits/<name>`; its `bin` joins PATH.
    #[n(1)]
    pub mount_point: String,
}

/// A share (virtiofs).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ShareMount {
    /// virtiofs tag.
    #[n(0)]
    pub tag: String,
    /// Absolute path inside.
    #[n(1)]
    pub guest_path: Bytes,
    /// Mounted read-only (the server enforces it as well).
    #[n(2)]
    pub read_only: bool,
    /// For a share of one file: its name below the share's root, which is
    /// bound at `guest_path`.
    #[n(3)]
    pub file: Option<Bytes>,
}

/// A directory that outlives the root's upper layer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct VolumeMount {
    /// Its directory below `/volumes` of the scratch disk; no slash.
    #[n(0)]
    pub name: String,
    /// Absolute path inside.
    #[n(1)]
    pub guest_path: Bytes,
}

/// A memory file system.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct TmpfsMount {
    /// Absolute path inside.
    #[n(0)]
    pub guest_path: Bytes,
    /// Bound in bytes; absent: half of the memory.
    #[n(1)]
    pub size: Option<u64>,
}

/// Addresses of `eth0`.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NetSetup {
    /// Own address.
    #[n(0)]
    pub v4: std::net::Ipv4Addr,
    /// Prefix length of `v4`.
    #[n(1)]
    pub v4_prefix: u8,
    /// Default gateway.
    #[n(2)]
    pub v4_gateway: std::net::Ipv4Addr,
    /// Own address.
    #[n(3)]
    pub v6: std::net::Ipv6Addr,
    /// Prefix length of `v6`.
    #[n(4)]
    pub v6_prefix: u8,
    /// Default gateway.
    #[n(5)]
    pub v6_gateway: std::net::Ipv6Addr,
    /// Name servers for `/etc/resolv.conf`.
    #[n(6)]
    pub dns: Vec<IpAddr>,
    /// Bytes of the largest packet.
    #[n(7)]
    pub mtu: u32,
    /// Extra lines of `/etc/hosts`.
    #[n(8)]
    pub hosts: Vec<HostEntry>,
}

/// One line of `/etc/hosts`.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct HostEntry {
    /// Address.
    #[n(0)]
    pub address: IpAddr,
    /// Names, at least one.
    #[n(1)]
    pub names: Vec<String>,
}

/// The sandbox can take sessions.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Ready {
    /// Milliseconds from the kernel's start to here.
    #[n(0)]
    pub boot_ms: u64,
    /// What of the guest's own limits is in force, one word each
    /// (`pids`, `memory`, `no-new-privs`).
    #[n(1)]
    pub walls: Vec<String>,
    /// What could not be done and does not stop the start.
    #[n(2)]
    pub warnings: Vec<String>,
}
message!(Ready, Ready);

/// Set-up failed; the guest powers off after this.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SetupFailed {
    /// What was attempted and why it failed.
    #[n(0)]
    pub what: String,
}
message!(SetupFailed, SetupFailed);

/// The host's time.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Clock {
    /// Nanoseconds since the Unix epoch.
    #[n(0)]
    pub ns: u64,
}
message!(Clock, Clock);

/// Stop: signal all, wait, kill, sync, unmount, power off.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Shutdown {
    /// Milliseconds between SIGTERM and SIGKILL.
    #[n(0)]
    pub grace_ms: u32,
}
message!(Shutdown, Shutdown);

/// Something the user may want to know. Best effort: dropped when the link is
/// slow, and rate-limited by the guest.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Event {
    /// Processes of sessions killed for memory since the start.
    #[n(0)]
    OutOfMemory {
        /// How many.
        #[n(0)]
        kills: u64,
    },
    /// Forks refused by the limit of tasks since the start.
    #[n(1)]
    PidsLimit {
        /// How many.
        #[n(0)]
        hits: u64,
    },
    /// Text for the log, to be escaped.
    #[n(2)]
    Warning {
        /// One line.
        #[n(0)]
        what: String,
    },
}
message!(Event, Event);

/// The sandbox as it is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct StatusReply {
    /// Tasks in sessions.
    #[n(0)]
    pub processes: u64,
    /// `MemTotal`, in bytes.
    #[n(1)]
    pub memory_total: u64,
    /// `MemAvailable`, in bytes.
    #[n(2)]
    pub memory_available: u64,
    /// Size of the scratch disk, in bytes.
    #[n(3)]
    pub disk_total: u64,
    /// Free on the scratch disk, in bytes.
    #[n(4)]
    pub disk_free: u64,
    /// Open sessions.
    #[n(5)]
    pub sessions: u32,
    /// Seconds since the kernel's start.
    #[n(6)]
    pub uptime_s: u64,
}
message!(StatusReply, StatusReply);
