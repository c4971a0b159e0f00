//! Amounts: bytes and processors.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An amount of bytes. Text form as Docker's: a number with an optional
/// fraction and `b`, `k`, `m`, `g`, `t` (powers of 1024), `kb`/`kib` and kin
/// taken as the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

/// Why a text is not an amount of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteSizeError {
    /// Not a number followed by a unit.
    Form,
    /// More bytes than 64 bits hold.
    Large,
}

impl fmt::Display for ByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a size is a number and a unit: 512m, 1.5g, 20g",
            Self::Large => "the size does not fit in 64 bits",
        })
    }
}

impl std::error::Error for ByteSizeError {}

impl ByteSize {
    /// An amount of `n` bytes.
    #[must_use]
    pub const fn bytes(n: u64) -> Self {
        Self(n)
    }

    /// An amount of `n` mebibytes, held at the largest amount if it overflows.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// An amount of `n` gibibytes, held at the largest amount if it overflows.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// Roughly, for people: one decimal of the largest unit that fits.
    #[must_use]
    pub fn about(self) -> String {
        let units = [(40, "t"), (30, "g"), (20, "m"), (10, "k")];
        match units.into_iter().find(|(shift, _)| self.0 >> shift > 0) {
            Some((shift, unit)) => {
                let tenths = (u128::from(self.0) * 10) >> shift;
                match (tenths / 10, tenths % 10) {
                    (whole, 0) => format!("{whole}{unit}"),
                    (whole, tenth) => format!("{whole}.{tenth}{unit}"),
                }
            }
            None => format!("{}b", self.0),
        }
    }

    /// Whole mebibytes, rounded down.
    #[must_use]
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let digits = text
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(ByteSizeError::Form),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || fraction.contains('.') || fraction.len() > 9 {
            return Err(ByteSizeError::Form);
        }
        if number.ends_with('.') || (shift == 0 && !fraction.is_empty()) {
            return Err(ByteSizeError::Form);
        }
        let whole: u64 = whole.parse().map_err(|_| ByteSizeError::Large)?;
        let mut bytes = whole.checked_mul(1 << shift).ok_or(ByteSizeError::Large)?;
        if !fraction.is_empty() {
            let part: u64 = fraction.parse().map_err(|_| ByteSizeError::Form)?;
            let scale =
                10_u128.pow(u32::try_from(fraction.len()).map_err(|_| ByteSizeError::Form)?);
            let extra = (u128::from(part) << shift) / scale;
            bytes = u64::try_from(extra)
                .ok()
                .and_then(|extra| bytes.checked_add(extra))
                .ok_or(ByteSizeError::Large)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "t"), (30, "g"), (20, "m"), (10, "k")] {
            let size = 1_u64 << shift;
            if self.0 >= size && self.0.is_multiple_of(size) {
                return f.pad(&format!("{}{unit}", self.0 >> shift));
            }
        }
        for (shift, unit) in [(40, "t"), (30, "g"), (20, "m"), (10, "k")] {
            let size = 1_u64 << shift;
            if self.0 >= size {
                let tenths = u128::from(self.0) * 10 / u128::from(size);
                return f.pad(&format!("{}.{}{unit}", tenths / 10, tenths % 10));
            }
        }
        f.pad(&format!("{}b", self.0))
    }
}

/// An amount of processor time in thousandths of one processor, at least 10.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cpus(u32);

/// Why a text is not an amount of processors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpusError;

impl fmt::Display for CpusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("processors are a number from 0.01 to 1024, such as 2 or 1.5")
    }
}

impl std::error::Error for CpusError {}

impl Cpus {
    /// `n` whole processors, held within 1 and 1024.
    #[must_use]
    pub fn whole(n: u32) -> Self {
        Self(n.clamp(1, 1024) * 1000)
    }

    /// Thousandths of a processor.
    #[must_use]
    pub const fn milli(self) -> u32 {
        self.0
    }

    /// Virtual processors needed to hold it: rounded up.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.div_ceil(1000)
    }

    /// Whether it is not a whole number, so that only a quota can hold it.
    #[must_use]
    pub const fn is_fraction(self) -> bool {
        !self.0.is_multiple_of(1000)
    }
}

impl FromStr for Cpus {
    type Err = CpusError;

    fn from_str(text: &str) -> Result<Self, CpusError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || whole.len() > 4 || fraction.len() > 3 || text.ends_with('.') {
            return Err(CpusError);
        }
        if !all_digits(whole) || !all_digits(fraction) {
            return Err(CpusError);
        }
        let whole: u32 = whole.parse().map_err(|_| CpusError)?;
        let milli: u32 = format!("{fraction:0<3}").parse().map_err(|_| CpusError)?;
        let total = whole * 1000 + milli;
        if !(10..=1_024_000).contains(&total) {
            return Err(CpusError);
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_fraction() {
            let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
            return f.pad(text.trim_end_matches('0'));
        }
        f.pad(&(self.0 / 1000).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1k", 1024),
            ("512m", 512 << 20),
            ("4g", 4 << 30),
            ("1.5g", 3 << 29),
            ("10T", 10 << 40),
            ("7MiB", 7 << 20),
        ] {
            assert_eq!(
                text.parse::<ByteSize>(),
                Ok(ByteSize::bytes(bytes)),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_that_are_none_are_refused() {
        for text in [
            "",
            "g",
            "-1g",
            "1x",
            "1.g",
            "1..2g",
            "1.5",
            ".5g",
            "1 g",
            "99999999999999999999",
            "20000000t",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_prints_as_it_is_read() {
        for text in ["1k", "512m", "20g", "1t", "5b"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        assert_eq!(ByteSize::bytes(3 << 29).to_string(), "1536m");
    }

    #[test]
    fn a_size_is_shown_roughly_to_people() {
        assert_eq!(ByteSize::bytes(24_683_656 << 10).about(), "23.5g");
        assert_eq!(ByteSize::gib(8).about(), "8g");
        assert_eq!(ByteSize::bytes(u64::MAX).about(), "16777215.9t");
        assert_eq!(ByteSize::bytes(0).about(), "0b");
    }

    #[test]
    fn processors_may_be_fractions() {
        assert_eq!("1.5".parse::<Cpus>().unwrap().milli(), 1500);
        assert_eq!("1.5".parse::<Cpus>().unwrap().count(), 2);
        assert_eq!("2".parse::<Cpus>().unwrap().to_string(), "2");
        assert_eq!("0.25".parse::<Cpus>().unwrap().to_string(), "0.25");
        for text in ["", "0", "0.001", "1.", "-1", "1e3", "2000", "+1", "1.+5"] {
            assert!(text.parse::<Cpus>().is_err(), "{text}");
        }
    }
}
