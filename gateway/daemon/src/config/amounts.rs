//! Amounts of bytes and rates of them, as people write them.

use std::fmt;
use std::str::FromStr;

/// Units of amounts, in bytes.
const BYTES: &[(&str, u64)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// Units that only rates have, in bytes a second.
const BITS: &[(&str, u64)] = &[("kbit", 125), ("Mbit", 125_000), ("Gbit", 125_000_000)];

/// Text that is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadAmount;

/// An amount of bytes: `"64KiB"`, `"10MB"`, `"100GB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

/// Bytes a second: `"500kB"`, `"10MiB"`, or in bits a second: `"100Mbit"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BytesPerSecond(pub(super) u64);

impl fmt::Display for Bytes {
    /// Writes the largest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fit = BYTES.iter().filter(|(_, size)| self.0.is_multiple_of(*size));
        let (unit, size) = fit.max_by_key(|(_, size)| *size).unwrap_or(&("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

fn read(text: &str, units: &[&[(&str, u64)]]) -> Result<u64, BadAmount> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or(BadAmount)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| BadAmount)?;
    let mut known = units.iter().copied().flatten();
    let (_, size) = known
        .find(|(name, _)| *name == unit.trim_start())
        .ok_or(BadAmount)?;
    number.checked_mul(*size).ok_or(BadAmount)
}

impl FromStr for Bytes {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        read(text, &[BYTES]).map(Self)
    }
}

impl FromStr for BytesPerSecond {
    type Err = BadAmount;

    fn from_str(text: &str) -> Result<Self, BadAmount> {
        read(text, &[BYTES, BITS]).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        let bytes = |text: &str| text.parse().map(|Bytes(bytes)| bytes);
        assert_eq!(bytes("64KiB"), Ok(65536));
        assert_eq!(bytes("10 MB"), Ok(10_000_000));
        assert_eq!(bytes("0B"), Ok(0));
        for text in [
            "",
            "5",
            "MB",
            "1.5MB",
            "-1B",
            "1mb",
            "1Mbit",
            "99999999999TB",
            "1B2",
            "+1B",
        ] {
            assert_eq!(bytes(text), Err(BadAmount), "{text}");
        }
        let rate = |text: &str| text.parse().map(|BytesPerSecond(rate)| rate);
        assert_eq!(rate("100Mbit"), Ok(12_500_000));
        assert_eq!(rate("1MiB"), Ok(1 << 20));
        assert_eq!(rate("1bit"), Err(BadAmount));
    }

    #[test]
    fn amounts_are_written_as_they_are_read() {
        for text in ["1B", "64KiB", "10MB", "1TiB", "1001B"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
    }
}
