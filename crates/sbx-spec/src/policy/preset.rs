//! The rules to start from.
//!
//! Ecosystems are named by the domain they registered, never by one host: a
//! download that moves to another host of theirs keeps working.

use crate::policy::{Action, Origin, Resource, Rule};
use crate::spec::NetworkPreset;

/// A readable part of the preset `balanced`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its word in the origin of its rules.
    pub name: &'static str,
    /// What it is there for, one line.
    pub purpose: &'static str,
    /// Patterns `**.zone`; the zone itself is meant with it.
    pub zones: &'static [&'static str],
    /// Ports.
    pub ports: &'static [u16],
}

const WEB: &[u16] = &[80, 443];

/// What `balanced` allows. Places where anybody can leave files to be
/// fetched by anybody (paste sites, file drops, chat) are not among them but
/// for those of the code hosts (`gist.github.com`, `paste.sr.ht`): these are
/// there whole, and a token for them that is inside can be used to write
/// there.
pub const GROUPS: &[Group] = &[
    Group {
        name: "code",
        purpose: "where repositories are cloned from",
        zones: &[
            "**.github.com",
            "**.githubusercontent.com",
            "**.gitlab.com",
            "**.bitbucket.org",
            "**.codeberg.org",
            "**.sr.ht",
        ],
        ports: &[22, 80, 443],
    },
    Group {
        name: "node",
        purpose: "packages and runtimes for JavaScript",
        zones: &[
            "**.npmjs.org",
            "**.npmjs.com",
            "**.yarnpkg.com",
            "**.nodejs.org",
            "**.jsr.io",
            "**.deno.land",
            "**.bun.sh",
        ],
        ports: WEB,
    },
    Group {
        name: "python",
        purpose: "packages for Python",
        zones: &[
            "**.pypi.org",
            "**.pythonhosted.org",
            "**.python.org",
            "**.pypa.io",
            "**.anaconda.org",
            "**.anaconda.com",
            "**.astral.sh",
        ],
        ports: WEB,
    },
    Group {
        name: "rust",
        purpose: "crates and toolchains for Rust",
        zones: &["**.crates.io", "**.rust-lang.org", "**.docs.rs"],
        ports: WEB,
    },
    Group {
        name: "go",
        purpose: "modules and toolchains for Go",
        zones: &["**.golang.org", "**.go.dev"],
        ports: WEB,
    },
    Group {
        name: "java",
        purpose: "artefacts for the Java virtual machine",
        zones: &[
            "**.maven.org",
            "**.apache.org",
            "**.gradle.org",
            "**.sonatype.org",
            "**.jetbrains.com",
        ],
        ports: WEB,
    },
    Group {
        name: "other-languages",
        purpose: "packages for Ruby, PHP, .NET, Elixir, Haskell, Dart",
        zones: &[
            "**.rubygems.org",
            "**.ruby-lang.org",
            "**.packagist.org",
            "**.nuget.org",
            "**.hex.pm",
            "**.haskell.org",
            "**.pub.dev",
        ],
        ports: WEB,
    },
    Group {
        name: "system",
        purpose: "packages of Linux distributions",
        zones: &[
            "**.debian.org",
            "**.ubuntu.com",
            "**.launchpad.net",
            "**.alpinelinux.org",
            "**.fedoraproject.org",
            "**.archlinux.org",
            "**.kernel.org",
        ],
        ports: WEB,
    },
    Group {
        name: "containers",
        purpose: "images",
        zones: &[
            "**.docker.io",
            "**.docker.com",
            "**.ghcr.io",
            "**.quay.io",
            "**.gcr.io",
            "**.k8s.io",
        ],
        ports: WEB,
    },
    Group {
        name: "documentation",
        purpose: "what is read while programming",
        zones: &[
            "**.mozilla.org",
            "**.readthedocs.io",
            "**.readthedocs.org",
            "**.w3.org",
            "**.ietf.org",
            "**.rfc-editor.org",
            "**.man7.org",
        ],
        ports: WEB,
    },
];

/// The rules of a preset. A pattern that is none is left out; a test sees
/// that there is no such.
pub fn rules(preset: NetworkPreset) -> impl Iterator<Item = Rule> {
    let everything: &[&str] = match preset {
        NetworkPreset::Open => &["**", "0.0.0.0/0", "::/0"],
        NetworkPreset::Balanced | NetworkPreset::Locked | NetworkPreset::None => &[],
    };
    let groups = match preset {
        NetworkPreset::Balanced => GROUPS,
        NetworkPreset::Open | NetworkPreset::Locked | NetworkPreset::None => &[],
    };
    let everything = everything.iter().map(|text| ("open", (*text).to_owned()));
    let groups = groups.iter().flat_map(|group| {
        group.zones.iter().flat_map(move |pattern| {
            let zone = pattern.trim_start_matches("**.");
            group.ports.iter().flat_map(move |port| {
                [zone, pattern].map(|host| (group.name, format!("{host}:{port}")))
            })
        })
    });
    everything.chain(groups).filter_map(|(group, text)| {
        let resource: Resource = text.parse().ok()?;
        Rule::new(Action::Allow, resource, Origin::Preset(group.to_owned())).ok()
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pattern_of_a_preset_is_a_rule_and_stands_once() {
        let expected: usize = GROUPS
            .iter()
            .map(|group| group.zones.len() * group.ports.len() * 2)
            .sum();
        let rules: Vec<Rule> = rules(NetworkPreset::Balanced).collect();
        assert_eq!(rules.len(), expected);
        let resources: BTreeSet<_> = rules.iter().map(|rule| rule.resource().clone()).collect();
        assert_eq!(resources.len(), expected);
        let ids: BTreeSet<_> = rules.iter().map(Rule::id).collect();
        assert_eq!(ids.len(), expected);
    }

    #[test]
    fn groups_name_domains_and_never_one_host_of_them() {
        for zone in GROUPS.iter().flat_map(|group| group.zones) {
            let labels = zone.strip_prefix("**.").map(|zone| zone.split('.').count());
            assert_eq!(labels, Some(2), "{zone}");
        }
    }

    #[test]
    fn locked_and_none_allow_nothing_to_begin_with() {
        assert_eq!(rules(NetworkPreset::Locked).count(), 0);
        assert_eq!(rules(NetworkPreset::None).count(), 0);
        assert_eq!(rules(NetworkPreset::Open).count(), 3);
    }
}
