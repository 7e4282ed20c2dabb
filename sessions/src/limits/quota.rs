//! A token bucket in one number (the generic cell rate algorithm): the moment at which it will be full again. Whoever takes a token moves it on by the time in
//! which one comes back; who would move it further ahead than the whole bucket is worth has to wait. Moments are nanoseconds since the process began.

use std::time::Duration;

use crate::config::limit::Limit;

/// How much a bucket holds and how fast it fills. Pure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quota {
    interval: u64,
    burst: u64,
}

impl Quota {
    pub(super) fn of(limit: &Limit) -> Self {
        Self { interval: nanos(limit.rate.interval()), burst: u64::from(limit.burst) }
    }

    /// When the bucket will be full after `weight` tokens were taken from it; or how long until they can be. Who is alone is admitted after that wait. A weight beyond
    /// the burst asks for a full bucket.
    pub(super) fn take(self, full_at: u64, now: u64, weight: u32) -> Result<u64, u64> {
        let weight = u64::from(weight);
        let free = self.tokens(self.burst - weight.min(self.burst));
        let wait = full_at.saturating_sub(now.saturating_add(free));
        if wait == 0 { Ok(full_at.max(now).saturating_add(self.tokens(weight))) } else { Err(wait) }
    }

    /// The same for who is not to be refused: an empty bucket stays empty.
    pub(super) fn take_anyway(self, full_at: u64, now: u64) -> u64 {
        full_at.max(now).saturating_add(self.interval).min(now.saturating_add(self.whole()))
    }

    /// The time in which an empty bucket fills.
    pub(super) const fn whole(self) -> u64 {
        self.tokens(self.burst)
    }

    /// The time in which so many tokens come.
    pub(super) const fn tokens(self, count: u64) -> u64 {
        self.interval.saturating_mul(count)
    }
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    /// Two a second, three at once.
    const QUOTA: Quota = Quota { interval: SECOND / 2, burst: 3 };

    #[test]
    fn the_burst_and_then_the_rate() {
        let mut full_at = 0;
        // When, how many tokens, and what comes of it: admitted, or the wait.
        let table = [
            (10, 1, Ok(())),
            (10, 1, Ok(())),
            (10, 1, Ok(())),
            (10, 1, Err(SECOND / 2)),
            (10 + SECOND / 2 - 1, 1, Err(1)),
            (10 + SECOND / 2, 1, Ok(())),
            (10 + SECOND, 2, Err(SECOND / 2)),
            (10 + 2 * SECOND, 2, Ok(())),
            (10 + 2 * SECOND, 1, Ok(())),
            (100 * SECOND, 5, Ok(())),
            (100 * SECOND, 5, Err(5 * SECOND / 2)),
        ];
        for (step, (now, weight, wanted)) in table.into_iter().enumerate() {
            let taken = QUOTA.take(full_at, now, weight);
            assert_eq!(taken.map(|_| ()), wanted, "step {step}");
            full_at = taken.unwrap_or(full_at);
        }
    }

    #[test]
    fn what_is_admitted_anyway_leaves_no_more_than_an_empty_bucket() {
        let full_at = (0..100).fold(0, |full_at, _| QUOTA.take_anyway(full_at, SECOND));
        assert_eq!(full_at, SECOND + QUOTA.whole());
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let endless = Quota { interval: u64::MAX, burst: u64::from(u32::MAX) };
        assert_eq!(endless.take(0, u64::MAX, u32::MAX), Ok(u64::MAX));
        assert_eq!(endless.take_anyway(u64::MAX, u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn in_no_span_is_more_admitted_than_the_burst_and_the_rate(
            interval in 1..2_000_u64, burst in 1..20_u64, pauses in prop::collection::vec(0..3_000_u64, 1..200),
        ) {
            let quota = Quota { interval, burst };
            let (mut now, mut full_at, mut admitted) = (0, 0, Vec::new());
            for pause in pauses {
                now += pause;
                if let Ok(next) = quota.take(full_at, now, 1) {
                    full_at = next;
                    admitted.push(now);
                }
            }
            for (i, from) in admitted.iter().enumerate() {
                for (j, until) in admitted.iter().enumerate().skip(i) {
                    let count = u64::try_from(j - i + 1).unwrap();
                    prop_assert!(count <= burst + (until - from) / interval, "{count} from {from} to {until}");
                }
            }
        }

        #[test]
        fn who_waits_as_told_and_is_alone_is_admitted_and_not_a_moment_before(
            interval in 1..2_000_u64, burst in 1..20_u64, weight in 1..40_u32, taken in 0..60_u32, now in 0..100_000_u64,
        ) {
            let quota = Quota { interval, burst };
            let full_at = quota.take(0, now, taken).unwrap();
            if let Err(wait) = quota.take(full_at, now, weight) {
                prop_assert!(quota.take(full_at, now + wait, weight).is_ok());
                prop_assert_eq!(quota.take(full_at, now + wait - 1, weight), Err(1));
            }
        }
    }
}
