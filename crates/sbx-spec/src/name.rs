//! Names that end up in paths, host names and process titles.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a sandbox: 2 to 63 of `a-z A-Z 0-9 - .`, starting and ending
/// with a letter or digit, without two dots in a row, so that it is a host
/// name and one path component at once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SandboxName(String);

/// The name of a kit: 1 to 32 of `a-z 0-9 -`, starting with a letter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KitName(String);

/// Why a text is not a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NameError {
    /// Shorter or longer than allowed; holds the bounds in bytes.
    Length(usize, usize),
    /// Holds a character outside the set.
    Character(char),
    /// Starts or ends with a character that may stand only inside.
    Edge,
    /// Two dots in a row.
    DoubleDot,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(min, max) => write!(f, "a name has {min} to {max} characters"),
            Self::Character(c) => write!(f, "{c:?} cannot stand in a name"),
            Self::Edge => f.write_str("a name starts and ends with a letter or a digit"),
            Self::DoubleDot => f.write_str("two dots in a row cannot stand in a name"),
        }
    }
}

impl std::error::Error for NameError {}

impl SandboxName {
    /// Longest name in bytes: one DNS label, so that it can be a host name.
    pub const MAX: usize = 63;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KitName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SandboxName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() < 2 || text.len() > Self::MAX {
            return Err(NameError::Length(2, Self::MAX));
        }
        if let Some(c) = text
            .chars()
            .find(|c| !(c.is_ascii_alphanumeric() || *c == '-' || *c == '.'))
        {
            return Err(NameError::Character(c));
        }
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        if !edge(text.chars().next()) || !edge(text.chars().next_back()) {
            return Err(NameError::Edge);
        }
        if text.contains("..") {
            return Err(NameError::DoubleDot);
        }
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for KitName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() || text.len() > 32 {
            return Err(NameError::Length(1, 32));
        }
        if let Some(c) = text
            .chars()
            .find(|c| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-'))
        {
            return Err(NameError::Character(c));
        }
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) || text.ends_with('-') {
            return Err(NameError::Edge);
        }
        Ok(Self(text.to_owned()))
    }
}

macro_rules! text_conversions {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}
text_conversions!(SandboxName);
text_conversions!(KitName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_the_surface_promises() {
        for text in ["ab", "claude-app", "A.b-9", &"x".repeat(63)] {
            assert_eq!(text.parse::<SandboxName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_what_could_leave_a_directory_or_a_label() {
        for text in [
            "",
            "a",
            "..",
            "a/b",
            "-ab",
            "ab-",
            ".ab",
            "a..b",
            "a b",
            "a\n",
            "é1",
            &"x".repeat(64),
        ] {
            assert!(text.parse::<SandboxName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn kit_names_are_lower_case_words() {
        assert!("claude".parse::<KitName>().is_ok());
        for text in ["", "Claude", "9a", "a-", "a/b", &"x".repeat(33)] {
            assert!(text.parse::<KitName>().is_err(), "{text:?}");
        }
    }
}
