//! The last lines of every child, in memory: for whoever asks when there are no files, and for what the files missed.

use std::{collections::VecDeque, sync::Arc};

use super::lines::Line;
use crate::component::SlotId;

/// What all rings together may hold.
const TOTAL: usize = 2 << 20;
/// Each is given at most this part of it, however few there are.
const LEAST_RINGS: usize = 16;
/// What a line costs beside its text.
const PER_LINE: usize = 96;

/// One ring for each slot.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    rings: Vec<Ring>,
}

#[derive(Debug)]
struct Ring {
    slot: SlotId,
    lines: VecDeque<Arc<Line>>,
    bytes: usize,
}

impl Rings {
    /// Keeps a line, and forgets what is too old for it.
    pub(crate) fn push(&mut self, line: Arc<Line>) {
        let place = self.rings.iter().position(|ring| ring.slot == line.slot);
        let place = place.unwrap_or_else(|| {
            self.rings.push(Ring { slot: line.slot, lines: VecDeque::new(), bytes: 0 });
            self.rings.len() - 1
        });
        let limit = TOTAL / self.rings.len().max(LEAST_RINGS);
        if let Some(ring) = self.rings.get_mut(place) {
            ring.push(line, limit);
        }
    }

    /// Everything kept, slot by slot, each oldest first.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Arc<Line>> {
        self.rings.iter().flat_map(|ring| &ring.lines)
    }
}

impl Ring {
    fn push(&mut self, line: Arc<Line>, limit: usize) {
        self.bytes += cost(&line);
        self.lines.push_back(line);
        while self.bytes > limit
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
    }
}

fn cost(line: &Line) -> usize {
    line.text.len() + PER_LINE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::Component;

    #[test]
    fn each_keeps_its_last_lines_and_all_stay_within_the_bound() {
        let mut rings = Rings::default();
        for seq in 0..40_000 {
            // The edge floods; thirty pushers say a word now and then.
            let (component, instance) =
                if seq % 1000 == 0 { (Component::Pusher, u32::try_from(seq / 1000).unwrap()) } else { (Component::Edge, 0) };
            rings.push(Arc::new(Line { seq, at_ms: 0, slot: SlotId { component, instance }, level: None, text: "x".repeat(200).into() }));
        }
        assert!(rings.lines().map(|line| cost(line)).sum::<usize>() <= TOTAL);
        assert_eq!(rings.lines().filter(|line| line.slot.component == Component::Pusher).count(), 40);
        let edge: Vec<_> = rings.lines().filter(|line| line.slot.component == Component::Edge).map(|line| line.seq).collect();
        assert_eq!(edge.last(), Some(&39_999));
        assert!(edge.len() > 100 && edge.is_sorted());
    }
}
