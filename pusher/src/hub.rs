//! Where events meet streams: the log, and who is open, by user and by device session.
//!
//! ```text
//!  reader ── publish ──▶ log ◀── refill ── streams (pull, one page at a time)
//!                  └──▶ seats: count, wake, cut          ▲
//!  sessions ── revoke ──┘    ▲── sweep (bookmarks, stalls)┘
//! ```
//!
//! One lock guards log and registry together, so that a stream which joins at a position misses nothing after it. A seat's own lock is taken under it, never the
//! other way round. Nothing is sealed, encoded or woken under either.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gatehouse_chassis::{connections::Gauged, keys::Keys};
use gatehouse_proto::ids::StreamId;
use tokio::sync::watch;

use crate::{
    config::Push,
    entry::Entry,
    log::Log,
    metrics::PushMetrics,
    seat::{Ending, Offer, Seat, Wakers},
};

/// What a stream takes out of the log at once, in events and in bytes.
const PAGE_EVENTS: usize = 64;
const PAGE_BYTES: usize = 256 << 10;

/// A hub that closes ends the streams of at least so many users at once, and then waits so long.
const LOT: usize = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// See the module's head.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    /// Streams that are open, those that ended and have not said so yet included.
    open: watch::Sender<usize>,
    settings: Push,
    keys: Keys,
    metrics: PushMetrics,
}

#[derive(Debug)]
struct State {
    log: Log,
    /// The newest entry that was published.
    read: StreamId,
    /// Everything up to here was published, and nothing more comes; at least `read`.
    horizon: StreamId,
    users: HashMap<String, Vec<Arc<Seat>>>,
    devices: HashMap<String, Vec<Arc<Seat>>>,
    closed: bool,
}

/// What a stream does next.
#[derive(Debug)]
pub enum Refill {
    /// Sends these.
    Page(VecDeque<Arc<Entry>>),
    /// Reads the stream from Redis: memory no longer holds what comes after `after`.
    Archive {
        /// What was fetched so far.
        after: StreamId,
        /// What has been published.
        until: StreamId,
    },
    /// Sends a bookmark.
    Bookmark(StreamId),
    /// Waits.
    Idle,
}

/// A place in the hub; dropping it gives it up.
#[derive(Debug)]
pub struct Place {
    hub: Arc<Hub>,
    seat: Arc<Seat>,
    _counted: Gauged,
}

/// The hub takes no more streams: the process is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

impl Hub {
    /// Publishing begins after `position`, where `past` ends; no stream begins before `floor`.
    #[must_use]
    pub fn new(settings: Push, keys: Keys, metrics: PushMetrics, past: Log, position: StreamId, floor: StreamId) -> Self {
        let state = State {
            log: past,
            read: position,
            horizon: position.max(floor),
            users: HashMap::new(),
            devices: HashMap::new(),
            closed: false,
        };
        Self { state: Mutex::new(state), open: watch::Sender::new(0), settings, keys, metrics }
    }

    /// `[push]`.
    #[must_use]
    pub const fn settings(&self) -> &Push {
        &self.settings
    }

    /// Sign events.
    #[must_use]
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// What is counted.
    #[must_use]
    pub const fn metrics(&self) -> &PushMetrics {
        &self.metrics
    }

    /// Registers a stream that begins after `cursor`, or now.
    pub fn join(self: &Arc<Self>, user_id: &str, device_session_id: &str, cursor: Option<StreamId>) -> Result<Place, Closed> {
        let mut state = self.state();
        if state.closed {
            return Err(Closed);
        }
        let seat = Arc::new(Seat::new(user_id, device_session_id, cursor, state.read, state.horizon, Instant::now()));
        state.users.entry(user_id.to_owned()).or_default().push(Arc::clone(&seat));
        state.devices.entry(device_session_id.to_owned()).or_default().push(Arc::clone(&seat));
        self.open.send_modify(|open| *open += 1);
        drop(state);
        Ok(Place { hub: Arc::clone(self), seat, _counted: self.metrics.stream() })
    }

    /// Puts an entry into the log and before every stream that wants it.
    pub fn publish(&self, entry: Entry, now: Instant) {
        let entry = Arc::new(entry);
        let mut wakers = Wakers::default();
        let mut state = self.state();
        let before = state.read;
        if entry.id <= before {
            self.metrics.stale.inc();
            return;
        }
        if entry.id <= state.horizon {
            self.metrics.late.inc();
        }
        state.read = entry.id;
        state.horizon = state.horizon.max(entry.id);
        state.log.append(Arc::clone(&entry));
        let (mut wanted, mut cut) = (false, Vec::new());
        for seat in state.users.get(&entry.event.user_id).into_iter().flatten().filter(|seat| seat.wants(&entry)) {
            wanted = true;
            if let Offer::Overflowed(lost) = seat.offer(&entry, before, now, &self.settings.bounds, &mut wakers) {
                cut.push((Arc::clone(seat), lost));
            }
        }
        if !wanted {
            self.metrics.no_stream.inc();
        }
        self.cut(&mut state, cut);
    }

    /// Everything up to `horizon` was published.
    pub fn advance(&self, horizon: StreamId) {
        let mut state = self.state();
        state.horizon = state.horizon.max(horizon);
        self.metrics.log_bytes.set(i64::try_from(state.log.bytes()).unwrap_or(i64::MAX));
        self.metrics.log_entries.set(i64::try_from(state.log.len()).unwrap_or(i64::MAX));
    }

    /// The stream of client events was wiped: memory is of another Redis, and no cursor below `floor` is worth anything.
    pub fn wiped(&self, floor: StreamId) {
        let mut state = self.state();
        let read = state.read;
        state.log.clear(read);
        state.horizon = state.horizon.max(floor);
    }

    /// Entries up to `until` may have been removed before they were read. Memory begins behind them; streams that are open are sent away, to be told
    /// of the gap when they resume.
    pub fn lost(&self, until: StreamId) {
        let mut wakers = Wakers::default();
        let mut state = self.state();
        state.log.clear(until);
        state.read = state.read.max(until);
        state.horizon = state.horizon.max(until);
        state.end_all(Ending::MustResume, &mut wakers);
    }

    /// The newest entry that was published, and up to where nothing more comes.
    #[must_use]
    pub fn position(&self) -> (StreamId, StreamId) {
        let state = self.state();
        (state.read, state.horizon)
    }

    /// Whether everything after `cursor` is in memory.
    #[must_use]
    pub fn remembers(&self, cursor: StreamId) -> bool {
        self.state().log.covers(cursor)
    }

    /// What that stream does next. Its last page has been sent.
    pub fn refill(&self, seat: &Seat, now: Instant) -> Refill {
        let hub = self.state();
        let mut state = seat.state();
        if !state.is_caught_up() {
            if !hub.log.covers(state.fetched()) {
                return Refill::Archive { after: state.fetched(), until: hub.read };
            }
            let page = page(hub.log.after(&seat.user_id, state.fetched()).filter(|entry| seat.wants(entry)));
            if let Some(last) = page.back() {
                state.fetch_up_to(last.id);
                return Refill::Page(page);
            }
        }
        state.caught_up(hub.read, hub.horizon, now).map_or(Refill::Idle, Refill::Bookmark)
    }

    /// Ends the streams of one device session.
    pub fn revoke(&self, device_session_id: &str) {
        let mut wakers = Wakers::default();
        let mut state = self.state();
        for seat in state.devices.get(device_session_id).cloned().unwrap_or_default() {
            seat.end(Ending::Revoked, &mut wakers);
            state.remove(&seat);
        }
    }

    /// Takes no more streams and ends those that are open, one lot after the other when they are many, over `within` at most: whoever they move to has to open
    /// them again, and serves others meanwhile.
    pub async fn close(&self, within: Duration) {
        let users = {
            let mut state = self.state();
            state.closed = true;
            state.users.len()
        };
        let pauses = usize::try_from(within.as_nanos() / PAUSE.as_nanos()).unwrap_or(usize::MAX).max(1);
        let lot = users.div_ceil(pauses).max(LOT);
        while !self.end(lot) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ends the streams of so many users. Whether there are no more.
    fn end(&self, users: usize) -> bool {
        let mut wakers = Wakers::default();
        let mut state = self.state();
        let ended: Vec<_> = state.users.extract_if(|_, _| true).take(users).flat_map(|(_, seats)| seats).collect();
        for seat in ended {
            seat.end(Ending::ShuttingDown, &mut wakers);
            state.remove(&seat);
        }
        state.users.is_empty()
    }

    /// Resolves when no stream is open.
    pub async fn emptied(&self) {
        // The sender is here, so that waiting cannot fail.
        let mut open = self.open.subscribe();
        let _none_open = open.wait_for(|open| *open == 0).await;
    }

    /// Looks after streams on which nothing happens.
    pub fn sweep(&self, now: Instant) {
        let mut wakers = Wakers::default();
        let mut state = self.state();
        let (mut cut, mut waiting) = (Vec::new(), 0);
        for seat in state.users.values().flatten() {
            match seat.sweep(state.horizon, now, self.settings.bookmark_interval, &self.settings.bounds, &mut wakers) {
                Ok(waits) => waiting += waits,
                Err(lost) => cut.push((Arc::clone(seat), lost)),
            }
        }
        self.metrics.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.cut(&mut state, cut);
    }

    fn cut(&self, state: &mut State, cut: Vec<(Arc<Seat>, usize)>) {
        for (seat, lost) in cut {
            self.metrics.overflowed.inc_by(lost as u64);
            state.remove(&seat);
            let (device, user) = (&seat.device_session_id, &seat.user_id);
            tracing::info!(
                device_session_id = device,
                user_id = user,
                stream.waiting = lost,
                "stream overflowed; its client does not read"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn end_all(&mut self, ending: Ending, wakers: &mut Wakers) {
        self.devices.clear();
        for seat in std::mem::take(&mut self.users).into_values().flatten() {
            seat.end(ending, wakers);
        }
    }

    fn remove(&mut self, seat: &Arc<Seat>) {
        for (registry, id) in [(&mut self.users, &seat.user_id), (&mut self.devices, &seat.device_session_id)] {
            let emptied = registry.get_mut(id).is_some_and(|seats| {
                seats.retain(|other| !Arc::ptr_eq(other, seat));
                seats.is_empty()
            });
            if emptied {
                registry.remove(id);
            }
        }
    }
}

impl Place {
    /// The hub it is in.
    #[must_use]
    pub const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The seat.
    #[must_use]
    pub const fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.state().remove(&self.seat);
        self.hub.open.send_modify(|open| *open -= 1);
    }
}

fn page<'a>(entries: impl Iterator<Item = &'a Arc<Entry>>) -> VecDeque<Arc<Entry>> {
    let (mut page, mut bytes) = (VecDeque::new(), 0);
    for entry in entries {
        page.push_back(Arc::clone(entry));
        bytes += entry.size();
        if page.len() == PAGE_EVENTS || bytes >= PAGE_BYTES {
            break;
        }
    }
    page
}

#[cfg(test)]
mod tests;
