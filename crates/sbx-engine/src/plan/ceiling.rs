//! What all processes of a sandbox may take of the host together, and whether
//! this host can hold them to it.

use sbx_spec::{ByteSize, Isolation, Limit, SandboxSpec};
use sbx_sys::cgroup::Controller;
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};
use crate::facts::HostFacts;

/// What the processes around a machine may take beside its own memory:
/// translated code, tables, the kernel's share of open files. They take a
/// fifth of it; whatever comes to more is a flood, and ends the sandbox.
pub const HEADROOM: ByteSize = ByteSize::mib(512);

/// What our processes beside a container may take: supervisor, spawner,
/// launcher and endpoint take a few mebibytes, the endpoint more with
/// connections.
pub const OWN_MEMORY: ByteSize = ByteSize::mib(128);

/// Most processes and threads of a sandbox on the host: a thread for each
/// processor, 64 of the monitor's and a few dozen of each file server.
pub const MAX_TASKS: u32 = 2048;

/// Most processes and threads of ours beside those of a container, without
/// its file servers.
pub const OWN_TASKS: u32 = 128;

/// Most threads of one file server of a container.
const SHARE_TASKS: u32 = 8;

/// What all processes of a sandbox on the host may take together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ceiling {
    /// Memory: the sandbox's, and [`HEADROOM`] or [`OWN_MEMORY`].
    pub memory: ByteSize,
    /// Processor time in thousandths of a processor: of a machine where a
    /// fraction was asked for, since whole processors are its own.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub tasks: u32,
    /// Without what of a control group it does not start: somebody asked for
    /// a limit that nothing else holds.
    pub required: Vec<Controller>,
}

impl Ceiling {
    /// The ceiling of a sandbox. It is all that holds a container.
    pub(super) fn of(spec: &SandboxSpec) -> Self {
        let limits = &spec.limits;
        if spec.isolation == Isolation::Docker {
            // The engine's own control groups hold the rest.
            return Self {
                memory: HEADROOM,
                cpu_millis: None,
                tasks: OWN_TASKS,
                required: Vec::new(),
            };
        }
        let contained = spec.isolation == Isolation::Container;
        let beside = if contained { OWN_MEMORY } else { HEADROOM };
        let servers = u32::try_from(spec.shares.len()).unwrap_or(u32::MAX);
        let own = OWN_TASKS.saturating_add(servers.saturating_mul(SHARE_TASKS));
        Self {
            memory: ByteSize::bytes((limits.memory.as_bytes()).saturating_add(beside.as_bytes())),
            cpu_millis: (contained || limits.cpus.is_fraction()).then(|| limits.cpus.milli()),
            tasks: if contained {
                limits.pids.saturating_add(own)
            } else {
                MAX_TASKS
            },
            required: required(spec),
        }
    }

    /// That a control group with these controllers, or without a reason for
    /// none, holds what has to be held.
    ///
    /// # Errors
    /// With the limits that it would not hold.
    pub(crate) fn is_held(&self, held: Result<&[Controller], &str>) -> Result<(), Error> {
        let unheld: Vec<_> = (self.required.iter())
            .filter(|needed| !held.is_ok_and(|held| held.contains(needed)))
            .map(|needed| described(*needed).1)
            .collect();
        if unheld.is_empty() {
            return Ok(());
        }
        let why = match held {
            Ok(_) => "it would have no controller for that",
            Err(why) => why,
        };
        let message = format!(
            "no control group can hold {} here: {why}",
            unheld.join(", ")
        );
        let hint = if self.required == [Controller::Cpu] {
            "give a whole number of processors, or run it with `--isolation microvm`"
        } else {
            "run it with `--isolation microvm`, whose machine has that size, or make it anew \
             without these limits, from the command line and from the configuration"
        };
        Err(Error::new(Code::Limit, message).hint(hint))
    }
}

/// What only a control group can hold of what was asked for: a fraction of a
/// processor, and of a container everything.
fn required(spec: &SandboxSpec) -> Vec<Controller> {
    let mut all = Vec::new();
    let contained = spec.isolation == Isolation::Container;
    let asked = spec.asked.iter().filter_map(|limit| match limit {
        Limit::Cpus => Some(Controller::Cpu),
        Limit::Memory => Some(Controller::Memory),
        Limit::Pids => Some(Controller::Pids),
        Limit::Disk => None,
    });
    all.extend(asked.filter(|_| contained));
    all.extend(spec.limits.cpus.is_fraction().then_some(Controller::Cpu));
    all.sort_unstable();
    all.dedup();
    all
}

/// What does not hold a container here although nobody asked for it, if
/// anything.
pub(super) fn warning(facts: &HostFacts) -> Option<String> {
    let missing = match &facts.control_group {
        Err(why) => format!("no control group ({why})"),
        Ok(held) => {
            let all = [Controller::Memory, Controller::Cpu, Controller::Pids];
            let missing = all.iter().filter(|one| !held.contains(one));
            let names: Vec<_> = missing.map(|one| described(*one).0).collect();
            if names.is_empty() {
                return None;
            }
            format!("a control group without {}", names.join(", "))
        }
    };
    Some(format!(
        "{missing}: what the container may take of memory, processors and processes is not \
         held there; a microVM is"
    ))
}

/// What the configuration says of disks and a container does not keep; by flag
/// it would have been an error.
pub(super) fn disk_warning(spec: &SandboxSpec) -> Option<String> {
    spec.asked.contains(&Limit::Disk).then(|| {
        format!(
            "nothing holds the disk of a container: the {} of config.toml count for machines alone",
            spec.limits.disk
        )
    })
}

/// The controller, and what of a sandbox it holds.
fn described(controller: Controller) -> (&'static str, &'static str) {
    match controller {
        Controller::Memory => ("memory", "its memory"),
        Controller::Cpu => ("cpu", "its share of processors"),
        Controller::Pids => ("pids", "its number of processes"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::spec;
    use super::*;

    fn ceiling(isolation: Isolation, asked: Vec<Limit>) -> Ceiling {
        Ceiling::of(&SandboxSpec {
            isolation,
            asked,
            ..spec()
        })
    }

    #[test]
    fn a_limit_that_was_asked_for_and_cannot_be_held_stops_the_start() {
        let memory = ceiling(Isolation::Container, vec![Limit::Memory]);
        let gone = memory.is_held(Err("it has gone")).unwrap_err();
        assert_eq!(gone.code.session_exit(), 125);
        assert!(gone.message.contains("its memory"), "{gone}");
        assert!(gone.message.contains("it has gone"), "{gone}");
        let lesser = memory.is_held(Ok(&[Controller::Pids, Controller::Cpu]));
        assert_eq!(lesser.unwrap_err().code, Code::Limit);
    }

    #[test]
    fn a_disk_of_the_configuration_that_a_container_does_not_keep_is_told() {
        let with = |asked: Vec<Limit>| {
            disk_warning(&SandboxSpec {
                isolation: Isolation::Container,
                asked,
                ..spec()
            })
        };
        assert!(with(vec![Limit::Disk]).unwrap().contains("20g"));
        assert_eq!(with(vec![Limit::Memory]), None);
    }

    #[test]
    fn a_container_may_take_what_it_was_given_and_little_more() {
        let contained = ceiling(Isolation::Container, Vec::new());
        assert_eq!(contained.memory, ByteSize::mib(1024 + 128));
        let machine = ceiling(Isolation::MicroVm, Vec::new());
        assert_eq!(machine.memory, ByteSize::mib(1024 + 512));
    }

    #[test]
    fn what_is_held_or_was_not_asked_for_starts() {
        let memory = ceiling(Isolation::Container, vec![Limit::Memory]);
        assert!(memory.is_held(Ok(&[Controller::Memory])).is_ok());
        let defaults = ceiling(Isolation::Container, Vec::new());
        assert!(defaults.is_held(Err("none is delegated")).is_ok());
        // A machine is held by its size.
        let machine = ceiling(Isolation::MicroVm, vec![Limit::Memory, Limit::Pids]);
        assert!(machine.is_held(Err("none is delegated")).is_ok());
    }
}
