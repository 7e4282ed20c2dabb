//! Whether the trail can take a record: what the writer found out last, and how much room has been promised since.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use prometheus::IntGauge;

use super::NotRecorded;

/// What one record takes on the spool at most, alone in a group: every field as long as it may be, and the framing.
pub(super) const PLACE: u64 = 4096;

/// What a record may be promised; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    /// Nothing waits on the spool, and Redis took the last write.
    direct: AtomicBool,
    /// Bytes that the spool takes for certain.
    room: AtomicU64,
    /// Places that are held.
    promised: AtomicU64,
    open: IntGauge,
}

/// A place in the trail, held until it is dropped: while there are any, the spool is not used up by what holds none.
#[derive(Debug)]
#[must_use = "a place that is dropped at once is held by nobody"]
pub struct Place(Arc<State>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.promised.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    /// With a spool of that room, and Redis as yet believed in.
    pub(super) fn new(room: u64, open: IntGauge) -> Self {
        open.set(1);
        Self(Arc::new(State { direct: AtomicBool::new(true), room: AtomicU64::new(room), promised: AtomicU64::new(0), open }))
    }

    /// What the writer found out.
    pub(super) fn learn(&self, direct: bool, room: u64) {
        self.0.direct.store(direct, Ordering::Relaxed);
        self.0.room.store(room, Ordering::Relaxed);
        self.0.open.set(self.is_open().into());
    }

    /// Whether Redis takes what comes now.
    pub(super) fn is_direct(&self) -> bool {
        self.0.direct.load(Ordering::Relaxed)
    }

    /// Whether one more could be promised a place.
    pub(super) fn is_open(&self) -> bool {
        self.holds(self.0.promised.load(Ordering::Relaxed) + 1)
    }

    /// Bytes that are spoken for.
    pub(super) fn promised(&self) -> u64 {
        self.0.promised.load(Ordering::Relaxed) * PLACE
    }

    pub(super) fn reserve(&self) -> Result<Place, NotRecorded> {
        let place = Place(Arc::clone(&self.0));
        let promised = self.0.promised.fetch_add(1, Ordering::Relaxed) + 1;
        if self.holds(promised) { Ok(place) } else { Err(NotRecorded) }
    }

    fn holds(&self, places: u64) -> bool {
        self.is_direct() || places.saturating_mul(PLACE) <= self.0.room.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_promised_as_far_as_the_room_goes_and_given_back() {
        let gate = Gate::new(0, IntGauge::new("open", "Open.").unwrap());
        let held: Vec<_> = (0..1000).map(|_| gate.reserve().unwrap()).collect();
        drop(held);
        gate.learn(false, 2 * PLACE + 1);
        let (first, second) = (gate.reserve().unwrap(), gate.reserve().unwrap());
        assert!(gate.reserve().is_err() && !gate.is_open());
        assert_eq!(gate.promised(), 2 * PLACE, "who is refused holds nothing");
        drop(first);
        assert!(gate.reserve().is_ok());
        gate.learn(false, 0);
        assert_eq!((gate.0.open.get(), gate.is_open()), (0, false));
        gate.learn(true, 0);
        assert_eq!((gate.0.open.get(), gate.is_open()), (1, true));
        drop(second);
        assert_eq!(gate.promised(), 0);
    }
}
