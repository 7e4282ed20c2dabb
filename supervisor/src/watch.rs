//! Whether a child that is to say `WATCHDOG=1` is silent: the decision alone, as pure functions of time.
//!
//! What must not happen is that the supervisor takes its own absence for that of its children. When it was stopped, starved or held up, all of them look
//! silent, and their words wait in its queue. So time is counted by [`Attention`], which stands still while the supervisor does, and nobody is judged
//! before the queue was read to its end.

mod stillness;

use std::time::{Duration, Instant};

pub(crate) use stillness::Stillness;

/// What components are told in `WATCHDOG_USEC`. They speak more than twice in it, and name what hangs before it is over.
pub(crate) const WINDOW: Duration = Duration::from_secs(2);
/// Silence for longer than that is a hang. With what it takes to notice and to act, a stopped process is replaced within 3 s.
pub(crate) const SILENCE: Duration = Duration::from_millis(2500);
/// Silence that is not usual any more.
const DOUBT: Duration = Duration::from_millis(1250);
/// How often the supervisor looks, at the least.
const LOOK: Duration = Duration::from_millis(250);

/// A point in the supervisor's own time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Awake(Duration);

/// The supervisor's own time. It runs while the supervisor looks regularly, and a gap counts as one look.
#[derive(Debug)]
pub(crate) struct Attention {
    looked: Instant,
    /// The next look is due so long after that.
    pause: Duration,
    awake: Duration,
}

impl Attention {
    /// From now on.
    pub(crate) const fn new(now: Instant) -> Self {
        Self { looked: now, pause: LOOK, awake: Duration::ZERO }
    }

    /// To be called in every turn of the driver. Before it judges anybody by what this answers, it reads the queue of notifications to its end.
    pub(crate) fn look(&mut self, now: Instant) -> Awake {
        let passed = now.saturating_duration_since(self.looked);
        // A timer may be late by a little; that is still attention.
        self.awake += if passed > self.pause + LOOK { LOOK } else { passed };
        self.looked = now;
        Awake(self.awake)
    }

    /// As of the last look.
    pub(crate) const fn now(&self) -> Awake {
        Awake(self.awake)
    }

    /// When the driver must look again at the latest, while somebody is watched who is not to be doubted before `left` is over. While all speak, that is later
    /// than the next word; but not so late that a pause of the whole machine could pass for attention.
    pub(crate) fn next(&mut self, left: Duration) -> Instant {
        self.pause = left.clamp(LOOK, LOOK * 3);
        self.looked + self.pause
    }
}

/// One child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watch {
    last_alive: Awake,
}

impl Watch {
    /// From its readiness on, or its adoption: all that we start have been told to show progress.
    pub(crate) const fn new(now: Awake) -> Self {
        Self { last_alive: now }
    }

    /// It said so again.
    pub(crate) fn alive(&mut self, now: Awake) {
        self.last_alive = now;
    }

    /// For how long it has been silent.
    pub(crate) fn silence(&self, now: Awake) -> Duration {
        now.0.saturating_sub(self.last_alive.0)
    }

    /// How long until that is unusual.
    pub(crate) fn until_doubt(&self, now: Awake) -> Duration {
        DOUBT.saturating_sub(self.silence(now))
    }

    /// Whether that is unusual: time to see what it does.
    pub(crate) fn is_doubtful(&self, now: Awake) -> bool {
        self.silence(now) > DOUBT
    }

    /// Whether that is too long.
    pub(crate) fn is_overdue(&self, now: Awake) -> bool {
        self.silence(now) > SILENCE
    }

    /// It asked for so much more time, from now on.
    pub(crate) fn extend(&mut self, now: Awake, by: Duration) {
        let granted = Awake(now.0 + by);
        self.last_alive = Awake(granted.0.saturating_sub(SILENCE)).max(self.last_alive);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A child says it is alive once and is looked at after each of these gaps, in ms; after which look it is found hung.
    fn hung_after(gaps: &[u64]) -> Option<usize> {
        let mut now = Instant::now();
        let mut attention = Attention::new(now);
        let watch = Watch::new(attention.look(now));
        gaps.iter().position(|gap| {
            now += Duration::from_millis(*gap);
            watch.is_overdue(attention.look(now))
        })
    }

    #[test]
    fn silence_is_a_hang_when_it_is_too_long() {
        assert_eq!(hung_after(&[250; 10]), None);
        assert_eq!(hung_after(&[250; 11]), Some(10));
        assert_eq!(hung_after(&[10; 251]), Some(250));
    }

    #[test]
    fn a_supervisor_that_was_stopped_blames_nobody() {
        // An hour of SIGSTOP; then it looks as always.
        assert_eq!(hung_after(&[250, 3_600_000, 250, 250, 250]), None);
        // Starved again and again, it sees next to nothing.
        assert_eq!(hung_after(&[1000; 10]), None);
        // It looks less often while nobody is doubted, and a pause of all is no silence of one.
        let now = Instant::now();
        let mut attention = Attention::new(now);
        let watch = Watch::new(attention.look(now));
        assert_eq!(attention.next(DOUBT), now + LOOK * 3);
        assert_eq!(watch.silence(attention.look(now + LOOK * 3)), LOOK * 3);
        assert_eq!(attention.next(DOUBT), now + LOOK * 6);
        assert_eq!(watch.silence(attention.look(now + LOOK * 11)), LOOK * 4);
        assert_eq!(attention.next(watch.until_doubt(attention.now())), now + LOOK * 12);
        assert_eq!(attention.next(Duration::ZERO), now + LOOK * 12);
        // It does not become blind by it.
        assert_eq!(hung_after(&[&[3_600_000][..], &[250; 20]].concat()), Some(10));
    }

    #[test]
    fn who_speaks_is_not_hung_and_who_asks_for_time_gets_it_once() {
        let mut now = Instant::now();
        let mut attention = Attention::new(now);
        let mut watch = Watch::new(attention.look(now));
        let mut pass = |looks: u32| {
            (0..looks).fold(Awake::default(), |_, _| {
                now += LOOK;
                attention.look(now)
            })
        };
        for _ in 0..10 {
            let awake = pass(9);
            assert!(!watch.is_overdue(awake));
            watch.alive(awake);
        }
        let asked = pass(1);
        watch.extend(asked, Duration::from_secs(10));
        assert!(!watch.is_overdue(pass(40)));
        assert!(watch.is_overdue(pass(1)));
        // A short extension takes nothing away.
        watch.alive(pass(1));
        let asked = pass(1);
        watch.extend(asked, Duration::from_millis(1));
        assert!(!watch.is_overdue(pass(9)));
    }
}
