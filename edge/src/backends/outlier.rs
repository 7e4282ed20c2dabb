//! When an endpoint that fails real requests is left alone, and for how long: pure, told what happens and what time it is.
//!
//! Each ejection lasts twice as long as the one before, up to a limit; each `base_time` of good standing since takes one of them back. It ends by time alone: the
//! endpoint is then used as any other.

use std::time::{Duration, Instant};

use crate::config::Ejection;

#[derive(Clone, Debug, Default)]
pub(super) struct Outlier {
    /// Failures in a row.
    failures: u32,
    /// How often it was ejected, less what was forgiven.
    ejections: u32,
    until: Option<Instant>,
}

impl Outlier {
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure. How long it is ejected for, if it is: `may` says whether others are left.
    pub(super) fn failed(&mut self, setting: &Ejection, may: bool, now: Instant) -> Option<Duration> {
        // What began before it was ejected still fails after.
        if self.is_ejected(now) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < setting.consecutive_failures || !may {
            return None;
        }
        let good = self.until.map_or(Duration::MAX, |until| now.saturating_duration_since(until));
        let forgiven = good.as_nanos().checked_div(setting.base_time.as_nanos()).and_then(|times| u32::try_from(times).ok());
        self.ejections = self.ejections.saturating_sub(forgiven.unwrap_or(u32::MAX));
        let factor = 1_u32.checked_shl(self.ejections).unwrap_or(u32::MAX);
        let time = setting.base_time.saturating_mul(factor).min(setting.max_time);
        self.ejections = (self.ejections + 1).min(31);
        self.failures = 0;
        self.until = Some(now + time);
        Some(time)
    }

    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// Whether one more of so many endpoints may be ejected.
pub(super) fn has_room(setting: &Ejection, endpoints: usize, ejected: usize) -> bool {
    (ejected + 1) * 100 <= endpoints * usize::try_from(setting.max_percent).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Ejection {
        Ejection { consecutive_failures: 3, base_time: Duration::from_secs(10), max_time: Duration::from_mins(1), max_percent: 50 }
    }

    /// Fails until it is ejected, the given seconds after the start.
    fn ejected(outlier: &mut Outlier, at: Instant) -> u64 {
        let times: Vec<_> = (0..3).map(|_| outlier.failed(&setting(), true, at)).collect();
        assert_eq!((times[0], times[1]), (None, None));
        times[2].expect("the third failure in a row").as_secs()
    }

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let (mut outlier, now) = (Outlier::default(), Instant::now());
        for _ in 0..10 {
            assert_eq!(outlier.failed(&setting(), true, now), None);
            assert_eq!(outlier.failed(&setting(), true, now), None);
            outlier.succeeded();
        }
        assert_eq!(ejected(&mut outlier, now), 10);
        assert!(outlier.is_ejected(now + Duration::from_secs(9)));
        assert!(!outlier.is_ejected(now + Duration::from_secs(10)), "it recovers by itself");
    }

    #[test]
    fn each_ejection_is_longer_and_good_standing_is_rewarded() {
        let (mut outlier, start) = (Outlier::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(ejected(&mut outlier, at(0)), 10);
        assert_eq!(ejected(&mut outlier, at(10)), 20);
        assert_eq!(ejected(&mut outlier, at(30)), 40);
        assert_eq!(ejected(&mut outlier, at(70)), 60, "the limit");
        assert_eq!(ejected(&mut outlier, at(150)), 40, "130 to 150 were good");
        assert_eq!(ejected(&mut outlier, at(10_000)), 10);
    }

    #[test]
    fn what_fails_while_it_is_ejected_is_not_held_against_it() {
        let (mut outlier, now) = (Outlier::default(), Instant::now());
        ejected(&mut outlier, now);
        for _ in 0..100 {
            assert_eq!(outlier.failed(&setting(), true, now + Duration::from_secs(1)), None);
        }
        assert!(!outlier.is_ejected(now + Duration::from_secs(10)));
    }

    #[test]
    fn no_more_than_a_share_of_the_endpoints_is_ejected() {
        let of = |max_percent, endpoints| {
            let setting = Ejection { max_percent, ..setting() };
            (0..=endpoints).take_while(|ejected| has_room(&setting, endpoints, *ejected)).count()
        };
        for (percent, endpoints, most) in [(50, 1, 0), (50, 2, 1), (50, 3, 1), (50, 4, 2), (0, 10, 0), (100, 1, 1), (100, 3, 3), (10, 9, 0)]
        {
            assert_eq!(of(percent, endpoints), most, "{percent} % of {endpoints}");
        }
        let (mut outlier, now) = (Outlier::default(), Instant::now());
        assert!((0..100).all(|_| outlier.failed(&setting(), false, now).is_none()));
        assert!(!outlier.is_ejected(now));
    }
}
