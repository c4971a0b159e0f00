//! Behaviours that are held to in every isolation.
//!
//! A behaviour is a function of the isolation, host half and guest half in one
//! place. [`in_each_isolation!`](crate::in_each_isolation) makes a test of it
//! for each; [`where_kept!`](crate::where_kept) makes one where the table of
//! promises says that it is kept, and elsewhere one that the sandbox says so.
//! A new isolation is one more test in both macros. Where there is no engine
//! the tests for `docker` do not go on.

use sbx_sys::cgroup::{Controller, Group};

use crate::home::Home;

pub use sbx_spec::{Isolation, Kept, Promise, WorkspaceGuard};

/// A test of each behaviour for each isolation: `behaviour::microvm` and so on.
#[macro_export]
macro_rules! in_each_isolation {
    ($($behaviour:ident),+ $(,)?) => {$(
        mod $behaviour {
            #[test]
            fn microvm() {
                super::$behaviour($crate::Isolation::MicroVm);
            }

            #[test]
            fn container() {
                super::$behaviour($crate::Isolation::Container);
            }

            #[test]
            fn docker() {
                if $crate::Fact::Root.holds_for("docker") {
                    super::$behaviour($crate::Isolation::Docker);
                }
            }
        }
    )+};
}

/// The same for behaviours that only those isolations have which keep a
/// promise wholly.
#[macro_export]
macro_rules! where_kept {
    ($promise:expr => $($behaviour:ident),+ $(,)?) => {$(
        mod $behaviour {
            #[allow(unused_imports, reason = "the promise is named as in the list")]
            use $crate::{Isolation, Promise};

            #[test]
            fn microvm() {
                $crate::where_kept($promise, Isolation::MicroVm, super::$behaviour);
            }

            #[test]
            fn container() {
                $crate::where_kept($promise, Isolation::Container, super::$behaviour);
            }

            #[test]
            fn docker() {
                if $crate::Fact::Root.holds_for("docker") {
                    $crate::where_kept($promise, Isolation::Docker, super::$behaviour);
                }
            }
        }
    )+};
}

/// Has the behaviour where the promise is kept wholly, and looks that a
/// sandbox says what is so instead where it is not.
#[track_caller]
pub fn where_kept(promise: Promise, isolation: Isolation, behaviour: fn(Isolation)) {
    let Some(caveat) = promise.kept(isolation, WorkspaceGuard::Full).caveat() else {
        return behaviour(isolation);
    };
    let home = Home::of(isolation);
    let told = home.sandbox("telling").inspect();
    let lines = told["promises"].as_array().expect("a list of promises");
    let line = lines.iter().find(|line| line["promise"] == promise.name());
    assert_eq!(line.expect("a line of it")["caveat"], caveat, "{told}");
}

/// Whether a control group of this host can hold the memory of a sandbox.
pub(crate) fn memory_can_be_held() -> bool {
    Group::locate("sbx-e2e").is_ok_and(|group| group.controllers().contains(&Controller::Memory))
}
