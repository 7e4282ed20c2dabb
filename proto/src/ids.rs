//! Stream ids, which are also the resume cursors of event streams.

use std::{fmt, str::FromStr};

/// A Redis stream id, `milliseconds-sequence`, ordered by both.
///
/// The `event_id` of a client event is the id of its stream entry. A bookmark has the id of a point between entries: everything up to it has been
/// delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Milliseconds since the Unix epoch.
    pub ms: u64,
    /// Distinguishes entries of one millisecond.
    pub seq: u64,
}

/// A cursor that is not a stream id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a stream id of the form milliseconds-sequence")]
pub struct InvalidStreamId;

impl StreamId {
    /// Before every entry.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    /// The last id that an entry of the millisecond before `ms` can have.
    #[must_use]
    pub const fn just_before(ms: u64) -> Self {
        match ms.checked_sub(1) {
            Some(ms) => Self { ms, seq: u64::MAX },
            None => Self::ZERO,
        }
    }

    /// The smallest id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }

    /// The largest id before this one; [`StreamId::ZERO`] has none and yields itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        match self.seq.checked_sub(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self::just_before(self.ms),
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    /// Accepts the canonical form alone: no sign, no leading zero, both parts.
    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        let (ms, seq) = text.split_once('-').ok_or(InvalidStreamId)?;
        Ok(Self { ms: canonical(ms)?, seq: canonical(seq)? })
    }
}

fn canonical(digits: &str) -> Result<u64, InvalidStreamId> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits.len() == 1 || !digits.starts_with('0'));
    if plain { digits.parse().map_err(|_| InvalidStreamId) } else { Err(InvalidStreamId) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn display_and_parse_are_inverse(ms: u64, seq: u64) {
            let id = StreamId { ms, seq };
            prop_assert_eq!(id.to_string().parse::<StreamId>(), Ok(id));
        }

        #[test]
        fn next_and_previous_are_neighbours(ms in 0..u64::MAX, seq: u64) {
            let id = StreamId { ms, seq };
            prop_assert!(id.next() > id);
            prop_assert_eq!(id.next().previous(), id);
        }
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for text in ["", "-", "1", "1-", "-1", "01-1", "1-01", "+1-1", "1-1-1", " 1-1", "1-18446744073709551616", "a-1", "1767225600000-3 "]
        {
            assert_eq!(text.parse::<StreamId>(), Err(InvalidStreamId), "{text:?}");
        }
        assert_eq!("0-0".parse::<StreamId>(), Ok(StreamId::ZERO));
    }
}
