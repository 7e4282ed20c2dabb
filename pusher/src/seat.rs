//! One open stream as the hub knows it: whose it is, how far it has come, what waits for it. No events: those are in the log.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
    time::{Duration, Instant},
};

use gatehouse_proto::ids::StreamId;
use gatehouse_sessions::verdict;
use tonic::Status;

use crate::{
    backlog::{Backlog, Bounds},
    entry::Entry,
};

/// Why a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The device session was revoked.
    Revoked,
    /// It was too far behind, and its client did not read.
    Overflowed,
    /// The process is stopping.
    ShuttingDown,
    /// What it was to go on with is gone.
    MustResume,
}

impl Ending {
    /// The verdict, with where to resume and when to come back.
    #[must_use]
    pub fn status(self, cursor: StreamId, retry_after: Duration) -> Status {
        let status = match self {
            Self::Revoked => verdict::revoked(),
            Self::Overflowed => verdict::stream_overflowed(),
            Self::ShuttingDown => verdict::shutting_down(),
            Self::MustResume => verdict::must_resume(),
        };
        verdict::with_cursor(status, cursor, retry_after)
    }
}

/// What became of an offered event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It waits.
    Waits,
    /// The stream is past it, or over.
    Skipped,
    /// It was one too many: so many that waited are given up, and the stream ends.
    Overflowed(usize),
}

/// Streams to wake when the locks are released: whoever is woken may run, or be dropped, on the spot, and wants them too. Make it before the lock is taken; it
/// wakes when it is dropped, which is after.
#[derive(Debug, Default)]
pub struct Wakers(Vec<Waker>);

impl Drop for Wakers {
    fn drop(&mut self) {
        self.0.drain(..).for_each(Waker::wake);
    }
}

/// See the module's head.
#[derive(Debug)]
pub struct Seat {
    /// Whose events.
    pub user_id: String,
    /// On which device.
    pub device_session_id: String,
    /// What had been published when it joined: what comes after was offered to it.
    joined: StreamId,
    state: Mutex<State>,
}

/// How far a stream has come.
#[derive(Debug)]
pub struct State {
    /// The last `event_id` that was handed to the transport; before the first, where the client stands. What a verdict's trailer says.
    sent: StreamId,
    /// Everything up to here was taken out of the log.
    fetched: StreamId,
    /// The newest event that was offered.
    offered: StreamId,
    backlog: Backlog,
    quiet_since: Instant,
    bookmark_due: bool,
    ending: Option<Ending>,
    waker: Option<Waker>,
}

impl Seat {
    /// A stream that begins after `cursor`, or now. `read` and `horizon` are the hub's.
    #[must_use]
    pub fn new(user_id: &str, device_session_id: &str, cursor: Option<StreamId>, read: StreamId, horizon: StreamId, now: Instant) -> Self {
        let state = State {
            sent: cursor.unwrap_or(horizon),
            fetched: cursor.unwrap_or(read),
            offered: StreamId::ZERO,
            backlog: Backlog::new(cursor.is_some_and(|cursor| cursor < read)),
            quiet_since: now,
            bookmark_due: false,
            ending: None,
            waker: None,
        };
        Self { user_id: user_id.to_owned(), device_session_id: device_session_id.to_owned(), joined: read, state: Mutex::new(state) }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event of this user is for this device.
    #[must_use]
    pub fn wants(&self, entry: &Entry) -> bool {
        entry.event.is_for_device(&self.device_session_id)
    }

    /// Where the client can resume.
    #[must_use]
    pub fn cursor(&self) -> StreamId {
        self.state().sent
    }

    /// Begins after `from` instead: what lies between is gone.
    pub fn skip_to(&self, from: StreamId) {
        let mut state = self.state();
        state.fetched = state.fetched.max(from);
    }

    /// An event of the gateway's own was handed to the transport.
    pub fn greeted(&self, id: StreamId, now: Instant) {
        let mut state = self.state();
        state.sent = state.sent.max(id);
        state.quiet_since = now;
    }

    /// Takes an event for sending. False when the client has it already; true with whether it came while the stream was open.
    #[must_use]
    pub fn take(&self, entry: &Entry, now: Instant) -> Taken {
        let mut state = self.state();
        let live = entry.id > self.joined;
        if live {
            state.backlog.take(entry.size(), now);
        } else {
            state.backlog.read(now);
        }
        if entry.id <= state.sent {
            return Taken::Known;
        }
        state.sent = entry.id;
        state.quiet_since = now;
        state.bookmark_due = false;
        if live { Taken::Live } else { Taken::Past }
    }

    /// Remembers whom to wake. The ending, if the stream is over.
    pub fn listen(&self, waker: &Waker) -> Option<Ending> {
        let mut state = self.state();
        match &mut state.waker {
            Some(kept) => kept.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        state.ending
    }

    /// A new event that this device wants; `before` is what had been published before it.
    #[must_use]
    pub fn offer(&self, entry: &Entry, before: StreamId, now: Instant, bounds: &Bounds, wakers: &mut Wakers) -> Offer {
        let mut state = self.state();
        if state.ending.is_some() || entry.id <= state.sent.max(state.fetched) {
            return Offer::Skipped;
        }
        if state.is_caught_up() {
            // Nothing up to here was for it, so that it need not look there, however old its last event is.
            state.fetched = state.fetched.max(before);
        }
        state.offered = entry.id;
        if state.backlog.offer(entry.size(), now, bounds) {
            state.wake(wakers);
            Offer::Waits
        } else {
            state.end(Ending::Overflowed, wakers);
            Offer::Overflowed(state.backlog.events())
        }
    }

    /// Ends the stream. The first ending stands.
    pub fn end(&self, ending: Ending, wakers: &mut Wakers) {
        self.state().end(ending, wakers);
    }

    /// Looks after a stream on which nothing happens: makes a bookmark due; ends it when something waits and nothing is taken. How many events wait, or
    /// as an error, how many are given up.
    pub fn sweep(&self, horizon: StreamId, now: Instant, interval: Duration, bounds: &Bounds, wakers: &mut Wakers) -> Result<usize, usize> {
        let mut state = self.state();
        let waiting = state.backlog.events();
        if state.backlog.is_stalled(now, bounds) {
            state.end(Ending::Overflowed, wakers);
            return Err(waiting);
        }
        let quiet = now.saturating_duration_since(state.quiet_since) >= interval;
        if quiet && horizon > state.sent && !state.bookmark_due {
            state.bookmark_due = true;
            state.wake(wakers);
        }
        Ok(waiting)
    }
}

/// What taking an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The client has it already.
    Known,
    /// It was published before the stream was opened.
    Past,
    /// It was published to the open stream.
    Live,
}

impl State {
    /// Whether nothing is left to fetch.
    #[must_use]
    pub(crate) fn is_caught_up(&self) -> bool {
        !self.backlog.is_catching_up() && self.fetched >= self.offered
    }

    /// Everything up to here was fetched.
    #[must_use]
    pub(crate) const fn fetched(&self) -> StreamId {
        self.fetched
    }

    pub(crate) fn fetch_up_to(&mut self, id: StreamId) {
        self.fetched = self.fetched.max(id);
    }

    /// Nothing is left up to `read`. The id of the bookmark that is due, if one is.
    pub(crate) fn caught_up(&mut self, read: StreamId, horizon: StreamId, now: Instant) -> Option<StreamId> {
        self.backlog.caught_up();
        self.fetched = self.fetched.max(read);
        if !std::mem::take(&mut self.bookmark_due) || horizon <= self.sent {
            return None;
        }
        self.sent = horizon;
        self.quiet_since = now;
        Some(horizon)
    }

    fn end(&mut self, ending: Ending, wakers: &mut Wakers) {
        if self.ending.is_none() {
            self.ending = Some(ending);
            self.wake(wakers);
        }
    }

    fn wake(&mut self, wakers: &mut Wakers) {
        wakers.0.extend(self.waker.take());
    }
}
