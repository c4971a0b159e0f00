//! A control group that systemd makes and holds: a transient scope.
//!
//! Owns: which manager is asked, for what, and whether the kernel was then
//! told so. Where systemd runs a host it is the one writer of its control
//! groups, and an ordinary user's session has none of its own: both root and
//! users get theirs from their manager. It ends with its last process, which
//! is systemd's to see.
//!
//! Source: `org.freedesktop.systemd1`(5), "Control Group APIs and Delegation".

use std::path::{Path, PathBuf};

use sbx_sys::cgroup::{Controller, Limits, Unified};
use zbus::{OwnedObjectPath, OwnedVariant, Variant};

use super::bus::{Bus, Object};

const MANAGER: Object = Object {
    service: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};
const PROPERTIES: Object = Object {
    interface: "org.freedesktop.DBus.Properties",
    ..MANAGER
};
/// Its reports of jobs that are over.
const JOBS: &str = "type='signal',sender='org.freedesktop.systemd1',\
                    path='/org/freedesktop/systemd1',\
                    interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
/// Processor time per second, in microseconds for a thousandth.
const MICROS: u64 = 1000;

type Properties<'a> = Vec<(&'a str, Variant<'a>)>;

/// The manager of this process's user.
pub(super) struct Manager {
    bus: Bus,
    socket: PathBuf,
    unified: Unified,
}

impl Manager {
    /// Connects to it. `None` where systemd's kind of control groups is not
    /// in use here.
    ///
    /// # Errors
    /// Says why it cannot be asked.
    pub(super) fn connect() -> Result<Option<Self>, String> {
        let booted = Path::new("/run/systemd/system").is_dir();
        let Some(unified) = Unified::of_this_process().filter(|_| booted) else {
            return Ok(None);
        };
        let uid = rustix::process::geteuid().as_raw();
        let socket = if uid == 0 {
            PathBuf::from("/run/dbus/system_bus_socket")
        } else {
            PathBuf::from(format!("/run/user/{uid}/bus"))
        };
        match Bus::connect(&socket, uid) {
            Ok(bus) => Ok(Some(Self {
                bus,
                socket,
                unified,
            })),
            Err(error) => Err(format!(
                "systemd cannot be asked for one at `{}`: {error}; a login gives its user that, \
                 and so does `loginctl enable-linger`",
                socket.display()
            )),
        }
    }

    /// What a scope of it can limit.
    ///
    /// # Errors
    /// Says what failed.
    pub(super) fn controllers(&mut self) -> Result<Vec<Controller>, String> {
        let wanted = (MANAGER.interface, "ControlGroup");
        let group = self
            .bus
            .call(PROPERTIES, "Get", &wanted)
            .and_then(|reply| reply.body::<(OwnedVariant,)>())
            .map_err(|error| self.failed("ask systemd for its control group", &error))?;
        let group = String::try_from(group.0)
            .map_err(|error| self.failed("read the answer of systemd", &error))?;
        Ok(self.unified.available_in(&group))
    }

    /// Puts this process into a scope `name` with these limits; those that
    /// the kernel then holds.
    ///
    /// # Errors
    /// Says what failed.
    pub(super) fn enter(
        mut self,
        name: &str,
        description: &str,
        limits: &Limits,
    ) -> Result<Vec<Controller>, String> {
        let unit = format!("{name}.scope");
        let attempt = format!("have systemd make the scope `{unit}`");
        let made = self.make(&unit, description, limits);
        let result = made.map_err(|error| self.failed(&attempt, &error))?;
        if result != "done" {
            return Err(self.failed(&attempt, &format!("its job ended as `{result}`")));
        }
        let now = Unified::of_this_process().filter(|now| now.is_named(&unit));
        let now = now.ok_or_else(|| self.failed(&attempt, &"this process is not in it"))?;
        // What it has no controller for systemd leaves out without a word.
        Ok(now.holds(limits))
    }

    fn make(&mut self, unit: &str, description: &str, limits: &Limits) -> std::io::Result<String> {
        self.bus.listen(JOBS)?;
        self.bus.call(MANAGER, "Subscribe", &())?;
        let nothing: Vec<(&str, Properties<'_>)> = Vec::new();
        let body = (unit, "fail", properties(description, limits), nothing);
        let reply = self.bus.call(MANAGER, "StartTransientUnit", &body)?;
        let (job,): (OwnedObjectPath,) = reply.body()?;
        loop {
            let signal = self.bus.signal()?;
            if signal.member != "JobRemoved" {
                continue;
            }
            let (_, over, _, result): (u32, OwnedObjectPath, String, String) = signal.body()?;
            if over == job {
                return Ok(result);
            }
        }
    }

    fn failed(&self, attempt: &str, why: &dyn std::fmt::Display) -> String {
        format!("cannot {attempt} at `{}`: {why}", self.socket.display())
    }
}

fn properties<'a>(description: &'a str, limits: &Limits) -> Properties<'a> {
    let mut all = vec![
        ("Description", Variant::from(description)),
        ("PIDs", Variant::from(vec![std::process::id()])),
        // What is inside is ours: a process that the kernel ends for want of
        // memory is not the end of the others.
        ("Delegate", Variant::from(true)),
        // One whose process was killed is forgotten all the same.
        ("CollectMode", Variant::from("inactive-or-failed")),
    ];
    if let Some(bytes) = limits.memory {
        all.push(("MemoryMax", Variant::from(bytes)));
    }
    if let Some(millis) = limits.cpu_millis {
        let micros = millis.saturating_mul(MICROS);
        all.push(("CPUQuotaPerSecUSec", Variant::from(micros)));
    }
    if let Some(tasks) = limits.pids {
        all.push(("TasksMax", Variant::from(tasks)));
    }
    all
}
