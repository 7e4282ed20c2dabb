//! What one backend may have to do at once: so many seats, taken when a request is sent and held until its answer is there.
//!
//! At the door it is only looked at, so that nobody who is not verified yet takes a seat from anybody. Who was let in and finds the last seat gone meanwhile may
//! wait: a seat that becomes free goes to the most critical of those who wait, the first of them first, and as long as one waits his like are refused at the door. So
//! no more wait than the gateway worked on at once.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::place::share;
use crate::config::Priority;

/// The seats of one backend; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Room(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    taken: usize,
    limit: usize,
    waiting: BTreeMap<Turn, oneshot::Sender<Seat>>,
    tickets: u64,
}

/// Who comes first: the most critical, then the first to come.
type Turn = (Reverse<Priority>, u64);

impl Room {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State { taken: 0, limit, waiting: BTreeMap::new(), tickets: 0 })))
    }

    pub(super) fn limit_to(&self, limit: usize) {
        self.lock().limit = limit;
        self.hand_on();
    }

    /// Whether there is a seat now for that priority.
    pub(super) fn has_seat(&self, priority: Priority) -> bool {
        self.lock().has_seat(priority)
    }

    /// A seat, as soon as there is one. Dropped, it is not waited for any more.
    pub(super) async fn seat(&self, priority: Priority) -> Seat {
        let (_waiting, seat) = {
            let mut state = self.lock();
            if state.has_seat(priority) {
                state.taken += 1;
                return Seat(Some(self.clone()));
            }
            let (sender, seat) = oneshot::channel();
            state.tickets += 1;
            let turn = (Reverse(priority), state.tickets);
            state.waiting.insert(turn, sender);
            (Waiting { room: self, turn }, seat)
        };
        match seat.await {
            Ok(seat) => seat,
            // Who waits is not forgotten: its sender is there until it was given a seat, or is dropped.
            Err(_) => std::future::pending().await,
        }
    }

    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.lock().taken
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    fn leave(&self) {
        self.lock().taken -= 1;
        self.hand_on();
    }

    /// Gives what is free to those who wait.
    fn hand_on(&self) {
        loop {
            // A statement of its own, so that nothing is dropped under the lock.
            let next = self.lock().next();
            let Some(next) = next else { return };
            if let Err(mut seat) = next.send(Seat(Some(self.clone()))) {
                seat.0 = None;
                self.lock().taken -= 1;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_seat(&self, priority: Priority) -> bool {
        self.taken < share(self.limit, priority)
    }

    /// Whose turn it is, if there is a seat for him; it is taken then. Where there is none for the most critical there is none for anybody.
    fn next(&mut self) -> Option<oneshot::Sender<Seat>> {
        let first = self.waiting.first_entry()?;
        let (Reverse(priority), _) = *first.key();
        if self.taken >= share(self.limit, priority) {
            return None;
        }
        self.taken += 1;
        Some(first.remove())
    }
}

/// A place in the queue, given up when dropped.
struct Waiting<'a> {
    room: &'a Room,
    turn: Turn,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let _sender = self.room.lock().waiting.remove(&self.turn);
    }
}

/// One request that a backend has to do, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Option<Room>);

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(room) = &self.0 {
            room.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    #[tokio::test]
    async fn a_seat_that_becomes_free_goes_to_the_most_critical_and_then_to_the_first() {
        let room = Room::new(4);
        let mut seats = Vec::new();
        for _ in 0..4 {
            seats.push(room.seat(Priority::Critical).await);
        }
        let mut low = Box::pin(room.seat(Priority::Low));
        let mut first = Box::pin(room.seat(Priority::Normal));
        let mut second = Box::pin(room.seat(Priority::Normal));
        let mut critical = Box::pin(room.seat(Priority::Critical));
        for waiting in [&mut low, &mut first, &mut second, &mut critical] {
            assert!(poll!(waiting).is_pending());
        }
        seats.pop();
        seats.push(critical.now_or_never().expect("its turn"));
        // Normal ones may fill three of four.
        seats.pop();
        assert!(poll!(&mut first).is_pending() && !room.has_seat(Priority::Normal));
        seats.pop();
        let first = first.now_or_never().expect("its turn");
        assert!(poll!(&mut second).is_pending() && poll!(&mut low).is_pending());
        drop(seats);
        let second = second.now_or_never().expect("its turn");
        assert!(poll!(&mut low).is_pending(), "low ones may fill two");
        drop(first);
        let low = low.now_or_never().expect("its turn");
        drop((second, low));
        assert_eq!((room.taken(), room.waiting()), (0, 0));
    }

    #[tokio::test]
    async fn who_gives_up_waiting_holds_nobody_up_and_loses_no_seat() {
        let room = Room::new(1);
        let seat = room.seat(Priority::Critical).await;
        let (mut gone, mut given) = (Box::pin(room.seat(Priority::Critical)), Box::pin(room.seat(Priority::Critical)));
        let mut last = Box::pin(room.seat(Priority::Critical));
        for waiting in [&mut gone, &mut given, &mut last] {
            assert!(poll!(waiting).is_pending());
        }
        drop(gone);
        assert_eq!(room.waiting(), 2);
        drop(seat);
        // It was given its seat, and is dropped before it has seen it.
        drop(given);
        let last = last.now_or_never().expect("its turn");
        assert_eq!((room.taken(), room.waiting()), (1, 0));
        drop(last);
        assert_eq!(room.taken(), 0);
    }

    #[tokio::test]
    async fn more_room_is_given_to_those_who_wait() {
        let room = Room::new(1);
        let seat = room.seat(Priority::Critical).await;
        let (mut one, mut two) = (Box::pin(room.seat(Priority::Critical)), Box::pin(room.seat(Priority::Critical)));
        assert!(poll!(&mut one).is_pending() && poll!(&mut two).is_pending());
        room.limit_to(3);
        let seats = (one.now_or_never().unwrap(), two.now_or_never().unwrap());
        assert_eq!(room.taken(), 3);
        room.limit_to(1);
        drop(seats);
        assert!(!room.has_seat(Priority::Critical), "there is one still");
        drop(seat);
        assert!(room.has_seat(Priority::Critical));
    }
}
