//! What a rule can say about a request of HTTP: its method and its path.
//!
//! A path is compared as it is written. For that to mean anything there must
//! be one way to write it: what has another is refused, never rewritten, since
//! a server may take the rewriting further than we do.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::guard::{self, Guard};

/// Longest method, in bytes.
const MAX_METHOD: usize = 32;
/// Most methods of a rule.
const MAX_METHODS: usize = 32;
/// Longest path, in bytes.
const MAX_PATH: usize = 8_192;
/// Longest pattern of paths, in bytes.
const MAX_GLOB: usize = 1_024;

/// The line that denies a request whose path has another spelling, where
/// rules look at paths.
pub const NOT_CANONICAL: &str = "default:http-path";

/// Why a text is none of the types here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HttpError(&'static str);

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for HttpError {}

/// A method, such as `GET`. None has small letters: some servers take `delete`
/// for `DELETE`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Method(String);

impl FromStr for Method {
    type Err = HttpError;

    fn from_str(text: &str) -> Result<Self, HttpError> {
        let token = |byte: u8| {
            byte.is_ascii_uppercase()
                || (byte.is_ascii_lowercase() && guard::out(Guard::MethodCase))
                || byte.is_ascii_digit()
                || b"!#$%&'*+-.^_`|~".contains(&byte)
        };
        if text.is_empty() || text.len() > MAX_METHOD || !text.bytes().all(token) {
            return Err(HttpError("a method is a word such as GET"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The path of a request's target, which has no other spelling.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CanonicalPath(String);

impl FromStr for CanonicalPath {
    type Err = HttpError;

    /// Reads a target: a path, and perhaps a query, which is left out.
    fn from_str(target: &str) -> Result<Self, HttpError> {
        let path = target.split('?').next().unwrap_or_default();
        if target.contains('#') {
            return Err(HttpError("a target has no fragment"));
        }
        if path.len() > MAX_PATH {
            return Err(HttpError("the path is too long"));
        }
        let Some(rest) = path.strip_prefix('/') else {
            return Err(HttpError("a path starts with a slash"));
        };
        let mut segments = rest.split('/').peekable();
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            if !guard::out(Guard::CanonicalPath) {
                check_segment(segment, is_last)?;
            }
        }
        Ok(Self(path.to_owned()))
    }
}

/// What may stand for itself in a segment (RFC 3986, `pchar` without the
/// percent sign). A semicolon may not: what follows it is a parameter to some
/// servers and part of the name to others.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

fn check_segment(segment: &str, is_last: bool) -> Result<(), HttpError> {
    if segment.is_empty() && !is_last {
        return Err(HttpError("the path has an empty segment"));
    }
    if segment == "." || segment == ".." {
        return Err(HttpError("the path has a dot segment"));
    }
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if is_plain(byte) {
            continue;
        }
        if byte != b'%' {
            return Err(HttpError("the path has a character that has to be encoded"));
        }
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err(HttpError(
                "a percent sign in a path is followed by two upper-case hexadecimal digits",
            ));
        };
        let encoded = high << 4 | low;
        if is_plain(encoded) {
            return Err(HttpError(
                "the path encodes a character that needs no encoding",
            ));
        }
        if matches!(encoded, b'/' | b'\\' | b'%' | b';') || encoded < 0x20 || encoded == 0x7f {
            return Err(HttpError(
                "the path encodes a character that servers decode differently",
            ));
        }
    }
    Ok(())
}

fn digit(byte: Option<u8>) -> Option<u8> {
    match byte? {
        byte @ b'0'..=b'9' => Some(byte - b'0'),
        byte @ b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pattern of paths: `*` stands for one segment, `**` for any number.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PathGlob(String);

impl FromStr for PathGlob {
    type Err = HttpError;

    fn from_str(text: &str) -> Result<Self, HttpError> {
        if text.len() > MAX_GLOB {
            return Err(HttpError("the pattern is too long"));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(HttpError("a pattern of paths starts with a slash"));
        };
        let mut segments = rest.split('/').peekable();
        let mut after_any = false;
        while let Some(segment) = segments.next() {
            let is_last = segments.peek().is_none();
            match segment {
                "**" if after_any => return Err(HttpError("`**` twice in a row means `**`")),
                "*" | "**" => {}
                // To many servers it is the same with and without, so it is
                // the same to a pattern.
                "" if !rest.is_empty() => {
                    return Err(HttpError("a pattern of paths does not end in a slash"));
                }
                _ if segment.contains('*') => {
                    return Err(HttpError("`*` and `**` stand for whole segments"));
                }
                _ => check_segment(segment, is_last)?,
            }
            after_any = segment == "**";
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PathGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is between the slashes; a slash at the end adds nothing.
fn segments(path: &str) -> Vec<&str> {
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').skip(1).collect()
}

impl PathGlob {
    /// Whether a path is one of these, with or without a slash at its end.
    /// Takes time in proportion to the
    /// product of both lengths at most.
    #[must_use]
    pub fn matches(&self, path: &CanonicalPath) -> bool {
        let pattern = segments(&self.0);
        let path = segments(&path.0);
        let (mut at, mut in_path) = (0, 0);
        // The last `**`, and how far it reaches by now.
        let mut any: Option<(usize, usize)> = None;
        while let Some(segment) = path.get(in_path) {
            match pattern.get(at) {
                Some(&"**") => {
                    any = Some((at, in_path));
                    at += 1;
                }
                Some(&"*") => (at, in_path) = (at + 1, in_path + 1),
                Some(literal) if literal == segment => (at, in_path) = (at + 1, in_path + 1),
                _ => match &mut any {
                    Some((place, reach)) => {
                        *reach += 1;
                        (at, in_path) = (*place + 1, *reach);
                    }
                    None => return false,
                },
            }
        }
        pattern
            .get(at..)
            .unwrap_or_default()
            .iter()
            .all(|left| *left == "**")
    }
}

/// What a rule says about requests: at least one of both.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HttpCondition {
    methods: BTreeSet<Method>,
    path: Option<PathGlob>,
}

impl HttpCondition {
    /// One of these methods (any, where there is none) to one of these paths
    /// (any, where there is none); `None` where both are left open.
    ///
    /// # Errors
    /// If there are too many methods.
    pub fn new(
        methods: impl IntoIterator<Item = Method>,
        path: Option<PathGlob>,
    ) -> Result<Option<Self>, HttpError> {
        let methods: BTreeSet<_> = methods.into_iter().collect();
        if methods.len() > MAX_METHODS {
            return Err(HttpError("a rule has at most 32 methods"));
        }
        let says_something = !methods.is_empty() || path.is_some();
        Ok(says_something.then_some(Self { methods, path }))
    }

    /// Whether it is about a request; `None` where that depends on a path
    /// that has another spelling.
    #[must_use]
    pub fn matches(&self, request: &HttpRequest<'_>) -> Option<bool> {
        if !self.methods.is_empty() && !self.methods.contains(request.method) {
            return Some(false);
        }
        match (&self.path, request.path) {
            (None, _) => Some(true),
            (Some(pattern), Some(path)) => Some(pattern.matches(path)),
            (Some(_), None) => None,
        }
    }
}

impl fmt::Display for HttpCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before = "";
        for method in &self.methods {
            write!(f, "{before}{method}")?;
            before = ",";
        }
        match &self.path {
            Some(path) if before.is_empty() => path.fmt(f),
            Some(path) => write!(f, " {path}"),
            None => Ok(()),
        }
    }
}

impl FromStr for HttpCondition {
    type Err = HttpError;

    /// Reads `GET,HEAD /path/**`, either part alone too.
    fn from_str(text: &str) -> Result<Self, HttpError> {
        let mut words = text.split(' ');
        let (first, second) = (words.next().unwrap_or_default(), words.next());
        if words.next().is_some() {
            return Err(HttpError("a condition has methods and a path, no more"));
        }
        let (methods, path) = match second {
            Some(path) => (Some(first), Some(path)),
            None if first.starts_with('/') => (None, Some(first)),
            None => (Some(first), None),
        };
        let methods: Vec<Method> = match methods {
            Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        let path = path.map(str::parse).transpose()?;
        Self::new(methods, path)?.ok_or(HttpError("a condition has methods or a path"))
    }
}

impl Serialize for HttpCondition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HttpCondition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A request, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path; `None` where it has another spelling. Then no rule about
    /// paths can be said to allow it or not to deny it.
    pub path: Option<&'a CanonicalPath>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> PathGlob {
        text.parse().unwrap()
    }

    fn path(text: &str) -> CanonicalPath {
        text.parse().unwrap()
    }

    #[test]
    fn a_path_that_has_one_spelling_is_taken_without_its_query() {
        for text in [
            "/",
            "/a",
            "/a/",
            "/a/b.c/~d",
            "/%C3%A9",
            "/a%20b",
            "/@s/x:y",
            "/...",
        ] {
            assert_eq!(path(text).to_string(), text);
        }
        assert_eq!(path("/a?b=../c%2f").to_string(), "/a");
    }

    #[test]
    fn a_path_that_has_another_spelling_is_refused() {
        for text in [
            "",
            "a",
            "*",
            "?a",
            "//a",
            "/a//b",
            "/./a",
            "/a/../b",
            "/..",
            "/.",
            "/a/.",
            "/%2e%2e/a",
            "/%2E%2E/a",
            "/%61",
            "/a%2Fb",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/a%00",
            "/a%0A",
            "/a%7F",
            "/%zz",
            "/%",
            "/%4",
            "/%c3%a9",
            "/a%25b",
            "/a%3Bb",
            "/\u{e9}",
            "/a b",
            "/a;b",
            "/..;/a",
            "/a#b",
            "/a\"b",
            "/a<b",
            "/a|b",
            "/a\tb",
            "/a\0",
            "/a[b]",
            "http://a.example/",
        ] {
            assert!(text.parse::<CanonicalPath>().is_err(), "{text:?}");
        }
        let long = format!("/{}", "a".repeat(MAX_PATH));
        assert!(long.parse::<CanonicalPath>().is_err());
    }

    #[test]
    fn stars_stand_for_whole_segments() {
        for (pattern, yes, no) in [
            ("/", &["/"][..], &["/a"][..]),
            ("/a", &["/a", "/a/"], &["/", "/a/b", "/ab"]),
            ("/*", &["/a", "/ab", "/a/"], &["/", "/a/b"]),
            ("/**", &["/", "/a", "/a/", "/a/b/c"], &[]),
            ("/a/*/c", &["/a/b/c"], &["/a/c", "/a/b/d/c"]),
            ("/a/**", &["/a", "/a/", "/a/b", "/a/b/c"], &["/ab", "/b/a"]),
            (
                "/a/**/c",
                &["/a/c", "/a/b/c", "/a/c/c"],
                &["/a", "/a/c/d", "/a/bc"],
            ),
            ("/**/c", &["/c", "/a/c", "/a/b/c"], &["/cc"]),
            ("/**/a/*", &["/a/b", "/x/a/b", "/a/a/b"], &["/a", "/b/a"]),
        ] {
            for text in yes {
                assert!(glob(pattern).matches(&path(text)), "{pattern} {text}");
            }
            for text in no {
                assert!(!glob(pattern).matches(&path(text)), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn a_star_within_a_segment_is_no_pattern() {
        for text in [
            "", "a", "*", "/a*", "/*a", "/***", "/**/**", "/..", "//", "/a;b", "/%61", "/a b",
        ] {
            assert!(text.parse::<PathGlob>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_longer_than_both_lengths_together() {
        let hostile = format!("/{}x", "**/a/".repeat(100));
        let long = path(&format!("/{}b", "a/".repeat(4_000)));
        // Without its bound this would not end within the age of the world.
        assert!(!glob(&hostile).matches(&long));
    }

    #[test]
    fn a_condition_reads_back_as_it_is_written() {
        for text in ["GET", "GET,POST", "/a/**", "DELETE,GET /a/*"] {
            assert_eq!(text.parse::<HttpCondition>().unwrap().to_string(), text);
        }
        for text in [
            "",
            " ",
            "GET,",
            "GET /a /b",
            "GET  /a",
            "/a GET",
            "GET a",
            "G T /",
        ] {
            assert!(text.parse::<HttpCondition>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_condition_is_about_its_methods_and_its_paths() {
        let about = |condition: &str, method: &str, text: &str| {
            let condition: HttpCondition = condition.parse().unwrap();
            let (method, path) = (method.parse().unwrap(), path(text));
            let path = Some(&path);
            let request = HttpRequest {
                method: &method,
                path,
            };
            condition.matches(&request).unwrap()
        };
        assert!(about("GET", "GET", "/a") && !about("GET", "POST", "/a"));
        assert!("get".parse::<Method>().is_err());
        assert!(about("/a", "PUT", "/a") && !about("/a", "PUT", "/b"));
        assert!(about("GET,PUT /a", "PUT", "/a") && !about("GET,PUT /a", "PUT", "/b"));
    }

    /// What a lenient server would make of a path.
    fn lenient(path: &str) -> String {
        let mut decoded = Vec::new();
        let mut bytes = path.bytes();
        while let Some(byte) = bytes.next() {
            let mut ahead = bytes.clone();
            let pair = (ahead.next(), ahead.next());
            let hex = |byte: Option<u8>| (byte? as char).to_digit(16);
            match (byte, hex(pair.0), hex(pair.1)) {
                (b'%', Some(high), Some(low)) => {
                    decoded.push(u8::try_from(high * 16 + low).unwrap());
                    bytes = ahead;
                }
                (b'\\', ..) => decoded.push(b'/'),
                _ => decoded.push(byte),
            }
        }
        let text = String::from_utf8_lossy(&decoded).into_owned();
        let mut segments: Vec<&str> = Vec::new();
        for segment in text.split('/').map(|one| one.split(';').next().unwrap()) {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        segments.join("/")
    }

    proptest! {
        #[test]
        fn two_canonical_paths_are_never_one_to_a_lenient_server(
            a in "/[ab.%25CcEe/;\\\\]{0,8}",
            b in "/[ab.%25CcEe/;\\\\]{0,8}",
        ) {
            if let (Ok(one), Ok(other)) = (a.parse::<CanonicalPath>(), b.parse::<CanonicalPath>()) {
                let trimmed = |path: &CanonicalPath| path.to_string().trim_end_matches('/').to_owned();
                if lenient(&a) == lenient(&b) && !lenient(&a).contains('\u{fffd}') {
                    prop_assert_eq!(trimmed(&one), trimmed(&other));
                }
            }
        }

        #[test]
        fn everything_canonical_is_under_the_widest_pattern(text in "/[a-c/.]{0,12}") {
            if let Ok(path) = text.parse::<CanonicalPath>() {
                prop_assert!(glob("/**").matches(&path));
            }
        }

        #[test]
        fn the_pattern_agrees_with_a_plain_reading_of_it(
            pattern in "(/(a|b|\\*|\\*\\*)){1,5}",
            text in "(/(a|b)){1,6}",
        ) {
            fn plain(pattern: &[&str], path: &[&str]) -> bool {
                match (pattern, path) {
                    ([], []) => true,
                    (["**", rest @ ..], _) => {
                        plain(rest, path) || !path.is_empty() && plain(pattern, &path[1..])
                    }
                    (["*", rest @ ..], [_, left @ ..]) => plain(rest, left),
                    ([one, rest @ ..], [same, left @ ..]) => one == same && plain(rest, left),
                    _ => false,
                }
            }
            if let Ok(read) = pattern.parse::<PathGlob>() {
                let parts: Vec<&str> = pattern.split('/').skip(1).collect();
                let segments: Vec<&str> = text.split('/').skip(1).collect();
                prop_assert_eq!(read.matches(&path(&text)), plain(&parts, &segments));
            }
        }
    }
}
