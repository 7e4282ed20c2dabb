//! How much one process may say: a bucket of bytes that fills at a steady rate. What is over is thrown away unread, so that a flood costs us no more than
//! moving bytes, and the others' lines are not drowned in the journal.

use std::time::Instant;

/// A line costs more than its bytes: it is copied to the ring, a file and stderr.
const PER_LINE: u64 = 128;
/// The bucket holds so many seconds' worth.
const BURST_SECONDS: u64 = 8;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Budget {
    rate: u64,
    /// Bytes that may be said now; below zero when the last piece was larger.
    left: i64,
    filled: Instant,
    /// Used up, and not yet back at a second's worth: admitted and dropped lines do not alternate.
    spent: bool,
}

impl Budget {
    /// Full.
    pub(crate) fn new(rate: u64, now: Instant) -> Self {
        Self { rate, left: signed(rate * BURST_SECONDS), filled: now, spent: false }
    }

    /// Whether something may be said now.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        let micros = u64::try_from(now.saturating_duration_since(self.filled).as_micros()).unwrap_or(u64::MAX);
        let gained = micros.saturating_mul(self.rate) / 1_000_000;
        if gained > 0 {
            self.left = self.left.saturating_add(signed(gained)).min(signed(self.rate * BURST_SECONDS));
            self.filled = now;
        }
        self.spent = self.left < if self.spent { signed(self.rate) } else { 0 };
        !self.spent
    }

    /// Whether it is used up, as of the last question.
    pub(crate) const fn is_spent(&self) -> bool {
        self.spent
    }

    /// A line was said.
    pub(crate) fn line(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(signed(bytes as u64 + PER_LINE));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_a_flood_is_stopped_and_comes_back_a_second_s_worth_at_a_time() {
        let (rate, begun) = (1 << 20, Instant::now());
        let mut budget = Budget::new(rate, begun);
        let mut said = |now| {
            let mut bytes = 0;
            while budget.admits(now) {
                budget.line(1024);
                bytes += 1024_u64;
            }
            bytes
        };
        assert!((6 << 20..=8 << 20).contains(&said(begun)), "a burst");
        assert_eq!(said(begun + Duration::from_millis(900)), 0, "still a flood");
        let second = said(begun + Duration::from_millis(1100));
        assert!((900 << 10..=1200 << 10).contains(&second), "{second}");
        assert_eq!(said(begun + Duration::from_millis(1101)), 0);
        assert!((6 << 20..=8 << 20).contains(&said(begun + Duration::from_mins(1))), "full again");
    }

    #[test]
    fn many_short_lines_are_a_flood_as_well() {
        let now = Instant::now();
        let mut budget = Budget::new(1 << 20, now);
        let lines = std::iter::from_fn(|| budget.admits(now).then(|| budget.line(1))).count();
        assert!(lines < 70_000, "{lines}");
    }
}
