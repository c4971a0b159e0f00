//! Rust text as the rules see it: comments and the insides of literals blanked, tests told apart.
//!
//! Not a parser. It knows comments, literals, attributes and braces, which is what the rules ask
//! about, and keeps every line where it was.

/// The views of one file. All have the same number of lines.
pub(crate) struct Source {
    /// Without comments and without the insides of literals.
    pub(crate) code: String,
    /// [`Self::code`] without the items under `#[cfg(test)]`.
    pub(crate) without_tests: String,
    /// Names of modules in other files that only tests compile.
    pub(crate) test_modules: Vec<String>,
    /// Line, from 1, and name of every test function.
    pub(crate) tests: Vec<(usize, String)>,
}

impl Source {
    pub(crate) fn new(text: &str) -> Self {
        let code = blank(text);
        let (without_tests, test_modules) = cut_tests(&code);
        let tests = test_functions(&code);
        Self {
            code,
            without_tests,
            test_modules,
            tests,
        }
    }
}

/// The words (identifiers) of code with their lines, counted from 1.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(at, line)| {
        line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|w| !w.is_empty())
            .map(move |w| (at + 1, w))
    })
}

/// Replaces comments and the insides of literals by spaces; line breaks stay.
pub(crate) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied();
        let in_word = at > 0
            && chars
                .get(at - 1)
                .is_some_and(|p| p.is_alphanumeric() || *p == '_');
        let (end, keep) = match c {
            '/' if next == Some('/') => (line_end(&chars, at), false),
            '/' if next == Some('*') => (comment_end(&chars, at), false),
            '"' => (string_end(&chars, at), false),
            'r' | 'b' | 'c' if !in_word => match raw_string_end(&chars, at) {
                Some(end) => (end, false),
                None => (at + 1, true),
            },
            '\'' => match char_end(&chars, at) {
                Some(end) => (end, false),
                None => (at + 1, true),
            },
            _ => (at + 1, true),
        };
        for &c in chars.get(at..end).unwrap_or_default() {
            out.push(if keep || c == '\n' { c } else { ' ' });
        }
        at = end;
    }
    out
}

fn line_end(chars: &[char], from: usize) -> usize {
    let rest = chars.get(from..).unwrap_or_default();
    rest.iter()
        .position(|c| *c == '\n')
        .map_or(chars.len(), |n| from + n)
}

fn comment_end(chars: &[char], from: usize) -> usize {
    let (mut at, mut depth) = (from, 0usize);
    while at < chars.len() {
        match (chars.get(at), chars.get(at + 1)) {
            (Some('/'), Some('*')) => (at, depth) = (at + 2, depth + 1),
            (Some('*'), Some('/')) => {
                (at, depth) = (at + 2, depth - 1);
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], quote: usize) -> usize {
    let mut at = quote + 1;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"`, `br#"…"#` and their kin, if one starts here.
fn raw_string_end(chars: &[char], from: usize) -> Option<usize> {
    let mut at = from;
    if matches!(chars.get(at), Some('b' | 'c')) {
        at += 1;
    }
    if chars.get(at) != Some(&'r') {
        return None;
    }
    at += 1;
    let mut hashes = 0;
    while chars.get(at) == Some(&'#') {
        (at, hashes) = (at + 1, hashes + 1);
    }
    if chars.get(at) != Some(&'"') {
        return None;
    }
    let closing = |at: usize| {
        chars.get(at) == Some(&'"') && (1..=hashes).all(|n| chars.get(at + n) == Some(&'#'))
    };
    let end = (at + 1..chars.len()).find(|at| closing(*at));
    Some(end.map_or(chars.len(), |end| end + 1 + hashes))
}

/// The end of a character literal; nothing where the quote begins a lifetime.
fn char_end(chars: &[char], quote: usize) -> Option<usize> {
    if chars.get(quote + 1) == Some(&'\\') {
        let rest = chars.get(quote + 3..)?;
        return rest
            .iter()
            .position(|c| *c == '\'')
            .map(|n| quote + 3 + n + 1);
    }
    (chars.get(quote + 2) == Some(&'\'')).then_some(quote + 3)
}

/// Blanks every item under `#[cfg(test)]`; returns the names of those that are in other files too.
fn cut_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let mut out = code.to_owned();
    let mut modules = Vec::new();
    let mut from = 0;
    while let Some(start) = out
        .get(from..)
        .and_then(|rest| rest.find(MARK))
        .map(|n| from + n)
    {
        let after = start + MARK.len();
        let end = item_end(&out, after);
        let item = out.get(after..end).unwrap_or_default();
        if let Some(name) = item
            .trim()
            .strip_suffix(';')
            .and_then(|i| i.trim().rsplit_once("mod "))
        {
            modules.push(name.1.trim().to_owned());
        }
        let blanked: String = out
            .get(start..end)
            .unwrap_or_default()
            .chars()
            .flat_map(|c| std::iter::repeat_n(if c == '\n' { '\n' } else { ' ' }, c.len_utf8()))
            .collect();
        out.replace_range(start..end, &blanked);
        from = end;
    }
    (out, modules)
}

/// Where the item that begins at `from` ends: at its `;`, or behind its braces.
fn item_end(code: &str, from: usize) -> usize {
    let (mut braces, mut others) = (0usize, 0usize);
    for (at, c) in code.char_indices().skip_while(|(at, _)| *at < from) {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others = others.saturating_sub(1),
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 && others == 0 {
                    return at + 1;
                }
            }
            ';' if braces == 0 && others == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn test_functions(code: &str) -> Vec<(usize, String)> {
    let mut found = of_each_isolation(code);
    let mut waiting = false;
    for (number, line) in code.lines().enumerate() {
        let line = line.trim();
        waiting |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        let Some((_, rest)) = line.split_once("fn ").filter(|_| waiting) else {
            continue;
        };
        let name: String = rest
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        found.push((number + 1, name));
        waiting = false;
    }
    found
}

/// Behaviours that e2e makes tests of, one for each isolation: the names in lists like
/// `in_each_isolation![a, b]`, `where_files_are_ours![a, b]` and `where_kept![Promise::Held => a, b]`.
fn of_each_isolation(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for list in [
        "in_each_isolation![",
        "where_files_are_ours![",
        "where_kept![",
    ] {
        for (at, _) in code.match_indices(list) {
            let from = at + list.len();
            let line = code.get(..from).unwrap_or_default().lines().count();
            let rest = code.get(from..).unwrap_or_default();
            let inside = rest.split(']').next().unwrap_or_default();
            let names = words(inside).filter(|(_, word)| word.starts_with(char::is_lowercase));
            found.extend(names.map(|(below, name)| (line + below - 1, name.to_owned())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_in_place() {
        let text = "a(\"x // y\\\"z\"); // b\n/* c /* d */ e */ f('{', '\\'', 'g') r#\"h\"i\"# j\n";
        let code = blank(text);
        assert_eq!(code.lines().count(), text.lines().count());
        let left: Vec<&str> = words(&code).map(|(_, w)| w).collect();
        assert_eq!(left, ["a", "f", "j"]);
        assert!(!code.contains('{'));
    }

    #[test]
    fn lifetimes_are_no_literals() {
        assert_eq!(
            blank("fn f<'a>(x: &'a str) -> &'a str"),
            "fn f<'a>(x: &'a str) -> &'a str"
        );
    }

    #[test]
    fn a_word_that_ends_in_r_begins_no_raw_string() {
        assert_eq!(blank("bar#\"x\"#"), "bar#   #");
    }

    #[test]
    fn items_of_tests_are_cut_and_nothing_else() {
        let source = Source::new(
            "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { [1; 2]; }\n}\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}\n",
        );
        let left: Vec<&str> = words(&source.without_tests).map(|(_, w)| w).collect();
        assert_eq!(left, ["fn", "a", "fn", "c", "fn", "e"]);
        assert_eq!(source.test_modules, ["d"]);
    }

    #[test]
    fn behaviours_of_each_isolation_are_tests() {
        let source =
            Source::new("x!();\nin_each_isolation![\n    a_b,\n];\nwhere_kept![P::H => c_d];\n");
        assert_eq!(source.tests, [(3, "a_b".to_owned()), (5, "c_d".to_owned())]);
    }

    #[test]
    fn tests_are_found_behind_other_attributes() {
        let source = Source::new(
            "#[test]\n#[ignore]\nfn a_b_c() {}\nfn d() {}\n#[tokio::test]\nasync fn e_f() {}\n",
        );
        assert_eq!(
            source.tests,
            [(3, "a_b_c".to_owned()), (6, "e_f".to_owned())]
        );
    }
}
