//! What is known when Redis has lost its reservations.
//!
//! A *mark* lies beside the reservations; when it is gone or another, so are they (a wipe, a restart without the data), and a command that was reserved before could be
//! carried out once more. From the moment at which this is noticed, a session's commands are let through only when they are younger than the youngest that this
//! process had reserved for it: those cannot have been seen. A client that signs anew, as it does for a retry, is served at once. What other processes had
//! reserved is not known here; one that has not run for long therefore refuses everything that is older than itself.

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
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    mark: Vec<u8>,
    /// By session: the youngest timestamp that was reserved in this era.
    youngest: HashMap<u64, i64>,
    /// What was so in the era before, and the least that counts for every session.
    before: HashMap<u64, i64>,
    floor_ms: i64,
    began_ms: i64,
}

impl Eras {
    pub(super) fn new(mark: Vec<u8>, now_ms: i64) -> Self {
        let state = State { mark, floor_ms: i64::MIN, began_ms: now_ms, ..State::default() };
        Self { hasher: RandomState::new(), state: Mutex::new(state) }
    }

    /// Whether that is the mark of this era.
    pub(super) fn is_now(&self, mark: Option<&[u8]>) -> bool {
        mark == Some(&*self.state().mark)
    }

    /// Another mark: another era. `window_ms` is how long a timestamp may be fresh, either way.
    pub(super) fn turn(&self, mark: Vec<u8>, now_ms: i64, window_ms: i64) {
        let mut state = self.state();
        if state.mark == mark {
            return;
        }
        // Whatever was reserved before this process began is too old by now, unless it began a short while ago.
        if now_ms.saturating_sub(state.began_ms) < window_ms.saturating_mul(2) {
            state.floor_ms = state.floor_ms.max(state.began_ms);
        }
        let mut youngest = mem::take(&mut state.youngest);
        for (session, at) in mem::take(&mut state.before) {
            youngest.entry(session).and_modify(|known| *known = at.max(*known)).or_insert(at);
        }
        (state.before, state.mark) = (youngest, mark);
    }

    /// Notes a reservation that was made beside that mark. Whether the command can be told from those of the era before.
    pub(super) fn admit(&self, mark: Option<&[u8]>, session: &str, timestamp_ms: i64, now_ms: i64) -> bool {
        let session = self.hasher.hash_one(session);
        let mut state = self.state();
        if mark != Some(&*state.mark) {
            // It was made before the era turned, and learnt of after.
            let before = state.before.entry(session).or_insert(timestamp_ms);
            *before = timestamp_ms.max(*before);
            return false;
        }
        if timestamp_ms <= state.floor_ms || state.before.get(&session).is_some_and(|before| timestamp_ms <= *before) {
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
    pub(super) fn prune(&self, now_ms: i64, window_ms: i64) {
        let (mut state, oldest) = (self.state(), now_ms.saturating_sub(window_ms));
        state.youngest.retain(|_, at| *at >= oldest);
        state.before.retain(|_, at| *at >= oldest);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: i64 = 100;
    const A: Option<&[u8]> = Some(b"a");
    const B: Option<&[u8]> = Some(b"b");

    #[test]
    fn after_a_wipe_only_what_was_signed_after_the_last_is_let_through() {
        let eras = Eras::new(b"a".to_vec(), 0);
        for at in [950, 1000, 990] {
            assert!(eras.admit(A, "x", at, 1000), "in any order, while Redis remembers");
        }
        assert!(eras.is_now(A) && !eras.is_now(B) && !eras.is_now(None));
        eras.turn(b"b".to_vec(), 1010, WINDOW);
        for (session, at, admitted) in [("x", 950, false), ("x", 999, false), ("x", 1000, false), ("x", 1001, true), ("y", 950, true)] {
            assert_eq!(eras.admit(B, session, at, 1010), admitted, "{session} {at}");
        }
        assert!(!eras.admit(A, "z", 1005, 1010), "reserved before, learnt of after");
        assert!(!eras.admit(B, "z", 1005, 1010) && eras.admit(B, "z", 1006, 1010));
        eras.prune(2000, WINDOW);
        assert!(eras.admit(B, "x", 1950, 2000));
    }

    #[test]
    fn a_process_that_began_a_moment_ago_trusts_nothing_older_than_itself() {
        let eras = Eras::new(b"a".to_vec(), 1000);
        assert!(eras.admit(A, "x", 950, 1000), "there was no wipe");
        eras.turn(b"b".to_vec(), 1010, WINDOW);
        assert!(!eras.admit(B, "y", 1000, 1010) && eras.admit(B, "y", 1001, 1010));
    }
}
