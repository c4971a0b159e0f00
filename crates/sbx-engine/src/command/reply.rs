//! What the engine answers: values with one text form and one JSON form.
//!
//! The JSON forms are documented in `docs/json.md`; a field may be added,
//! none changes its meaning without a new `version`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use sbx_spec::{ByteSize, Isolation, KitName, Promise, SandboxName, SandboxSpec};

use super::{
    AnsweredReply, AuditReply, CheckedReply, Error, PendingReply, PolicyEdited, PolicyListReply,
    PortsReply,
};

/// What the engine answers. Each kind has one text form and one JSON form,
/// documented in `docs/json.md`.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// An attached session ended.
    Session(SessionReply),
    /// A sandbox was created, or found as asked, and perhaps started.
    Sandbox(SandboxReply),
    /// The sandboxes there are.
    List(ListReply),
    /// Everything about one.
    Inspect(Box<InspectReply>),
    /// What happened to each name.
    Acted(ActedReply),
    /// Lines of a log.
    Logs(LogsReply),
    /// What `run` would do.
    Plan(Box<PlanReply>),
    /// How the host is.
    Doctor(DoctorReply),
    /// What was given back.
    Gc(GcReply),
    /// A policy was edited.
    PolicyEdited(PolicyEdited),
    /// The rules that count.
    PolicyList(PolicyListReply),
    /// What would come of a connection.
    Checked(CheckedReply),
    /// What was recorded of the network.
    Audit(AuditReply),
    /// Published ports.
    Ports(PortsReply),
    /// What waits for an answer.
    Pending(PendingReply),
    /// A question was answered.
    Answered(AnsweredReply),
    /// Versions of the parts.
    Version(VersionReply),
    /// Done, and nothing to say.
    Done {},
}

/// How a program inside ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It returned a code.
    Code(u8),
    /// A signal of this number ended it.
    Signal(u8),
}

/// An attached session ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionReply {
    /// The sandbox.
    pub name: SandboxName,
    /// How the program inside ended.
    pub ended: Ended,
}

/// A sandbox and what was done with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxReply {
    /// The sandbox.
    pub sandbox: SandboxBrief,
    /// Whether this command made it.
    pub created: bool,
}

/// A sandbox as a line of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxBrief {
    /// Its name.
    pub name: SandboxName,
    /// Its agent; `None` where its state cannot be read.
    pub agent: Option<KitName>,
    /// Its boundary; `None` where its state cannot be read.
    pub isolation: Option<Isolation>,
    /// How it is.
    pub status: Status,
    /// Published ports, as `127.0.0.1:8080->80/tcp`.
    pub ports: Vec<String>,
    /// The first workspace on the host.
    pub workspace: Option<PathBuf>,
    /// When it was created: seconds since 1970.
    pub created: Option<u64>,
}

/// How a sandbox is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being made; nothing runs.
    Creating,
    /// Not running.
    Stopped,
    /// Booting.
    Starting,
    /// Up.
    Running,
    /// On its way down.
    Stopping,
    /// Its state cannot be read, or something of it is left over.
    Broken,
}

/// The sandboxes there are, by name.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct ListReply {
    /// One entry each.
    pub sandboxes: Vec<SandboxBrief>,
}

/// Everything about one sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InspectReply {
    /// Its line in the list.
    pub sandbox: SandboxBrief,
    /// What it was created as. Values of variables are left out.
    pub spec: SandboxSpec,
    /// Why it is broken, or what it last died of.
    pub problem: Option<String>,
    /// Process id of its supervisor.
    pub supervisor: Option<u32>,
    /// Seconds since it was started.
    pub up_s: Option<u64>,
    /// Sessions attached now.
    pub sessions: Option<u32>,
    /// The driver and accelerator in use ("qemu", "tcg").
    pub driver: Option<String>,
    /// What executes the guest's instructions.
    pub accel: Option<String>,
    /// Version of the guest's kernel.
    pub kernel: Option<String>,
    /// Bytes its private layer takes on the host's disk.
    pub disk_used: Option<ByteSize>,
    /// Which limit is held by what.
    pub limits: Vec<Enforced>,
    /// How far its isolation keeps what sbx promises.
    pub promises: Vec<PromiseKept>,
    /// Which walls stand around which process.
    pub walls: Vec<Wall>,
    /// Names whose changes are held.
    pub held: Vec<HeldName>,
    /// Its directory on the host.
    pub directory: PathBuf,
}

/// A limit and who holds it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Enforced {
    /// Which one: `cpus`, `memory`, `disk`, `pids`.
    pub limit: String,
    /// Its value, as the flag takes it.
    pub value: String,
    /// Who holds it ("guest kernel", "size of the virtual machine").
    pub by: String,
}

/// A promise and how far it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PromiseKept {
    /// Its name.
    pub promise: Promise,
    /// What is promised.
    pub says: String,
    /// How far it is kept: `yes`, `in part`, `no`.
    pub kept: String,
    /// What is so where it is not kept.
    pub caveat: Option<String>,
}

/// A wall around a process of ours.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Wall {
    /// Which process: `vmm`, `net`, `share s0`, `supervisor`.
    pub process: String,
    /// Which wall: `landlock`, `seccomp`, `namespaces`…
    pub wall: String,
    /// Whether it stands.
    pub up: bool,
    /// Version, or why it does not stand.
    pub note: Option<String>,
}

/// What happened to each name of a command that takes several.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ActedReply {
    /// What was done: `started`, `stopped`, `removed`.
    pub act: &'static str,
    /// Names it was done to, or that were so already.
    pub done: Vec<SandboxName>,
    /// Names it failed for, and why. The first one's exit code counts.
    pub failed: Vec<Failed>,
}

/// A name and why something failed for it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Failed {
    /// The name.
    pub name: SandboxName,
    /// Why.
    pub error: Error,
}

/// Lines of a log, oldest first.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct LogsReply {
    /// The lines.
    pub lines: Vec<LogLine>,
}

/// One line of a log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogLine {
    /// Who wrote it: `boot`, `guest`, `supervisor`, `vmm`, `net`, `share`.
    pub source: String,
    /// When: milliseconds since 1970, if it is known.
    pub time_ms: Option<u64>,
    /// The text without its line end. May come from the guest: escape it
    /// before it is shown.
    pub text: String,
}

/// What `run` would do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanReply {
    /// The request with every layer resolved. Values of variables are left
    /// out.
    pub spec: SandboxSpec,
    /// Whether the sandbox exists already.
    pub exists: bool,
    /// What the plan rests on.
    pub facts: Vec<Fact>,
    /// The steps in their order.
    pub steps: Vec<PlanStep>,
    /// What the user would be warned of.
    pub warnings: Vec<String>,
}

/// A fact of the host that a plan rests on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fact {
    /// Which one ("kvm").
    pub name: String,
    /// What was found ("not usable: no vmx or svm flag").
    pub value: String,
}

/// One step of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanStep {
    /// What is done, one phrase.
    pub what: String,
    /// Arguments, paths, sizes: one line each.
    pub detail: Vec<String>,
    /// Whether it was done before and its result is used.
    pub cached: bool,
}

/// How the host is.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct DoctorReply {
    /// One entry per check, in the order they are shown.
    pub checks: Vec<Check>,
}

/// One check of the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Check {
    /// A stable name (`kvm`, `landlock`, `kernel`).
    pub id: String,
    /// What was looked at, one phrase.
    pub title: String,
    /// What came of it.
    pub outcome: Outcome,
    /// What was found.
    pub found: String,
    /// What to type or do, unless it passed.
    pub cure: Option<String>,
}

/// What came of a check.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// Works, but less well or less safely.
    Warn,
    /// `sbx run` cannot work.
    Fail,
}

/// What was given back, or would be.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct GcReply {
    /// Whether nothing was really done.
    pub dry_run: bool,
    /// What went.
    pub items: Vec<GcItem>,
    /// The sum of their sizes.
    pub freed: u64,
}

/// One thing that nothing needs any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GcItem {
    /// What it is, and why it can go, one phrase.
    pub what: String,
    /// Where it is, if it is a file.
    pub path: Option<PathBuf>,
    /// Bytes on disk.
    pub bytes: u64,
}

/// Versions of the parts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VersionReply {
    /// Version of sbx.
    pub sbx: String,
    /// Generation of the protocol with the guest.
    pub protocol: u16,
    /// Version of the guest kernel that is in place, if one is.
    pub kernel: Option<String>,
    /// Digest of the base template that is in place, if one is.
    pub template: Option<String>,
    /// Version of QEMU, if it is installed.
    pub qemu: Option<String>,
}

impl Reply {
    /// What the process returns after showing this: 0 to 4 as in
    /// `docs/cli.md`, or what the program inside returned.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Session(session) => match session.ended {
                Ended::Code(code) => code,
                Ended::Signal(number) => number.saturating_add(128),
            },
            Self::Acted(acted) => acted.failed.first().map_or(0, |failed| failed.error.exit()),
            Self::Doctor(doctor) => u8::from(
                doctor
                    .checks
                    .iter()
                    .any(|check| check.outcome == Outcome::Fail),
            ),
            Self::Checked(checked) => u8::from(checked.is_deny()),
            Self::Sandbox(_)
            | Self::PolicyEdited(_)
            | Self::PolicyList(_)
            | Self::Audit(_)
            | Self::Ports(_)
            | Self::Pending(_)
            | Self::Answered(_)
            | Self::List(_)
            | Self::Inspect(_)
            | Self::Logs(_)
            | Self::Plan(_)
            | Self::Gc(_)
            | Self::Version(_)
            | Self::Done {} => 0,
        }
    }
}

/// A name whose changes stay in the sandbox until they are reviewed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldName {
    /// The share it lies in, as its path on the host.
    pub share: PathBuf,
    /// The name below the share. Written by the guest: escape it before it
    /// is shown.
    pub path: String,
}
