//! What a cursor is worth: everything after it is still there, something is gone, or it was never given out here. Pure.

use gatehouse_chassis::redis::StreamInfo;
use gatehouse_proto::ids::StreamId;

/// How far a cursor may be ahead of Redis's clock: clocks of several machines differ, and bookmarks are times.
const AHEAD_MS: u64 = 60_000;

/// The answer to a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Every event after it follows.
    Complete,
    /// Some are gone. What is still there follows from this id on, which is not less than the cursor.
    Gap(StreamId),
    /// No pusher on this Redis ever gave it out.
    Foreign,
}

/// Judges a cursor.
///
/// `remembered`: everything after it is in memory. `floor`: the smallest cursor of this Redis. `info` and `now_ms`: the stream and the clock as
/// Redis has them.
#[must_use]
pub fn judge(cursor: StreamId, remembered: bool, floor: StreamId, info: &StreamInfo, now_ms: u64) -> Resume {
    if is_foreign(cursor, now_ms) {
        Resume::Foreign
    } else if cursor < floor {
        Resume::Gap(floor.max(info.trimmed_up_to()))
    } else if !remembered && info.is_trimmed(cursor) {
        Resume::Gap(cursor.max(info.trimmed_up_to()))
    } else {
        Resume::Complete
    }
}

/// Whether a cursor lies so far ahead that it was never given out.
fn is_foreign(cursor: StreamId, now_ms: u64) -> bool {
    cursor.ms > now_ms.saturating_add(AHEAD_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    fn info(first: Option<u64>, last: u64, length: u64, entries_added: u64) -> StreamInfo {
        StreamInfo { last_generated: id(last), first: first.map(id), length, entries_added }
    }

    #[test]
    fn each_cursor_gets_its_answer() {
        let whole = info(Some(100), 200, 10, 10);
        let trimmed = info(Some(150), 200, 5, 10);
        let emptied = info(None, 200, 0, 10);
        let untouched = info(None, 0, 0, 0);
        let cases = [
            ("everything is there", 120, false, 50, whole, Resume::Complete),
            ("older than the first entry, but nothing was ever removed", 60, false, 50, whole, Resume::Complete),
            ("the floor itself", 50, false, 50, whole, Resume::Complete),
            ("from before this Redis", 49, false, 50, whole, Resume::Gap(id(100).previous())),
            ("from before this Redis, and memory does not help", 49, true, 50, whole, Resume::Gap(id(100).previous())),
            ("trimmed past it", 120, false, 50, trimmed, Resume::Gap(id(150).previous())),
            ("trimmed past it, but remembered", 120, true, 50, trimmed, Resume::Complete),
            ("trimmed up to it", 150, false, 50, trimmed, Resume::Complete),
            ("emptied past it", 120, false, 50, emptied, Resume::Gap(id(200))),
            ("at the end of what was emptied", 200, false, 50, emptied, Resume::Complete),
            ("a stream without entries", 120, false, 50, untouched, Resume::Complete),
            ("an older Redis that does not count", 60, false, 50, info(Some(100), 200, 10, 0), Resume::Gap(id(100).previous())),
            ("a minute ahead", NOW + 60_000, false, 50, whole, Resume::Complete),
            ("further ahead", NOW + 60_001, false, 50, whole, Resume::Foreign),
            ("further ahead, whatever memory holds", NOW + 60_001, true, 50, whole, Resume::Foreign),
        ];
        for (what, cursor, remembered, floor, info, answer) in cases {
            assert_eq!(judge(id(cursor), remembered, id(floor), &info, NOW), answer, "{what}");
        }
    }

    proptest! {
        #[test]
        fn a_gap_begins_at_a_cursor_that_has_none(
            cursor in 0_u64..300, floor in 0_u64..300, first in prop::option::of(0_u64..300), last in 0_u64..300, removed in 0_u64..3,
        ) {
            let info = info(first, last.max(first.unwrap_or(0)), u64::from(first.is_some()), u64::from(first.is_some()) + removed);
            if let Resume::Gap(from) = judge(id(cursor), false, id(floor), &info, NOW) {
                prop_assert!(from >= id(cursor));
                prop_assert_eq!(judge(from, false, id(floor), &info, NOW), Resume::Complete);
            }
        }
    }
}
