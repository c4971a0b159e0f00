//! The text form of what is said about policies.

use anstyle::AnsiColor;
use sbx_engine::command::{CheckedReply, PolicyEdited, PolicyListReply, PolicyListed, PresetFrom};
use sbx_spec::Action;

use super::table::columns;
use super::{Paint, escape};

/// What an edit came to.
pub(super) fn edited(edited: &PolicyEdited) -> String {
    let file = escape(&edited.file.to_string_lossy());
    let mut text = match edited.changed {
        true => format!("changed {file}\n"),
        false => format!("{file} says so already\n"),
    };
    if !edited.applied.is_empty() {
        let names: Vec<String> = edited.applied.iter().map(ToString::to_string).collect();
        text += &format!("in force in {}", names.join(", "));
        text += &match edited.cut {
            0 => "\n".to_owned(),
            1 => "; one open connection ended\n".to_owned(),
            many => format!("; {many} open connections ended\n"),
        };
    }
    text
}

/// The rules that count; those of presets by the group unless all are wanted.
pub(super) fn listing(list: &PolicyListReply, quiet: bool, wide: bool, paint: Paint) -> String {
    let is_preset = |rule: &&PolicyListed| rule.origin.starts_with("preset:");
    let (preset, own): (Vec<_>, Vec<_>) = list.rules.iter().partition(is_preset);
    let mut rows: Vec<Vec<String>> = own.into_iter().map(row).collect();
    if wide || quiet {
        rows.extend(preset.into_iter().map(row));
    } else {
        rows.extend(groups(&preset));
    }
    if quiet {
        return rows
            .iter()
            .filter_map(|row| Some(format!("{}\n", row.first()?)))
            .collect();
    }
    let wanted = list.wanted.iter().map(|rule| {
        let mut row = row(rule);
        row.splice(0..2, ["-".to_owned(), "wanted".to_owned()]);
        row
    });
    rows.extend(wanted);
    let from = match list.preset_from {
        PresetFrom::Sandbox => "chosen for this sandbox with --network",
        PresetFrom::User => "the user's choice",
        PresetFrom::Default => "nobody chose another; `sbx policy init` does",
    };
    let head = paint.with(
        &format!("preset {} ({from})", list.preset),
        anstyle::Style::new().bold(),
    );
    let table = columns(&["ID", "ACTION", "RESOURCE", "ORIGIN"], &rows);
    format!("{head}\n{table}{}", remedy(list))
}

/// The command that accepts what is only wanted.
fn remedy(list: &PolicyListReply) -> String {
    let Some(name) = list.sandbox.as_ref().filter(|_| !list.wanted.is_empty()) else {
        return String::new();
    };
    let wanted: Vec<String> = (list.wanted.iter())
        .map(|rule| rule.resource.to_string())
        .collect();
    format!(
        "what is wanted is not in force; to accept it: sbx policy allow network {} --sandbox {name}\n",
        escape(&wanted.join(","))
    )
}

fn row(rule: &PolicyListed) -> Vec<String> {
    vec![
        escape(&rule.id),
        rule.action.to_string(),
        escape(&rule.about()),
        escape(&rule.origin),
    ]
}

/// One line for each group of a preset: its domains without ports.
fn groups(rules: &[&PolicyListed]) -> Vec<Vec<String>> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for rule in rules {
        let target = rule.resource.target().to_string();
        // A domain and everything below it are two rules and one thought.
        let name = target.trim_start_matches("**.").to_owned();
        let name = if name.is_empty() || target == "**" {
            "**".to_owned()
        } else {
            name
        };
        match groups.last_mut() {
            Some((origin, names)) if *origin == rule.origin => {
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            _ => groups.push((rule.origin.clone(), vec![name])),
        }
    }
    let line = |(origin, names): (String, Vec<String>)| {
        vec![
            "-".to_owned(),
            Action::Allow.to_string(),
            escape(&names.join(" ")),
            escape(&origin),
        ]
    };
    groups.into_iter().map(line).collect()
}

/// What would come of a connection.
pub(super) fn checked(checked: &CheckedReply, paint: Paint) -> String {
    let color = match checked.verdict {
        "allow" => AnsiColor::Green,
        "deny" => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    let verdict = paint.color(checked.verdict, color);
    let id = match &checked.id {
        Some(id) => format!(" ({})", escape(id)),
        None => String::new(),
    };
    let mut text = format!(
        "{verdict} {}: {}{id}\n",
        escape(&checked.target.to_string()),
        escape(&checked.rule)
    );
    if checked.verdict == "inspect" {
        text += "each request is judged, and what is no HTTP is refused; \
                 --method and --path say which to ask about\n";
    }
    if checked.verdict == "ask" {
        text += "it waits for an answer; `sbx policy pending` shows what does\n";
    }
    if !checked.addresses.is_empty() {
        let addresses: Vec<String> = checked.addresses.iter().map(ToString::to_string).collect();
        text += &format!("resolves to {}\n", addresses.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use sbx_spec::{NetworkPreset, Origin, Rule, preset_rules};

    use super::*;

    fn list() -> PolicyListReply {
        let own = Rule::new(Action::Deny, "a.example".parse().unwrap(), Origin::User).unwrap();
        PolicyListReply {
            sandbox: None,
            preset: NetworkPreset::Balanced,
            preset_from: PresetFrom::Default,
            rules: std::iter::once(own)
                .chain(preset_rules(NetworkPreset::Balanced))
                .map(|rule| PolicyListed::of(&rule))
                .collect(),
            wanted: Vec::new(),
        }
    }

    #[test]
    fn what_a_kit_wants_is_told_apart_with_the_command_that_accepts_it() {
        let kit = Origin::Kit("claude".parse().unwrap());
        let wanted = Rule::new(Action::Allow, "api.example:443".parse().unwrap(), kit).unwrap();
        let list = PolicyListReply {
            sandbox: Some("box".parse().unwrap()),
            preset: NetworkPreset::Locked,
            rules: Vec::new(),
            wanted: vec![PolicyListed::of(&wanted)],
            ..list()
        };
        let text = listing(&list, false, false, Paint::none());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[2].starts_with("-   wanted"), "{text}");
        assert!(lines[2].ends_with("kit:claude"), "{text}");
        assert_eq!(
            lines[3],
            "what is wanted is not in force; to accept it: \
             sbx policy allow network api.example:443 --sandbox box"
        );
        assert_eq!(listing(&list, true, false, Paint::none()), "");
    }

    #[test]
    fn a_list_shows_groups_and_a_wide_one_every_rule() {
        let short = listing(&list(), false, false, Paint::none());
        assert!(short.starts_with("preset balanced (nobody chose another"));
        let lines: Vec<&str> = short.lines().collect();
        assert!(
            lines[2].contains("deny") && lines[2].ends_with("user"),
            "{short}"
        );
        assert!(lines[3].contains(" github.com ") && lines[3].ends_with("preset:code"));
        assert_eq!(lines.len(), 3 + sbx_spec::GROUPS.len());
        let wide = listing(&list(), false, true, Paint::none());
        assert_eq!(wide.lines().count(), 2 + list().rules.len());
        let quiet = listing(&list(), true, false, Paint::none());
        assert_eq!(quiet.lines().count(), list().rules.len());
    }

    #[test]
    fn an_edit_says_where_it_counts_and_what_it_ended() {
        let reply = PolicyEdited {
            changed: true,
            file: "/c/policy.toml".into(),
            applied: vec!["box-1".parse().unwrap()],
            cut: 2,
        };
        assert_eq!(
            edited(&reply),
            "changed /c/policy.toml\nin force in box-1; 2 open connections ended\n"
        );
    }
}
