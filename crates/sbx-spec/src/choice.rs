//! Words that stand for one of a few values, on the command line and in the
//! configuration alike.

use std::fmt;
use std::str::FromStr;

use crate::{Accel, Access, Driver, Isolation, NetworkPreset, Pull, WorkspaceGuard};

/// Why a word is not one of the values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChoiceError {
    /// None of the values; holds those that are.
    Unknown(&'static [&'static str]),
    /// A value of a later version; holds the word.
    Later(String),
}

impl fmt::Display for ChoiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(known) => write!(f, "it is one of {}", known.join(", ")),
            Self::Later(word) => write!(f, "`{word}` is not in this version"),
        }
    }
}

impl std::error::Error for ChoiceError {}

macro_rules! choice {
    ($type:ty, $( $word:literal => $value:expr ),+ ; later $( $later:literal ),*) => {
        impl FromStr for $type {
            type Err = ChoiceError;
            fn from_str(word: &str) -> Result<Self, ChoiceError> {
                match word {
                    $( $word => Ok($value), )+
                    $( $later => Err(ChoiceError::Later(word.to_owned())), )*
                    _ => Err(ChoiceError::Unknown(&[$( $word ),+])),
                }
            }
        }
        impl $type {
            /// The word for it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $( value if value == $value => $word, )+
                    _ => "unknown",
                }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

choice!(Isolation, "microvm" => Self::MicroVm, "container" => Self::Container, "docker" => Self::Docker; later);
choice!(Pull, "missing" => Self::Missing, "always" => Self::Always, "never" => Self::Never; later);
choice!(Driver, "auto" => Self::Auto, "qemu" => Self::Qemu; later "krun");
choice!(Accel, "auto" => Self::Auto, "kvm" => Self::Kvm, "tcg" => Self::Tcg; later);
choice!(NetworkPreset, "open" => Self::Open, "balanced" => Self::Balanced, "locked" => Self::Locked, "none" => Self::None; later);
choice!(Access, "direct" => Self::ReadWrite, "ro" => Self::ReadOnly; later "overlay", "clone");
choice!(WorkspaceGuard, "full" => Self::Full, "existing" => Self::Existing; later);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_reads_as_it_prints() {
        for word in ["auto", "kvm", "tcg"] {
            assert_eq!(word.parse::<Accel>().unwrap().to_string(), word);
        }
        assert_eq!("microvm".parse::<Isolation>().unwrap().as_str(), "microvm");
        assert_eq!("docker".parse::<Isolation>().unwrap().as_str(), "docker");
        assert_eq!("never".parse::<Pull>(), Ok(Pull::Never));
        assert_eq!("ro".parse::<Access>(), Ok(Access::ReadOnly));
    }

    #[test]
    fn tells_a_later_word_from_an_unknown_one() {
        assert_eq!(
            "krun".parse::<Driver>(),
            Err(ChoiceError::Later("krun".into()))
        );
        assert_eq!(
            "vm".parse::<Isolation>(),
            Err(ChoiceError::Unknown(&["microvm", "container", "docker"]))
        );
        assert_eq!(
            "overlay".parse::<Access>().unwrap_err().to_string(),
            "`overlay` is not in this version"
        );
    }
}
