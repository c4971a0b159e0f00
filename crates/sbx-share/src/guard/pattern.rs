//! Which names are held: a pure decision on one name and on where its directory lies.
//!
//! Owns the default list. Never looks at a file: what depends on the file system (is this `.git`
//! a directory, is that directory a repository) is left open in the [`Verdict`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::list::{self, HeldName};

/// The names that are held, compared without regard to ASCII case (and to the few other letters
/// that a case-insensitive file system folds to ASCII).
///
/// `Default` is the one list that sbx ships ([`list`]); a configuration may only replace it as a
/// whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GuardPatterns {
    /// Held at any depth, with all that is beneath if it is a directory: settings of editors and
    /// agents that the host's own programs obey.
    pub anywhere: Vec<String>,
    /// Held as paths of several names, with all that is beneath.
    pub paths: Vec<HeldPath>,
    /// Held outside of any `.git` directory unless it is a directory, so that no directory there
    /// can become a repository.
    pub outside_git: Vec<String>,
    /// Held at any depth inside a `.git` directory, and in a directory that the host already
    /// treats as a repository.
    pub inside_git: Vec<String>,
    /// Directories directly inside `.git` that are held as far as the host does not have them:
    /// the directory itself, and each entry in it.
    pub new_inside_git: Vec<String>,
    /// Directories directly inside `.git` whose contents are data under names that users choose
    /// (branches): nothing of `inside_git` is held beneath them.
    pub git_data: Vec<String>,
    /// Held at any depth in those directories.
    pub inside_git_data: Vec<String>,
}

/// A path whose end is held. The directories above it stay directories: each is open as one and
/// held as anything else, so that no link can take its place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HeldPath {
    /// Whether it starts at the root of the share; else it is held below any directory.
    pub anchored: bool,
    /// Its names, at least one, none empty, `.` or `..`.
    pub names: Vec<Vec<u8>>,
}

impl HeldPath {
    /// How the path `names`, already folded, lies to this one.
    fn lies(&self, names: &[Cow<'_, [u8]>]) -> Lies {
        let longest = self.names.len();
        for length in (1..=longest.min(names.len())).rev() {
            if self.anchored && length != names.len() {
                return Lies::Elsewhere;
            }
            let tail = names.get(names.len() - length..).unwrap_or_default();
            let same = tail.iter().zip(&self.names).all(|(a, b)| is(&fold(b), a));
            if same && length == longest {
                return Lies::AtIt;
            }
            if same {
                return Lies::Above;
            }
        }
        Lies::Elsewhere
    }
}

/// How a path lies to a held one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lies {
    Elsewhere,
    Above,
    AtIt,
}

impl Default for GuardPatterns {
    fn default() -> Self {
        let names = |held: &[HeldName]| held.iter().map(|h| h.name.to_owned()).collect();
        let path = |held: &HeldName| HeldPath {
            anchored: false,
            names: held
                .name
                .split('/')
                .map(|n| n.as_bytes().to_vec())
                .collect(),
        };
        Self {
            anywhere: names(list::ANYWHERE),
            paths: list::PATHS.iter().map(path).collect(),
            outside_git: names(list::OUTSIDE_GIT),
            inside_git: names(list::INSIDE_GIT),
            new_inside_git: names(list::NEW_INSIDE_GIT),
            git_data: list::GIT_DATA.iter().map(|n| (*n).to_owned()).collect(),
            inside_git_data: names(list::INSIDE_GIT_DATA),
        }
    }
}

/// Where a directory lies, as far as the guard cares.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Zone {
    /// Outside of any `.git` directory.
    Free,
    /// A `.git` directory itself.
    GitRoot,
    /// Somewhere inside a `.git` directory.
    GitDeep,
    /// A directory of a `.git` directory in which only what the host has is open.
    GitKnown,
    /// Inside a data directory of a `.git` directory.
    GitData,
    /// Inside something held.
    Held,
}

impl Zone {
    /// Whether the directory is a `.git` directory or lies in one.
    #[must_use]
    pub fn is_git(self) -> bool {
        !matches!(self, Zone::Free | Zone::Held)
    }
}

/// What the guard says about one name in one directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Not held; a directory of that name lies in the given zone.
    Open(Zone),
    /// Held, whatever it is.
    Held,
    /// A directory is open and its inside lies in the given zone; anything else (a `.git` file or
    /// link that points git elsewhere) is held.
    HeldUnlessDirectory(Zone),
    /// A directory that the host has is open and its inside lies in the given zone; anything else
    /// is held.
    HeldIfNew(Zone),
    /// Held if the directory it is in is a repository without a `.git` (a bare one), else open.
    HeldIfBare,
}

impl GuardPatterns {
    /// Judges the entry `name` of a directory that lies in `zone`.
    #[must_use]
    pub fn judge(&self, zone: Zone, name: &[u8]) -> Verdict {
        if zone == Zone::Held {
            return Verdict::Held;
        }
        let folded = fold(name);
        if folded.as_ref() == b".git" {
            return Verdict::HeldUnlessDirectory(Zone::GitRoot);
        }
        if listed(&self.anywhere, &folded) {
            return Verdict::Held;
        }
        match zone {
            Zone::Free if listed(&self.outside_git, &folded) => {
                Verdict::HeldUnlessDirectory(Zone::Free)
            }
            Zone::Free if listed(&self.inside_git, &folded) => Verdict::HeldIfBare,
            Zone::Free => Verdict::Open(Zone::Free),
            Zone::GitRoot | Zone::GitDeep if listed(&self.inside_git, &folded) => Verdict::Held,
            Zone::GitRoot if listed(&self.new_inside_git, &folded) => {
                Verdict::HeldIfNew(Zone::GitKnown)
            }
            Zone::GitKnown => Verdict::HeldIfNew(Zone::GitDeep),
            // Compared exactly: another spelling gets the stricter zone.
            Zone::GitRoot if self.is_git_data(name) => Verdict::Open(Zone::GitData),
            Zone::GitRoot | Zone::GitDeep => Verdict::Open(Zone::GitDeep),
            Zone::GitData if listed(&self.inside_git_data, &folded) => Verdict::Held,
            Zone::GitData | Zone::Held => Verdict::Open(zone),
        }
    }

    /// Whether the path of an entry `name` matters to [`GuardPatterns::judge_path`].
    #[must_use]
    pub fn asks_for_path(&self, name: &[u8]) -> bool {
        let folded = fold(name);
        let base = without_lock(&folded);
        let names = self.paths.iter().flat_map(|p| &p.names);
        names
            .map(|n| fold(n))
            .any(|n| is(&n, &folded) || is(&n, base))
    }

    /// Judges again by its whole path what [`GuardPatterns::judge`] left open; `zone` is where
    /// the inside of it would lie. `path` is that of the entry, from the root of the share.
    #[must_use]
    pub fn judge_path(&self, zone: Zone, path: &[u8]) -> Verdict {
        let mut names: Vec<_> = path.split(|b| *b == b'/').map(fold).collect();
        let mut worst = self.lies(&names);
        if let Some(last) = names.last_mut() {
            *last = Cow::Owned(without_lock(last).to_vec());
            worst = worst.max(self.lies(&names));
        }
        match worst {
            Lies::AtIt => Verdict::Held,
            Lies::Above => Verdict::HeldUnlessDirectory(zone),
            Lies::Elsewhere => Verdict::Open(zone),
        }
    }

    fn lies(&self, names: &[Cow<'_, [u8]>]) -> Lies {
        let each = self.paths.iter().map(|p| p.lies(names));
        each.max().unwrap_or(Lies::Elsewhere)
    }

    /// Whether a link with these contents may stand inside a `.git` directory: it must name a
    /// neighbour, and none whose contents are judged by other rules. Otherwise a link could give
    /// an open directory the place of a held one.
    #[must_use]
    pub fn is_harmless_git_link(&self, target: &[u8]) -> bool {
        let folded = fold(target);
        !target.is_empty()
            && !target.contains(&b'/')
            && !matches!(target, b"." | b"..")
            && !self
                .git_data
                .iter()
                .any(|d| d.as_bytes().eq_ignore_ascii_case(&folded))
    }

    fn is_git_data(&self, name: &[u8]) -> bool {
        self.git_data.iter().any(|d| d.as_bytes() == name)
    }
}

/// Whether `folded` is a listed name, or the lock file beside it that git renames onto it.
fn listed(names: &[String], folded: &[u8]) -> bool {
    let base = without_lock(folded);
    let mut names = names.iter().map(String::as_bytes);
    names.any(|n| is(n, folded) || base.len() < folded.len() && is(n, base))
}

/// Whether `name`, folded, is the listed one, in which one `*` stands for anything.
pub(super) fn is(listed: &[u8], name: &[u8]) -> bool {
    let mut parts = listed.splitn(2, |b| *b == b'*');
    let (Some(head), Some(tail)) = (parts.next(), parts.next()) else {
        return listed.eq_ignore_ascii_case(name);
    };
    let rest = name
        .split_at_checked(head.len())
        .filter(|(start, _)| head.eq_ignore_ascii_case(start));
    rest.and_then(|(_, rest)| rest.split_at_checked(rest.len().checked_sub(tail.len())?))
        .is_some_and(|(_, end)| tail.eq_ignore_ascii_case(end))
}

fn without_lock(folded: &[u8]) -> &[u8] {
    folded.strip_suffix(b".lock").unwrap_or(folded)
}

/// What a name is compared as. File systems that take several names for one are many: ASCII
/// letters are lowered and what full Unicode case folding (ext4 `casefold`, for instance) maps to
/// ASCII letters is replaced, code points that such file systems ignore are dropped, and so are
/// dots and blanks at the end, as those of DOS descent do.
fn fold(name: &[u8]) -> Cow<'_, [u8]> {
    match unspelled(name) {
        Cow::Borrowed(folded) => Cow::Borrowed(without_tail(folded)),
        Cow::Owned(mut folded) => {
            folded.truncate(without_tail(&folded).len());
            Cow::Owned(folded)
        }
    }
}

/// Whether `name` may be a second name of a file, on file systems that give such: the short one
/// of DOS (`GIT~1`, and what servers make of it), or one with the name of a stream
/// (`.envrc::$DATA`). Which file it is of, the name does not tell.
pub(crate) fn may_be_alias(name: &[u8]) -> bool {
    let short = name.split(|b| *b == b'.').next().unwrap_or_default();
    let end = short.iter().rev();
    let end = end.take_while(|b| b.is_ascii_alphanumeric()).count();
    let is_short = short.len() <= 8 && end > 0 && short.iter().rev().nth(end) == Some(&b'~');
    is_short || name.windows(2).any(|two| two == b":$")
}

fn without_tail(mut name: &[u8]) -> &[u8] {
    while let [rest @ .., b'.' | b' '] = name {
        name = rest;
    }
    name
}

fn unspelled(name: &[u8]) -> Cow<'_, [u8]> {
    if name.is_ascii() {
        if name.iter().any(u8::is_ascii_uppercase) {
            return Cow::Owned(name.to_ascii_lowercase());
        }
        return Cow::Borrowed(name);
    }
    let Ok(text) = std::str::from_utf8(name) else {
        // Not UTF-8: no file system folds it.
        return Cow::Owned(name.to_ascii_lowercase());
    };
    let mut folded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{212a}' => folded.push('k'),
            '\u{17f}' => folded.push('s'),
            'ß' | '\u{1e9e}' => folded.push_str("ss"),
            '\u{fb00}' => folded.push_str("ff"),
            '\u{fb01}' => folded.push_str("fi"),
            '\u{fb02}' => folded.push_str("fl"),
            '\u{fb03}' => folded.push_str("ffi"),
            '\u{fb04}' => folded.push_str("ffl"),
            '\u{fb05}' | '\u{fb06}' => folded.push_str("st"),
            c if is_ignorable(c) => {}
            c => folded.push(c.to_ascii_lowercase()),
        }
    }
    Cow::Owned(folded.into_bytes())
}

/// The default-ignorable code points (Unicode, DerivedCoreProperties).
fn is_ignorable(c: char) -> bool {
    matches!(u32::from(c),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f
        | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f
        | 0xfeff | 0xffa0 | 0xfff0..=0xfff8 | 0x1bca0..=0x1bca3 | 0x1d173..=0x1d17a
        | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIT: Verdict = Verdict::HeldUnlessDirectory(Zone::GitRoot);

    fn judge(zone: Zone, name: &str) -> Verdict {
        GuardPatterns::default().judge(zone, name.as_bytes())
    }

    #[test]
    fn holds_the_shipped_names_in_every_zone() {
        for name in list::ANYWHERE.iter().map(|held| held.name) {
            for zone in [Zone::Free, Zone::GitRoot, Zone::GitDeep, Zone::GitData] {
                assert_eq!(judge(zone, name), Verdict::Held, "{name} in {zone:?}");
            }
        }
    }

    #[test]
    fn second_names_of_dos_and_of_streams_are_told_by_their_look() {
        for alias in [
            "GIT~1",
            "git~1.",
            "ENVRC~12",
            "GI7EBA~1",
            "TASKS~1.JSO",
            "A1B2C3~X.TXT",
        ] {
            assert!(may_be_alias(alias.as_bytes()), "{alias}");
        }
        for alias in [".git::$INDEX_ALLOCATION", ".envrc::$DATA"] {
            assert!(may_be_alias(alias.as_bytes()), "{alias}");
        }
        for name in [
            "notes",
            "notes~",
            ".notes.~1~",
            "a-long-name~1",
            "x.swp~1",
            "~",
            "",
        ] {
            assert!(!may_be_alias(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_star_stands_for_any_part_of_a_name() {
        for held in ["mise.dev.toml", ".Mise.dev.local.toml", "mise.x.toml.lock"] {
            assert_eq!(judge(Zone::Free, held), Verdict::Held, "{held}");
        }
        for open in ["mise.tom", "promise.dev.toml", "mise.toml.md", "mise.lock"] {
            assert_eq!(judge(Zone::Free, open), Verdict::Open(Zone::Free), "{open}");
        }
        let judge = |path| judge_path(false, &["mise", "config.*.toml"], path);
        assert_eq!(judge("a/mise/config.dev.toml"), Verdict::Held);
        assert_eq!(judge("a/mise/config.md"), Verdict::Open(Zone::Free));
    }

    #[test]
    fn leaves_ordinary_names_open() {
        for name in [
            "src",
            "config",
            "hooks",
            "vscode",
            ".vscode2",
            ".gitignore",
            ".github",
            "worktrees",
            "objects",
            "AGENTS.md",
            "CLAUDE.md",
            "package.json",
            "",
        ] {
            assert!(
                matches!(
                    judge(Zone::Free, name),
                    Verdict::Open(Zone::Free) | Verdict::HeldIfBare
                ),
                "{name}"
            );
        }
    }

    #[test]
    fn a_directory_called_head_is_none_that_git_reads() {
        for name in ["HEAD", "head"] {
            assert_eq!(
                judge(Zone::Free, name),
                Verdict::HeldUnlessDirectory(Zone::Free)
            );
        }
    }

    #[test]
    fn holds_control_files_at_any_depth_inside_git() {
        for zone in [Zone::GitRoot, Zone::GitDeep] {
            for name in list::INSIDE_GIT.iter().map(|held| held.name) {
                for spelled in [name.to_owned(), format!("{name}.lock"), name.to_uppercase()] {
                    assert_eq!(judge(zone, &spelled), Verdict::Held, "{spelled}");
                }
            }
            for name in ["HEAD", "index", "index.lock", "objects", "packed-refs"] {
                assert_eq!(judge(zone, name), Verdict::Open(Zone::GitDeep), "{name}");
            }
        }
    }

    #[test]
    fn what_would_make_a_repository_of_branches_is_held_and_branches_are_not() {
        for name in ["objects", "commondir", "Objects", "commondir.lock"] {
            assert_eq!(judge(Zone::GitData, name), Verdict::Held, "{name}");
        }
        for name in ["HEAD", "refs", "heads", "main", "hooks", "gitdir"] {
            assert_eq!(
                judge(Zone::GitData, name),
                Verdict::Open(Zone::GitData),
                "{name}"
            );
        }
    }

    #[test]
    fn work_trees_that_the_host_does_not_have_are_held() {
        assert_eq!(
            judge(Zone::GitRoot, "worktrees"),
            Verdict::HeldIfNew(Zone::GitKnown)
        );
        assert_eq!(
            judge(Zone::GitKnown, "any"),
            Verdict::HeldIfNew(Zone::GitDeep)
        );
    }

    fn judge_path(anchored: bool, names: &[&str], path: &str) -> Verdict {
        let names = names.iter().map(|n| n.as_bytes().to_vec()).collect();
        let patterns = GuardPatterns {
            paths: vec![HeldPath { anchored, names }],
            ..GuardPatterns::default()
        };
        let (_, last) = path.rsplit_once('/').unwrap_or(("", path));
        if !patterns.asks_for_path(last.as_bytes()) {
            return Verdict::Open(Zone::Free);
        }
        patterns.judge_path(Zone::Free, path.as_bytes())
    }

    #[test]
    fn a_held_path_keeps_the_directories_above_it() {
        let above = Verdict::HeldUnlessDirectory(Zone::Free);
        for anchored in [true, false] {
            let judge = |path| judge_path(anchored, &["a", "b", "c"], path);
            assert_eq!(judge("a"), above);
            assert_eq!(judge("A/b"), above);
            assert_eq!(judge("a/b/c"), Verdict::Held);
            assert_eq!(judge("a/b/C.lock"), Verdict::Held);
            for open in ["b", "c", "b/c", "a/c", "a/b/d", "d/b/c"] {
                assert_eq!(judge(open), Verdict::Open(Zone::Free), "{open}");
            }
        }
        let deep = "x/a/b/c";
        assert_eq!(judge_path(false, &["a", "b", "c"], deep), Verdict::Held);
        let open = Verdict::Open(Zone::Free);
        assert_eq!(judge_path(true, &["a", "b", "c"], deep), open);
    }

    #[test]
    fn a_branch_may_be_called_config() {
        assert_eq!(judge(Zone::GitRoot, "refs"), Verdict::Open(Zone::GitData));
        assert_eq!(judge(Zone::GitData, "config"), Verdict::Open(Zone::GitData));
        assert_eq!(judge(Zone::GitDeep, "refs"), Verdict::Open(Zone::GitDeep));
    }

    #[test]
    fn folds_what_a_casefolding_file_system_folds() {
        for name in [".GIT", ".g\u{200d}it", ".G\u{feff}iT"] {
            assert_eq!(judge(Zone::Free, name), GIT, "{name:?}");
        }
        for name in ["hoo\u{212a}s", "con\u{fb01}g", "HOOKS"] {
            assert_eq!(judge(Zone::GitRoot, name), Verdict::Held, "{name:?}");
        }
        assert_eq!(judge(Zone::Free, ".v\u{17f}code"), Verdict::Held);
    }

    #[test]
    fn links_inside_git_may_name_neighbours_only() {
        let patterns = GuardPatterns::default();
        for target in ["testing", "packed", "x.lock"] {
            assert!(patterns.is_harmless_git_link(target.as_bytes()), "{target}");
        }
        for target in [
            "", ".", "..", "../evil", "/etc", "a/b", "refs", "REFS", "logs",
        ] {
            assert!(
                !patterns.is_harmless_git_link(target.as_bytes()),
                "{target}"
            );
        }
    }

    proptest! {
        #[test]
        fn case_never_changes_a_verdict_towards_open(
            index in 0..list::ANYWHERE.len(),
            flips in proptest::collection::vec(any::<bool>(), 16),
        ) {
            let patterns = GuardPatterns::default();
            let name: Vec<u8> = patterns.anywhere[index]
                .bytes()
                .zip(flips.iter().cycle())
                .map(|(b, up)| if *up { b.to_ascii_uppercase() } else { b })
                .collect();
            prop_assert_eq!(patterns.judge(Zone::Free, &name), Verdict::Held);
            prop_assert_eq!(patterns.judge(Zone::GitData, &name), Verdict::Held);
        }

        #[test]
        fn any_bytes_get_a_verdict_and_nothing_leaves_a_held_zone(
            name in proptest::collection::vec(1u8..=255, 0..300),
        ) {
            let patterns = GuardPatterns::default();
            for zone in [Zone::Free, Zone::GitRoot, Zone::GitDeep, Zone::GitData] {
                if let Verdict::Open(inner) = patterns.judge(zone, &name) {
                    prop_assert_eq!(inner == Zone::Free, zone == Zone::Free);
                }
            }
            prop_assert_eq!(patterns.judge(Zone::Held, &name), Verdict::Held);
        }

        #[test]
        fn ignorable_code_points_do_not_hide_a_name(at in 0usize..4) {
            let mut name = String::from(".git");
            name.insert(at, '\u{200b}');
            prop_assert_eq!(judge(Zone::Free, &name), GIT);
        }
    }
}
