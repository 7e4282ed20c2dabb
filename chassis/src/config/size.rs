//! A number of bytes, as people write it.

use std::str::FromStr;

/// `1048576`, `64KiB`, `512MiB`, `2GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// The text is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no size; write 64MiB, 2GiB or a number of bytes")]
pub struct NoSize;

const UNITS: [(&str, u32); 3] = [("KiB", 10), ("MiB", 20), ("GiB", 30)];

impl FromStr for Bytes {
    type Err = NoSize;

    fn from_str(text: &str) -> Result<Self, NoSize> {
        let unit = UNITS.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)));
        let (number, shift) = unit.unwrap_or((text, 0));
        let number: u64 = number.trim_end().parse().map_err(|_| NoSize)?;
        number.checked_mul(1 << shift).map(Self).ok_or(NoSize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_and_nothing_else() {
        let of = |text: &str| text.parse().map(|Bytes(bytes)| bytes);
        assert_eq!([of("7"), of("1KiB"), of("512MiB"), of("2 GiB")], [Ok(7), Ok(1 << 10), Ok(512 << 20), Ok(2 << 30)]);
        for wrong in ["", "MiB", "1MB", "1.5GiB", "-1", "1mib", "99999999999GiB"] {
            assert_eq!(of(wrong), Err(NoSize), "{wrong}");
        }
    }
}
