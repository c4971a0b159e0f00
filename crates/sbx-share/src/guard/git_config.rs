//! What a git configuration of the host names: the directory of its hooks, further configuration,
//! and words that may be programs. Text in, values out; reading files is up to the caller.
//!
//! The grammar is that of `git-config(1)`, read with indulgence: what git would refuse may yield
//! a name too many here, never one too few.

/// One thing that a configuration names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Named {
    /// `core.hooksPath`: a directory of hooks.
    Hooks(Vec<u8>),
    /// `include.path` or `includeIf.*.path`: a further configuration.
    Include(Vec<u8>),
    /// A word of a value that git may execute: a program, or what an interpreter is given.
    Word(Vec<u8>),
}

/// Sections, lower case, some of whose values are commands.
const COMMANDS: &[&[u8]] = &[
    b"alias",
    b"core",
    b"credential",
    b"diff",
    b"difftool",
    b"filter",
    b"gpg",
    b"hook",
    b"interactive",
    b"merge",
    b"mergetool",
    b"pager",
    b"sequence",
    b"trailer",
    b"uploadpack",
];

/// All that the configuration `text` names, in its order.
#[must_use]
pub fn named(text: &[u8]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut section = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_ascii_start();
        match rest.first() {
            None => return found,
            Some(b'[') => {
                let end = end_of_header(rest);
                section = section_name(rest.get(1..end).unwrap_or_default());
                rest = rest.get(end + 1..).unwrap_or_default();
            }
            Some(b'#' | b';') => rest = after_line(rest),
            Some(_) => {
                let line = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                let Some(sign) = rest.iter().take(line).position(|b| *b == b'=') else {
                    rest = after_line(rest);
                    continue;
                };
                let key = rest.get(..sign).unwrap_or_default().trim_ascii();
                let (value, left) = value(rest.get(sign + 1..).unwrap_or_default());
                rest = left;
                judge(&section, &key.to_ascii_lowercase(), value, &mut found);
            }
        }
    }
}

fn judge(section: &[u8], key: &[u8], value: Vec<u8>, found: &mut Vec<Named>) {
    match (section, key) {
        (b"core", b"hookspath") => found.push(Named::Hooks(value)),
        (b"include" | b"includeif", b"path") => found.push(Named::Include(value)),
        _ if COMMANDS.contains(&section) => found.extend(
            value
                .split(|b| b.is_ascii_whitespace() || b"'\"!;&|()<>=$`".contains(b))
                .filter(|word| !word.is_empty())
                .map(|word| Named::Word(word.to_vec())),
        ),
        _ => {}
    }
}

/// Where the `]` is that ends the header `text` starts with; one inside quotes does not.
fn end_of_header(text: &[u8]) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b']' if !quoted => return at,
            b'\n' => return at,
            _ => {}
        }
    }
    text.len()
}

/// `core` of `core`, `filter "lfs"` and `filter.lfs`, in lower case.
fn section_name(header: &[u8]) -> Vec<u8> {
    let end = header
        .iter()
        .position(|b| b.is_ascii_whitespace() || matches!(b, b'"' | b'.'));
    header
        .get(..end.unwrap_or(header.len()))
        .unwrap_or_default()
        .to_ascii_lowercase()
}

/// The value at the start of `text`, unquoted, and what follows its line.
fn value(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let (mut quoted, mut comment) = (false, false);
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\n' => {
                let left = text.get(at + 1..).unwrap_or_default();
                return (value.trim_ascii().to_vec(), left);
            }
            _ if comment => {}
            b'\\' => match bytes.next() {
                Some((_, b'\n')) | None => {}
                Some((_, b'n')) => value.push(b'\n'),
                Some((_, b't')) => value.push(b'\t'),
                Some((_, other)) => value.push(*other),
            },
            b'"' => quoted = !quoted,
            b'#' | b';' if !quoted => comment = true,
            other => value.push(*other),
        }
    }
    (value.trim_ascii().to_vec(), &[])
}

fn after_line(text: &[u8]) -> &[u8] {
    let end = text.iter().position(|b| *b == b'\n');
    end.and_then(|at| text.get(at + 1..)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hooks(text: &str) -> Vec<String> {
        let hooks = named(text.as_bytes()).into_iter().filter_map(|n| match n {
            Named::Hooks(path) => Some(String::from_utf8(path).unwrap()),
            _ => None,
        });
        hooks.collect()
    }

    #[test]
    fn finds_the_hooks_however_they_are_written() {
        for text in [
            "[core]\n\thooksPath = tools/hooks\n",
            "[CORE] HOOKSPATH=tools/hooks",
            "[user]\nname = x\n[core]\nbare\nhookspath = \"tools/hooks\" # why\n",
            "; [core]\n[core]\r\nhooksPath = tools/\\\nhooks ; old\r\n",
            "[filter \"a]b\\\"c\"]\nclean = x\n[core]\nhooksPath = tools/hooks",
        ] {
            assert_eq!(hooks(text), ["tools/hooks"], "{text:?}");
        }
        for text in [
            "[core]\n# hooksPath = x\n",
            "[other]\nhooksPath = x\n",
            "[core]\nother = hooksPath\n",
        ] {
            assert!(hooks(text).is_empty(), "{text:?}");
        }
    }

    #[test]
    fn finds_what_git_would_include_or_execute() {
        let text = "[include]\npath = ../shared\n[includeIf \"gitdir:/x\"]\npath = other\n\
            [filter \"f\"]\nclean = \"python tools/clean.py %f\"\n[alias]\nx = !./run\n\
            [branch \"main\"]\nremote = origin\n";
        let word = |word: &str| Named::Word(word.into());
        assert_eq!(
            named(text.as_bytes()),
            [
                Named::Include(b"../shared".to_vec()),
                Named::Include(b"other".to_vec()),
                word("python"),
                word("tools/clean.py"),
                word("%f"),
                word("./run"),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "[\\[\\]\"\\\\=#;a-c \n]{0,80}") {
            // Every name is made of bytes of the text.
            let all: usize = named(text.as_bytes()).iter().map(|n| match n {
                Named::Hooks(b) | Named::Include(b) | Named::Word(b) => b.len(),
            }).sum();
            prop_assert!(all <= text.len());
        }
    }
}
