//! Whether a server that does not answer hangs, or works. Redis has one thread for everything: while that flushes to a slow disk, forks, or runs a long
//! command, nobody is answered, and all of it passes.
//!
//! | its main thread                           | is a hang after |
//! |-------------------------------------------|-----------------|
//! | stopped, or asleep and not once woken     | [`SILENCE`], as for ours: nothing will come of it |
//! | running, runnable, or woken now and then  | [`BUSY`]: a fork of many GiB, `KEYS` over millions; a script answers `-BUSY` after 5 s, which is an answer |
//! | waiting for the disk (`D`)                | never: no signal ends it before the disk answers, and then it goes on by itself. Another on the same files would wait as well |

use std::time::Duration;

use super::{Awake, LOOK, SILENCE};
use crate::child::Activity;

/// How long it may work on something and answer nobody.
const BUSY: Duration = Duration::from_secs(30);

/// What its main thread was seen at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stillness {
    activity: Activity,
    /// Since when it has been seen to do nothing.
    since: Awake,
    /// Since when it has been looked at, or has the disk back.
    begun: Awake,
}

impl Stillness {
    /// Another look. `before`: the last, if it has not answered since.
    pub(crate) fn seen(before: Option<Self>, activity: Activity, now: Awake) -> Self {
        let is_still = |before: &Self| before.activity.switches == activity.switches && !matches!(activity.state, 'R' | 'D');
        let since = before.filter(is_still).map_or(now, |before| before.since);
        let begun = before.filter(|_| activity.state != 'D').map_or(now, |before| before.begun);
        Self { activity, since, begun }
    }

    /// Whether that is a hang, after so long a silence.
    pub(crate) fn is_hang(&self, silence: Duration, now: Awake) -> bool {
        let [still, busy] = [self.since, self.begun].map(|since| now.0.saturating_sub(since.0));
        match self.activity.state {
            'D' => false,
            _ if still >= LOOK => silence > SILENCE,
            _ => busy > BUSY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many looks, 250 ms apart, one is found hung that was seen so at each; the first after 2 s of silence.
    fn hung_after(seen: impl Fn(u64) -> (char, u64)) -> Option<u64> {
        let mut stillness = None;
        (0..1000).find(|look| {
            let silence = Duration::from_secs(2) + LOOK * u32::try_from(*look).unwrap();
            let (state, switches) = seen(*look);
            let next = Stillness::seen(stillness, Activity { state, switches }, Awake(silence));
            stillness = Some(next);
            next.is_hang(silence, Awake(silence))
        })
    }

    #[test]
    fn what_does_nothing_hangs_as_one_of_ours_does() {
        assert_eq!(hung_after(|_| ('T', 7)), Some(3), "2.75 s");
        assert_eq!(hung_after(|_| ('S', 7)), Some(3));
        // It worked for 10 s, and then no more.
        assert_eq!(hung_after(|look| if look < 32 { ('R', 7) } else { ('S', 8) }), Some(33));
    }

    #[test]
    fn what_works_has_longer_and_what_waits_for_the_disk_for_ever() {
        assert_eq!(hung_after(|_| ('R', 7)), Some(121), "30.25 s after the first look");
        assert_eq!(hung_after(|look| ('S', look)), Some(121));
        assert_eq!(hung_after(|_| ('D', 7)), None);
        assert_eq!(hung_after(|look| if look < 200 { ('D', 7) } else { ('S', 8) }), Some(201), "the disk is back, and its answer is not");
        assert_eq!(hung_after(|look| if look < 200 { ('D', 7) } else { ('R', 8) }), Some(320), "30.25 s after it had the disk back");
    }
}
