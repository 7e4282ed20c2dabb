//! At most so many in a second, by one atomic number.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

/// Lets so many through in each second; nobody waits.
#[derive(Debug)]
pub struct AtMost {
    per_second: u32,
    since: Instant,
    /// The second in the upper half, how many it has had in the lower.
    state: AtomicU64,
}

impl AtMost {
    /// None at all with 0.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self { per_second, since: Instant::now(), state: AtomicU64::new(0) }
    }

    /// Whether one more may.
    pub fn take(&self) -> bool {
        self.take_at(self.since.elapsed().as_secs())
    }

    fn take_at(&self, second: u64) -> bool {
        let next = |state: u64| {
            // A clock that was read before another's does not bring its second back.
            let (of, had) = if state >> 32 >= second { (state >> 32, state & 0xffff_ffff) } else { (second, 0) };
            (had < u64::from(self.per_second)).then_some(of << 32 | (had + 1))
        };
        self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_as_many_and_no_more() {
        let rate = AtMost::new(2);
        let took = [0, 0, 0, 1, 0, 1, 1, 9].map(|second| rate.take_at(second));
        assert_eq!(took, [true, true, false, true, true, false, false, true]);
        assert!(!AtMost::new(0).take());
    }
}
