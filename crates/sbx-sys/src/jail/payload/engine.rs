//! The same list in the form that container engines read, for containers that
//! somebody else starts: around it stands what the engine puts up, inside of it
//! the program confines itself as everywhere.
//!
//! Looser in one thing: where the same argument is looked at twice, the form
//! cannot say "and", and the call is let through for the inner filter to look at.

use serde_json::{Value, json};

use super::{ABSENT, Is, LOOKED_INTO, Way, allowed, named};

/// What the program in it still does to itself, and loses by that.
const SET_UP: &[super::Named] = named![
    SYS_landlock_add_rule,
    SYS_landlock_create_ruleset,
    SYS_landlock_restrict_self,
    SYS_prctl,
    SYS_seccomp,
];

/// Sockets for the frames of an interface.
const FRAMES: Way = &[(0, Is::Value(libc::AF_PACKET.cast_unsigned()))];

/// The filter as a JSON document of the form that Docker defined; with
/// `frames` it lets packet sockets through, which take a capability as well.
#[must_use]
pub fn engine_profile(frames: bool) -> Value {
    let plain: Vec<_> = allowed()
        .chain(SET_UP.iter().copied())
        .map(|(name, _)| bare(name))
        .collect();
    let absent: Vec<_> = ABSENT.iter().map(|(name, _)| bare(name)).collect();
    let mut calls = vec![
        json!({ "names": plain, "action": "SCMP_ACT_ALLOW" }),
        json!({ "names": absent, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::ENOSYS }),
    ];
    for ((name, _), ways) in LOOKED_INTO {
        for way in *ways {
            calls.push(json!({
                "names": [bare(name)],
                "action": "SCMP_ACT_ALLOW",
                "args": arguments(way),
            }));
        }
    }
    if frames {
        calls.push(json!({
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": arguments(FRAMES),
        }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": calls,
    })
}

fn bare(name: &str) -> &str {
    name.trim_start_matches("SYS_")
}

fn arguments(way: Way) -> Vec<Value> {
    let twice = way
        .iter()
        .any(|(one, _)| way.iter().filter(|(other, _)| other == one).count() > 1);
    if twice {
        return Vec::new();
    }
    let one = |(index, is): &(u8, Is)| match is {
        Is::Value(value) => json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" }),
        Is::Not(value) => json!({ "index": index, "value": value, "op": "SCMP_CMP_NE" }),
        Is::Without(bits) => {
            json!({ "index": index, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" })
        }
    };
    way.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_document_lets_through_is_the_list() {
        let document = engine_profile(false);
        let frames = |document: &Value| {
            let calls = document["syscalls"].as_array().unwrap();
            let kinds = calls.iter().filter(|call| call["names"][0] == "socket");
            kinds
                .filter(|call| call["args"][0]["value"] == libc::AF_PACKET)
                .count()
        };
        assert_eq!((frames(&document), frames(&engine_profile(true))), (0, 1));
        let text = document.to_string();
        assert_eq!(document["defaultAction"], "SCMP_ACT_ERRNO");
        for name in ["\"read\"", "\"cachestat\"", "\"execve\"", "\"seccomp\""] {
            assert!(text.contains(name), "{name}");
        }
        for name in [
            "\"mount\"",
            "\"setns\"",
            "\"bpf\"",
            "\"keyctl\"",
            "\"pidfd_getfd\"",
        ] {
            assert!(!text.contains(name), "{name}");
        }
        let clone = &document["syscalls"].as_array().unwrap()[2];
        assert_eq!(clone["names"][0], "clone");
        assert_eq!(clone["args"][0]["op"], "SCMP_CMP_MASKED_EQ");
    }
}
