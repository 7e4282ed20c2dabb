//! Lookups under way: whoever asks for the same thing meanwhile waits for the same answer.
//!
//! A flight belongs to all who wait for it: it goes on as long as one of them does, and is gone with the last, so that nobody is ever given what was read
//! long before he asked.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};

type Flight<T> = BoxFuture<'static, T>;

/// See the module's head.
pub(crate) struct Flights<T: Clone>(Arc<Mutex<Board<T>>>);

struct Board<T: Clone> {
    flights: HashMap<String, (u64, WeakShared<Flight<T>>)>,
    number: u64,
}

impl<T: Clone> fmt::Debug for Flights<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flights({})", lock(&self.0).flights.len())
    }
}

impl<T: Clone + Send + Sync + 'static> Flights<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Board { flights: HashMap::new(), number: 0 })))
    }

    /// The answer of the flight that is under way for this id, else of a new one.
    pub(crate) async fn join<F>(&self, id: &str, begin: impl FnOnce() -> F) -> T
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.board(id, begin).await
    }

    fn board<F>(&self, id: &str, begin: impl FnOnce() -> F) -> Shared<Flight<T>>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut board = lock(&self.0);
        let under_way = board.flights.get(id).and_then(|(_, flight)| flight.upgrade());
        // One that has landed is not joined: what it brought was read before.
        if let Some(flight) = under_way.filter(|flight| flight.peek().is_none()) {
            return flight;
        }
        board.number += 1;
        let landing = Landing { board: Arc::clone(&self.0), id: id.to_owned(), number: board.number };
        let whole = begin();
        let flight = async move {
            let _landing = landing;
            whole.await
        };
        let flight = flight.boxed().shared();
        if let Some(weak) = flight.downgrade() {
            let number = board.number;
            board.flights.insert(id.to_owned(), (number, weak));
        }
        flight
    }
}

/// Takes the flight off the board when it has landed, or when nobody waits for it any more.
struct Landing<T: Clone> {
    board: Arc<Mutex<Board<T>>>,
    id: String,
    number: u64,
}

impl<T: Clone> Drop for Landing<T> {
    fn drop(&mut self) {
        let mut board = lock(&self.board);
        if board.flights.get(&self.id).is_some_and(|(number, _)| *number == self.number) {
            board.flights.remove(&self.id);
        }
    }
}

fn lock<T: Clone>(board: &Mutex<Board<T>>) -> MutexGuard<'_, Board<T>> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::{future::join_all, poll};
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn those_who_come_meanwhile_share_the_answer_and_those_who_come_after_do_not() {
        let (flights, begun) = (Flights::new(), AtomicU32::new(0));
        let (land, landed) = oneshot::channel();
        let landed = landed.map(Result::unwrap).shared();
        let begin = || {
            begun.fetch_add(1, Ordering::Relaxed);
            landed.clone()
        };
        let mut waiting = Box::pin(join_all((0..9).map(|_| flights.join("a", begin))));
        assert!(poll!(waiting.as_mut()).is_pending());
        land.send(7).unwrap();
        assert_eq!(waiting.await, [7; 9]);
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        assert_eq!((flights.join("a", begin).await, flights.join("a", begin).await), (7, 7));
        assert_eq!(begun.load(Ordering::Relaxed), 3);
        assert_eq!(format!("{flights:?}"), "Flights(0)");
    }

    #[tokio::test]
    async fn when_the_first_leaves_the_others_are_served_and_when_all_leave_it_is_over() {
        let flights = Flights::<u32>::new();
        let (land, landed) = oneshot::channel::<u32>();
        let mut first = Box::pin(flights.join("a", || landed.map(Result::unwrap)));
        assert!(poll!(first.as_mut()).is_pending());
        let mut second = Box::pin(flights.join("a", || async { 0 }));
        assert!(poll!(second.as_mut()).is_pending(), "it is the first one's flight");
        drop(first);
        assert!(poll!(second.as_mut()).is_pending());
        land.send(7).unwrap();
        assert_eq!(second.await, 7);

        let mut alone = Box::pin(flights.join("a", std::future::pending));
        assert!(poll!(alone.as_mut()).is_pending());
        drop(alone);
        assert_eq!(format!("{flights:?}"), "Flights(0)");
        assert_eq!(flights.join("a", || async { 8 }).await, 8);
    }
}
