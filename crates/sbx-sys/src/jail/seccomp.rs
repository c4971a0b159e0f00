//! Compiles a profile to two filters and installs them.
//!
//! The first kills the process for what no role may do (an attempt is an
//! attack or a grave mistake); the second answers `ENOSYS` to everything that
//! the profile does not list, so that libraries that try a newer call first
//! fall back. The kernel takes the stricter answer of the two.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::profile::{self, Profile};
use crate::error::{Error, Result};

/// One way in which a call is allowed: all conditions hold. Each names an
/// argument, a mask and the value of the masked 32 bits.
pub(super) type Way = &'static [(u8, u32, u32)];

/// A system call and the ways in which it is allowed; none means any.
pub(super) type Call = (i64, &'static [Way]);

/// Filters ready to be installed.
pub(super) struct Filter {
    never: BpfProgram,
    only: BpfProgram,
    /// How many calls get through.
    pub(super) calls: usize,
}

pub(super) fn compile(profile: Profile, also: &[i64]) -> Result<Filter> {
    let mut only = BTreeMap::new();
    for (call, ways) in profile::calls(profile) {
        let rules = ways
            .iter()
            .map(|way| rule(way))
            .collect::<Result<Vec<_>>>()?;
        // A list of no rules means any argument, and it wins over others.
        only.entry(call)
            .and_modify(|known: &mut Vec<SeccompRule>| {
                if known.is_empty() || rules.is_empty() {
                    known.clear();
                } else {
                    known.extend(rules.iter().cloned());
                }
            })
            .or_insert(rules);
    }
    for call in also {
        if profile::NEVER.contains(call) {
            return Err(Error::refused(format!(
                "allow system call {call}, which no role may use"
            )));
        }
        only.insert(*call, Vec::new());
    }
    let calls = only.len();
    let never = profile::NEVER
        .iter()
        .map(|call| (*call, Vec::new()))
        .collect();
    Ok(Filter {
        never: program(never, SeccompAction::Allow, SeccompAction::KillProcess)?,
        only: program(
            only,
            SeccompAction::Errno(libc::ENOSYS as u32),
            SeccompAction::Allow,
        )?,
        calls,
    })
}

impl Filter {
    /// Puts both in force for this thread. Needs no_new_privs.
    pub(super) fn install(self) -> Result<()> {
        // The order matters: the allow-list does not hold the call that
        // installs a filter in every profile.
        seccompiler::apply_filter(&self.never).map_err(refused)?;
        seccompiler::apply_filter(&self.only).map_err(refused)
    }
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(invalid)?;
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(TryInto::try_into)
        .map_err(invalid)
}

fn rule(way: Way) -> Result<SeccompRule> {
    let conditions = way
        .iter()
        .map(|(argument, mask, value)| {
            SeccompCondition::new(
                *argument,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::MaskedEq(u64::from(*mask)),
                u64::from(*value),
            )
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(invalid)?;
    SeccompRule::new(conditions).map_err(invalid)
}

fn invalid(error: seccompiler::BackendError) -> Error {
    Error::new("compile a seccomp filter", std::io::Error::other(error))
}

fn refused(error: seccompiler::Error) -> Error {
    Error::new("install a seccomp filter", std::io::Error::other(error))
}
