//! What children say now, for those who follow: its end, for all of them together. Who reads more slowly than it comes misses what went before, and is told
//! how much.

use std::{collections::VecDeque, sync::Arc};

use super::lines::Line;

/// What is kept for the slowest.
const BYTES: usize = 1 << 20;
/// What one takes at once.
const TURN: usize = 64 << 10;
/// What a line costs beside its text.
const PER_LINE: usize = 96;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Without a gap, oldest first.
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
}

impl Live {
    /// Somebody said it.
    pub(super) fn push(&mut self, line: Arc<Line>) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.bytes > BYTES
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
    }

    /// Nobody follows.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next lines from that number on, and how many before them are not there any more.
    pub(super) fn from(&self, seq: u64) -> (u64, Vec<Arc<Line>>) {
        let missed = self.lines.front().map_or(0, |oldest| oldest.seq.saturating_sub(seq));
        let first = self.lines.partition_point(|line| line.seq < seq);
        let mut bytes = 0;
        let fits = |line: &&Arc<Line>| {
            let fits = bytes < TURN;
            bytes += cost(line);
            fits
        };
        (missed, self.lines.range(first..).take_while(fits).cloned().collect())
    }
}

fn cost(line: &Line) -> usize {
    line.text.len() + PER_LINE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::{Component, SlotId};

    fn said(live: &mut Live, seqs: std::ops::Range<u64>, bytes: usize) {
        for seq in seqs {
            let slot = SlotId { component: Component::Edge, instance: 0 };
            live.push(Arc::new(Line { seq, at_ms: 0, slot, level: None, text: "x".repeat(bytes).into() }));
        }
    }

    #[test]
    fn short_lines_and_long_ones_take_the_same_room_and_who_is_late_knows_by_how_much() {
        let mut live = Live::default();
        said(&mut live, 1..2000, 100);
        assert_eq!((live.from(1).0, live.lines.len()), (0, 1999));
        said(&mut live, 2000..3000, 16 << 10);
        assert!(live.bytes <= BYTES && live.lines.len() < 64, "{} in {}", live.bytes, live.lines.len());
        let (missed, lines) = live.from(1500);
        assert_eq!(lines[0].seq, 1500 + missed);
        assert_eq!(lines.len(), 4, "a turn's worth");
        let seqs = |from| live.from(from).1.iter().map(|line| line.seq).collect::<Vec<_>>();
        assert_eq!((seqs(2999), seqs(3000)), (vec![2999], vec![]));
    }
}
