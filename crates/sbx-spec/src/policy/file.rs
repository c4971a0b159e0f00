//! A policy as it is written down: `policy.toml` of the user, and that of
//! one sandbox.
//!
//! Never: reads or writes the file; it is given the text and gives one back.
//! An edit keeps the user's comments and order. A text that holds anything
//! unknown is no policy, so that a misspelt `deny` is never silence.

use std::fmt;

use serde::Deserialize;
use toml_edit::{Array, DocumentMut, Item, Value};

use super::rule::{Action, Origin, Rule, RuleId};
use crate::config::{ConfigError, line_of};
use crate::spec::NetworkPreset;

/// Most bytes a policy file may have.
pub const MAX_POLICY_FILE: usize = 256 * 1024;
/// Most rules a policy file may have.
pub const MAX_POLICY_RULES: usize = 2048;

/// A policy that was written down.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct PolicyFile {
    /// `preset`: what to start from.
    pub preset: Option<NetworkPreset>,
    /// `deny`, `approve`, `ask` and `allow`, each in the order of the file,
    /// and each rule once.
    pub rules: Vec<Rule>,
}

/// A change of a policy file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyEdit {
    /// Starts from this preset.
    Preset(NetworkPreset),
    /// Adds a rule, unless it stands there.
    Add(Rule),
    /// Removes the rule of this name.
    Remove(RuleId),
}

/// The file as it stands.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    preset: Option<toml::Spanned<String>>,
    allow: Vec<toml::Spanned<String>>,
    ask: Vec<toml::Spanned<String>>,
    approve: Vec<toml::Spanned<String>>,
    deny: Vec<toml::Spanned<String>>,
}

const HEAD: &str = "# What sandboxes may reach. `sbx policy --help` says how to change it;\n\
                    # `deny` beats `ask`, `ask` beats `allow`, what nothing allows is denied.\n";

impl PolicyFile {
    /// Reads the text of a policy file. Its rules get `origin`.
    ///
    /// # Errors
    /// The first thing that is wrong, and its line.
    pub fn parse(text: &str, origin: &Origin) -> Result<Self, ConfigError> {
        if text.len() > MAX_POLICY_FILE {
            return Err(ConfigError {
                line: None,
                message: format!("a policy has at most {MAX_POLICY_FILE} bytes"),
            });
        }
        let file: File = toml::from_str(text).map_err(|error| ConfigError {
            line: error.span().map(|span| line_of(text, span.start)),
            message: error.message().trim().to_owned(),
        })?;
        let preset = match file.preset {
            None => None,
            Some(word) => Some(at(text, &word, |word| word.parse::<NetworkPreset>())?),
        };
        let lists = [
            (Action::Deny, file.deny),
            (Action::Approve, file.approve),
            (Action::Ask, file.ask),
            (Action::Allow, file.allow),
        ];
        let mut rules = Vec::new();
        for (action, list) in lists {
            for written in list {
                let rule = at(text, &written, |written| {
                    Rule::read(action, written, origin.clone())
                })?;
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
        if rules.len() > MAX_POLICY_RULES {
            return Err(ConfigError {
                line: None,
                message: format!("a policy has at most {MAX_POLICY_RULES} rules"),
            });
        }
        Ok(Self { preset, rules })
    }

    /// The text of a policy file after an edit, and whether it changed.
    ///
    /// # Errors
    /// When the text before or after it is no policy.
    pub fn edit(
        text: &str,
        origin: &Origin,
        edits: &[PolicyEdit],
    ) -> Result<(String, bool), ConfigError> {
        let before = Self::parse(text, origin)?;
        let head = if text.trim().is_empty() { HEAD } else { "" };
        let mut document: DocumentMut =
            text.parse()
                .map_err(|error: toml_edit::TomlError| ConfigError {
                    line: error.span().map(|span| line_of(text, span.start)),
                    message: error.message().trim().to_owned(),
                })?;
        for edit in edits {
            match edit {
                PolicyEdit::Preset(preset) => {
                    document.insert("preset", toml_edit::value(preset.as_str()));
                }
                PolicyEdit::Add(rule) => add(&mut document, rule, origin),
                PolicyEdit::Remove(id) => remove(&mut document, *id, origin),
            }
        }
        let after = format!("{head}{document}");
        let changed = Self::parse(&after, origin)? != before;
        Ok((after, changed))
    }
}

fn at<T, E: fmt::Display>(
    text: &str,
    written: &toml::Spanned<String>,
    read: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, ConfigError> {
    read(written.get_ref()).map_err(|error| ConfigError {
        line: Some(line_of(text, written.span().start)),
        message: format!("\"{}\": {error}", written.get_ref().escape_debug()),
    })
}

/// What an element of a list stands for; `None` for what is no rule.
fn rule_of(action: Action, element: &Value, origin: &Origin) -> Option<Rule> {
    Rule::read(action, element.as_str()?, origin.clone()).ok()
}

fn list(document: &mut DocumentMut, action: Action) -> Option<&mut Array> {
    let entry = document.entry(&action.to_string());
    let item = entry.or_insert(Item::Value(Value::Array(Array::new())));
    item.as_array_mut()
}

fn add(document: &mut DocumentMut, rule: &Rule, origin: &Origin) {
    let action = rule.action();
    let Some(array) = list(document, action) else {
        return;
    };
    let there = |element: &Value| rule_of(action, element, origin).as_ref() == Some(rule);
    if array.iter().any(there) {
        return;
    }
    // A comment behind the last element is kept there, in front of this one.
    let comment = array
        .trailing()
        .as_str()
        .unwrap_or("")
        .trim_end()
        .to_owned();
    let mut element = Value::from(rule.written());
    element.decor_mut().set_prefix(format!("{comment}\n    "));
    array.push_formatted(element);
    array.set_trailing_comma(true);
    array.set_trailing("\n");
}

fn remove(document: &mut DocumentMut, id: RuleId, origin: &Origin) {
    for action in [Action::Allow, Action::Ask, Action::Approve, Action::Deny] {
        let list = document.get_mut(&action.to_string());
        let Some(array) = list.and_then(Item::as_array_mut) else {
            continue;
        };
        array.retain(|element| rule_of(action, element, origin).is_none_or(|rule| rule.id() != id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(action: Action, resource: &str) -> Rule {
        Rule::new(action, resource.parse().unwrap(), Origin::User).unwrap()
    }

    fn edit(text: &str, edits: &[PolicyEdit]) -> String {
        PolicyFile::edit(text, &Origin::User, edits).unwrap().0
    }

    #[test]
    fn a_file_holds_a_preset_and_four_lists() {
        let text = "preset = \"locked\"\nallow = [\"a.example:443\"]\ndeny = [\"**.b.example\"]\n\
                    ask = [\"**\"]\napprove = [\"a.example\"]\n";
        assert_eq!(
            PolicyFile::parse(text, &Origin::User).unwrap(),
            PolicyFile {
                preset: Some(NetworkPreset::Locked),
                rules: vec![
                    rule(Action::Deny, "**.b.example"),
                    rule(Action::Approve, "a.example"),
                    rule(Action::Ask, "**"),
                    rule(Action::Allow, "a.example:443"),
                ],
            }
        );
        assert_eq!(
            PolicyFile::parse("", &Origin::User).unwrap(),
            PolicyFile::default()
        );
    }

    #[test]
    fn anything_unknown_is_no_policy_and_its_line_is_told() {
        for (text, line) in [
            ("\ndenied = [\"a.example\"]", Some(2)),
            ("allow = [\n\"a.example\",\n\"*\",\n]", Some(3)),
            ("allow = [\"127.0.0.1\"]", Some(1)),
            ("preset = \"loose\"", Some(1)),
            ("allow = \"a.example\"", Some(1)),
            ("allow = [1]", Some(1)),
        ] {
            let error = PolicyFile::parse(text, &Origin::User).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error}");
        }
    }

    #[test]
    fn edits_keep_what_the_user_wrote() {
        let text = "# mine\nallow = [\n    \"a.example\", # because\n]\n";
        let added = edit(text, &[PolicyEdit::Add(rule(Action::Allow, "b.example"))]);
        assert_eq!(
            added,
            "# mine\nallow = [\n    \"a.example\", # because\n    \"b.example\",\n]\n"
        );
        let removed = edit(
            &added,
            &[PolicyEdit::Remove(rule(Action::Allow, "b.example").id())],
        );
        assert!(removed.contains("# mine") && !removed.contains("b.example"));
    }

    #[test]
    fn a_rule_stands_once_however_it_is_written() {
        let text = "allow = [\"A.Example.\"]\n";
        let (same, changed) = PolicyFile::edit(
            text,
            &Origin::User,
            &[PolicyEdit::Add(rule(Action::Allow, "a.example"))],
        )
        .unwrap();
        assert_eq!((same.as_str(), changed), (text, false));
    }

    #[test]
    fn a_first_edit_makes_a_file_that_explains_itself() {
        let text = edit(
            "",
            &[
                PolicyEdit::Preset(NetworkPreset::Balanced),
                PolicyEdit::Add(rule(Action::Deny, "a.example")),
            ],
        );
        assert!(text.starts_with("# What sandboxes may reach"), "{text}");
        let read = PolicyFile::parse(&text, &Origin::User).unwrap();
        assert_eq!(read.preset, Some(NetworkPreset::Balanced));
        assert_eq!(read.rules, [rule(Action::Deny, "a.example")]);
    }

    #[test]
    fn a_file_that_is_no_policy_is_not_edited() {
        let wrong = "allow = [\"*\"]\n";
        assert!(PolicyFile::edit(wrong, &Origin::User, &[]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_a_policy_or_an_error(text in "\\PC{0,200}") {
            let _read = PolicyFile::parse(&text, &Origin::User);
        }

        #[test]
        fn what_is_added_is_there_and_what_is_removed_is_not(
            names in prop::collection::vec("[a-c]{1,3}", 1..8),
            action in prop::sample::select(vec![
                Action::Allow,
                Action::Ask,
                Action::Approve,
                Action::Deny,
            ]),
        ) {
            let rules: Vec<Rule> = names.iter().map(|name| rule(action, &format!("{name}.example"))).collect();
            let adds: Vec<_> = rules.iter().cloned().map(PolicyEdit::Add).collect();
            let text = edit("", &adds);
            let read = PolicyFile::parse(&text, &Origin::User).unwrap();
            prop_assert!(rules.iter().all(|rule| read.rules.contains(rule)));
            let first = rules.first().unwrap();
            let text = edit(&text, &[PolicyEdit::Remove(first.id())]);
            let read = PolicyFile::parse(&text, &Origin::User).unwrap();
            prop_assert!(!read.rules.contains(first));
        }
    }
}
