//! Proves, read by read, that nothing went missing between where a reader stood and what it got.
//!
//! A stream counts what was ever added to it. Whoever has read up to its newest entry knows how many those were, and from then on counts along: what was added
//! and not read is gone. Between two such points, as while catching up, entries whose predecessors are still there prove it, too; where they are not, the
//! verdict waits for the next such point. Before the first, and with a server that does not count (Redis 6), what is not known to be whole counts as lost.

use gatehouse_proto::ids::StreamId;

use super::super::StreamInfo;

/// What a read was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing is known to be missing.
    Whole,
    /// Entries before those that were read may be missing.
    Lost,
    /// This is another stream than the one that was read before.
    Replaced,
}

/// See the module's head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    /// How many entries there ever were up to the reader's position.
    added: Option<u64>,
}

impl Ledger {
    /// `read` entries came after `before`, the last of them at `after`; `info` is what the stream said right after that.
    pub(super) fn judge(&mut self, before: StreamId, read: usize, after: StreamId, info: &StreamInfo) -> Verdict {
        if info.last_generated < after {
            return Verdict::Replaced;
        }
        let counts = info.entries_added >= info.length && (info.entries_added > 0 || info.last_generated == StreamId::ZERO);
        let expected = self.added.map(|added| added + read as u64);
        let emptied = info.first.is_none() && info.last_generated > after;
        if counts && info.last_generated == after {
            self.added = Some(info.entries_added);
            return match expected {
                Some(expected) if info.entries_added < expected => Verdict::Replaced,
                Some(expected) if info.entries_added > expected => Verdict::Lost,
                None if info.is_trimmed(before) => Verdict::Lost,
                _ => Verdict::Whole,
            };
        }
        self.added = expected.filter(|_| counts);
        if emptied {
            self.added = Some(info.entries_added).filter(|_| counts);
            return Verdict::Lost;
        }
        if info.is_trimmed(before) && self.added.is_none() { Verdict::Lost } else { Verdict::Whole }
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict::*, *};

    const fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    const fn info(first: Option<u64>, last: u64, length: u64, added: u64) -> StreamInfo {
        let first = match first {
            Some(ms) => Some(id(ms)),
            None => None,
        };
        StreamInfo { last_generated: id(last), first, length, entries_added: added }
    }

    /// Each step is a read: where it began, how many entries it brought, the last of them, and what the stream said; and the verdict.
    type Step = (u64, usize, u64, StreamInfo, Verdict);

    #[test]
    fn what_was_added_and_not_read_is_missed_at_the_latest_when_the_end_is_reached() {
        let caught_up: Step = (0, 5, 5, info(Some(1), 5, 5, 5), Whole);
        let rows: [(&str, &[Step]); 11] = [
            ("nothing is trimmed", &[caught_up, (5, 2, 7, info(Some(1), 7, 7, 7), Whole)]),
            ("only what was read is trimmed", &[caught_up, (5, 2, 7, info(Some(7), 7, 1, 7), Whole)]),
            ("all of it, after it was read", &[caught_up, (5, 2, 7, info(None, 7, 0, 7), Whole)]),
            ("one was trimmed unread", &[caught_up, (5, 1, 7, info(Some(7), 7, 1, 7), Lost)]),
            ("and told once", &[caught_up, (5, 1, 7, info(Some(7), 7, 1, 7), Lost), (7, 0, 7, info(Some(7), 7, 1, 7), Whole)]),
            ("all were trimmed unread", &[caught_up, (5, 0, 5, info(None, 7, 0, 7), Lost)]),
            ("found out on the way", &[caught_up, (5, 1, 8, info(Some(8), 9, 2, 9), Whole), (8, 1, 9, info(Some(9), 9, 1, 9), Lost)]),
            ("nothing on the way", &[caught_up, (5, 1, 6, info(Some(6), 9, 2, 7), Whole), (6, 1, 9, info(Some(9), 9, 1, 7), Whole)]),
            ("emptied and filled again", &[caught_up, (5, 1, 9, info(Some(9), 9, 1, 1), Replaced)]),
            ("an older stream", &[caught_up, (5, 0, 5, info(Some(2), 3, 2, 2), Replaced)]),
            ("a server that does not count", &[(5, 0, 5, info(Some(1), 5, 5, 0), Whole), (5, 1, 9, info(Some(9), 9, 1, 0), Lost)]),
        ];
        for (what, steps) in rows {
            let mut ledger = Ledger::default();
            for (before, read, after, info, verdict) in steps {
                assert_eq!(ledger.judge(id(*before), *read, id(*after), info), *verdict, "{what}, after {after}");
            }
        }
    }

    #[test]
    fn who_begins_in_the_middle_takes_what_is_gone_before_it_for_lost() {
        assert_eq!(Ledger::default().judge(id(2), 1, id(9), &info(Some(9), 9, 1, 7)), Lost);
        assert_eq!(Ledger::default().judge(id(9), 0, id(9), &info(Some(9), 9, 1, 7)), Whole);
    }
}
