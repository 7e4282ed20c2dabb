//! What is known when Redis has lost reservations.
//!
//! A [`Mark`](super::mark::Mark) lies beside them; when it is gone or another, so are they (a wipe, a restart without the data), and a command that was reserved before
//! could be carried out once more. The same is to be feared of a server that started anew, whatever data it was given. From the moment at which this is noticed, a
//! session's requests are let through only when they are younger than the youngest that this process had reserved for it: those cannot have been seen. A client
//! that signs anew, as it does for a retry, is served at once.
//!
//! What other processes had reserved is not known here. So commands must be younger than the last sign of another edge, too, and everything must be younger than a
//! process that has not run for long.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Sessions whose youngest command is remembered. Beyond it, all count as if they had sent one now.
const SESSIONS: usize = 1_000_000;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Eras {
    hasher: RandomState,
    /// How long a timestamp may be fresh, either way, in ms.
    window_ms: i64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    era: String,
    /// By session: the youngest timestamp that was reserved in this era.
    youngest: HashMap<u64, i64>,
    /// What was so in the era before.
    before: HashMap<u64, i64>,
    /// What every timestamp has to be younger than, and what that of a command has to.
    floor_ms: i64,
    floor_of_commands_ms: i64,
    began_ms: i64,
    /// Until when another edge may have reserved anything.
    others_until_ms: i64,
}

/// What is to be admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) session: &'a str,
    pub(crate) timestamp_ms: i64,
    /// It changes something, as opposed to opening a stream.
    pub(crate) is_command: bool,
}

impl Eras {
    pub(super) fn new(era: String, now_ms: i64, window_ms: i64) -> Self {
        let state = State {
            era,
            youngest: HashMap::new(),
            before: HashMap::new(),
            floor_ms: i64::MIN,
            floor_of_commands_ms: i64::MIN,
            began_ms: now_ms,
            others_until_ms: i64::MIN,
        };
        Self { hasher: RandomState::new(), window_ms, state: Mutex::new(state) }
    }

    /// Whether that is the era.
    pub(super) fn is_now(&self, era: Option<&str>) -> bool {
        era == Some(&*self.state().era)
    }

    /// Another edge may have reserved commands until then.
    pub(super) fn others(&self, until_ms: i64) {
        let mut state = self.state();
        state.others_until_ms = state.others_until_ms.max(until_ms);
    }

    /// Another mark: another era.
    pub(super) fn turn(&self, era: String, now_ms: i64) {
        let mut state = self.state();
        if state.era != era {
            state.era = era;
            state.doubt(now_ms, self.window_ms);
        }
    }

    /// Beside the same mark, what was reserved may be gone.
    pub(super) fn doubt(&self, now_ms: i64) {
        self.state().doubt(now_ms, self.window_ms);
    }

    /// Notes a reservation that was made beside the mark of that era. Whether the request can be told from those that were there before.
    pub(super) fn admit(&self, era: Option<&str>, asked: Asked<'_>, now_ms: i64) -> bool {
        let (session, timestamp_ms) = (self.hasher.hash_one(asked.session), asked.timestamp_ms);
        let mut state = self.state();
        if era != Some(&*state.era) {
            // It was made before the era turned, and learnt of after.
            let before = state.before.entry(session).or_insert(timestamp_ms);
            *before = timestamp_ms.max(*before);
            return false;
        }
        let floor_ms = if asked.is_command { state.floor_ms.max(state.floor_of_commands_ms) } else { state.floor_ms };
        if timestamp_ms <= floor_ms || state.before.get(&session).is_some_and(|before| timestamp_ms <= *before) {
            return false;
        }
        if state.youngest.len() >= SESSIONS {
            // Should the era end, everything that is older than now is in doubt.
            state.youngest.clear();
            state.began_ms = now_ms;
        }
        let youngest = state.youngest.entry(session).or_insert(timestamp_ms);
        *youngest = timestamp_ms.max(*youngest);
        true
    }

    /// Forgets what is no longer fresh anyway.
    pub(super) fn prune(&self, now_ms: i64) {
        let (mut state, oldest) = (self.state(), now_ms.saturating_sub(self.window_ms));
        state.youngest.retain(|_, at| *at >= oldest);
        state.before.retain(|_, at| *at >= oldest);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn doubt(&mut self, now_ms: i64, window_ms: i64) {
        // Whatever was reserved before this process began is too old by now, unless it began a short while ago.
        if now_ms.saturating_sub(self.began_ms) < window_ms.saturating_mul(2) {
            self.floor_ms = self.floor_ms.max(self.began_ms);
        }
        self.floor_of_commands_ms = self.floor_of_commands_ms.max(self.others_until_ms.min(now_ms));
        let mut youngest = mem::take(&mut self.youngest);
        for (session, at) in mem::take(&mut self.before) {
            youngest.entry(session).and_modify(|known| *known = at.max(*known)).or_insert(at);
        }
        self.before = youngest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: i64 = 100;
    const A: Option<&str> = Some("a");
    const B: Option<&str> = Some("b");

    const fn command(session: &str, timestamp_ms: i64) -> Asked<'_> {
        Asked { session, timestamp_ms, is_command: true }
    }

    const fn stream(session: &str, timestamp_ms: i64) -> Asked<'_> {
        Asked { session, timestamp_ms, is_command: false }
    }

    #[test]
    fn after_a_wipe_only_what_was_signed_after_the_last_is_let_through() {
        let eras = Eras::new("a".into(), 0, WINDOW);
        for at in [950, 1000, 990] {
            assert!(eras.admit(A, command("x", at), 1000), "in any order, while Redis remembers");
        }
        assert!(eras.is_now(A) && !eras.is_now(B) && !eras.is_now(None));
        eras.turn("b".into(), 1010);
        for (session, at, admitted) in [("x", 950, false), ("x", 999, false), ("x", 1000, false), ("x", 1001, true), ("y", 950, true)] {
            assert_eq!(eras.admit(B, command(session, at), 1010), admitted, "{session} {at}");
        }
        assert!(!eras.admit(A, command("z", 1005), 1010), "reserved before, learnt of after");
        assert!(!eras.admit(B, command("z", 1005), 1010) && eras.admit(B, command("z", 1006), 1010));
        eras.prune(2000);
        assert!(eras.admit(B, command("x", 1950), 2000));
    }

    #[test]
    fn a_process_that_began_a_moment_ago_trusts_nothing_older_than_itself() {
        let eras = Eras::new("a".into(), 1000, WINDOW);
        assert!(eras.admit(A, command("x", 950), 1000), "there was no wipe");
        eras.turn("b".into(), 1010);
        for asked in [command, stream] {
            assert!(!eras.admit(B, asked("y", 1000), 1010) && eras.admit(B, asked("y", 1001), 1010));
        }
    }

    #[test]
    fn a_command_that_another_edge_may_have_seen_is_not_let_through_after_a_loss() {
        let eras = Eras::new("a".into(), 0, WINDOW);
        eras.others(1005);
        assert!(eras.admit(A, command("x", 950), 1000), "there was no loss");
        eras.doubt(1010);
        assert!(!eras.admit(A, command("y", 1005), 1010) && eras.admit(A, command("y", 1006), 1010));
        assert!(eras.admit(A, stream("z", 950), 1010), "no other edge's streams are in doubt");
        eras.others(2000);
        eras.doubt(1500);
        assert!(eras.admit(A, command("w", 1501), 1510), "nobody has seen the future");
    }
}
