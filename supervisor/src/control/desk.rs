//! Between those who ask for changes and the one driver that makes them: a bounded queue one way, a board of how each stands the other way.
//!
//! A change that was accepted is on the board and in the queue before its asker hears of it, and stays on the board until it is over. What the queue has no
//! room for is refused, never dropped.

use std::{collections::VecDeque, time::Duration};

use gatehouse_proto::internal::v1::{ChangeStatus, Step};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::timeout,
};

use super::{
    board::{Board, is_over},
    change::Order,
};

/// The longest that an asker waits until its change is written down.
const NOTED: Duration = Duration::from_secs(1);
/// Changes that are not over, at most.
pub(super) const QUEUE: usize = 256;

/// The askers' side. Clones share the desk.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    queue: mpsc::Sender<Order>,
    board: watch::Sender<Board>,
}

/// The driver's side. Dropped, it fails whatever is not over.
#[derive(Debug)]
pub(crate) struct DeskEnd {
    queue: mpsc::Receiver<Order>,
    /// From before this process: they stand first.
    restored: VecDeque<Order>,
    board: watch::Sender<Board>,
}

/// Room for one order.
#[derive(Debug)]
pub(crate) struct Seat {
    permit: mpsc::OwnedPermit<Order>,
    coming: Coming,
}

/// One order that is being recorded.
#[derive(Debug)]
struct Coming(watch::Sender<Board>);

impl Coming {
    /// Unless nothing is accepted now. What the driver has taken but not finished counts, so that its own queue is bounded by this one.
    fn new(board: &watch::Sender<Board>) -> Result<Self, NoSeat> {
        let mut no_seat = None;
        board.send_if_modified(|board| {
            no_seat = match () {
                () if board.paused => Some(NoSeat::Paused),
                () if board.waiting() + board.coming >= QUEUE => Some(NoSeat::Full),
                () => None,
            };
            board.coming += usize::from(no_seat.is_none());
            false
        });
        no_seat.map_or_else(|| Ok(Self(board.clone())), Err)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.send_modify(|board| board.coming -= 1);
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoSeat {
    #[error("{QUEUE} changes are queued already; try again when some are over")]
    Full,
    #[error("the suite is stopping and takes no more changes")]
    Closed,
    #[error("the supervisor is being replaced; ask again in a moment")]
    Paused,
}

impl Desk {
    /// Both sides.
    pub(crate) fn new() -> (Self, DeskEnd) {
        let (queue, orders) = mpsc::channel(QUEUE);
        let board = watch::Sender::default();
        (Self { queue, board: board.clone() }, DeskEnd { queue: orders, restored: VecDeque::new(), board })
    }

    /// Room for an order, before anything is written about it.
    pub(crate) fn reserve(&self) -> Result<Seat, NoSeat> {
        match self.queue.clone().try_reserve_owned() {
            Ok(permit) => Coming::new(&self.board).map(|coming| Seat { permit, coming }),
            Err(TrySendError::Full(_)) => Err(NoSeat::Full),
            Err(TrySendError::Closed(_)) => Err(NoSeat::Closed),
        }
    }

    /// Where all stand, and what happens to them.
    pub(crate) fn board(&self) -> watch::Receiver<Board> {
        self.board.subscribe()
    }

    /// How a change stands once it is over. `None`: nobody knows of it.
    pub(crate) async fn over(&self, id: &str) -> Option<ChangeStatus> {
        let mut board = self.board();
        // We hold a sender ourselves.
        let board = board.wait_for(|board| board.find(id).is_none_or(|change| is_over(&change))).await.ok()?;
        board.find(id)
    }

    /// Resolves when all that is on the board now has been noted for the next supervisor, or could not be for so long.
    pub(crate) async fn noted(&self) {
        let mut board = self.board();
        let puts = board.borrow().puts;
        // Without a disk the change goes ahead all the same.
        let _unnoted = timeout(NOTED, board.wait_for(|board| board.noted >= puts || board.closed)).await;
    }
}

impl Seat {
    /// Queues it. Whoever asks for it from now on is told. One whose driver leaves meanwhile is failed by that.
    pub(crate) fn take(self, order: Order) {
        let status = order.status("queued");
        // Under the board's lock both: a driver that closes comes before, and is seen, or after, and finds it.
        self.coming.0.send_modify(|board| {
            if board.closed {
                board.put(ended(status, LEFT));
            } else {
                board.put(status);
                self.permit.send(order);
            }
        });
    }
}

/// Said of changes that the end of the supervisor overtook.
const LEFT: &str = "the suite was stopped before";

impl DeskEnd {
    /// The next order. Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Order {
        if let Some(order) = self.restored.pop_front() {
            return order;
        }
        match self.queue.recv().await {
            Some(order) => order,
            // Nobody can ask any more.
            None => std::future::pending().await,
        }
    }

    /// Shows how a change stands: running with the steps so far, done or failed with its verdict.
    pub(crate) fn publish(&self, status: ChangeStatus) {
        self.board.send_modify(|board| board.put(status));
    }

    /// Once it is polled, nothing is accepted any more; it resolves when all that was being recorded is queued: what [`DeskEnd::snapshot`] then says is
    /// complete.
    pub(crate) fn paused(&self) -> impl Future<Output = ()> + use<> {
        let board = self.board.clone();
        async move {
            board.send_modify(|board| board.paused = true);
            // We hold a sender ourselves.
            let mut board = board.subscribe();
            let _settled = board.wait_for(|board| board.coming == 0).await;
        }
    }

    /// Goes on after all.
    pub(crate) fn resume(&self) {
        self.board.send_modify(|board| board.paused = false);
    }

    /// What has been done for a change.
    pub(crate) fn steps(&self, id: &str) -> Option<Vec<Step>> {
        self.board.borrow().find(id).map(|change| change.steps)
    }

    /// How far the board has got: for [`DeskEnd::noted`], asked before the snapshot.
    pub(crate) fn puts(&self) -> u64 {
        self.board.borrow().puts
    }

    /// So far it stands in the state file.
    pub(crate) fn noted(&self, puts: u64) {
        self.board.send_if_modified(|board| std::mem::replace(&mut board.noted, puts) < puts);
    }

    /// For the state file: what is remembered, oldest first.
    pub(crate) fn snapshot(&self) -> Vec<ChangeStatus> {
        self.board.borrow().all().cloned().collect()
    }

    /// From the state file: what was queued is queued again, before everything new. Returns what was running, for the driver to go on with or to fail.
    pub(crate) fn restore(&mut self, changes: Vec<ChangeStatus>) -> Vec<Order> {
        let mut running = Vec::new();
        for status in changes {
            match (status.state.as_str(), Order::of(&status)) {
                ("queued", Some(order)) => self.restored.push_back(order),
                ("running", Some(order)) => running.push(order),
                ("queued" | "running", None) => {
                    self.publish(ended(status, "this build does not know such a change"));
                    continue;
                }
                _ => {}
            }
            self.publish(status);
        }
        running
    }

    /// Takes no more orders, and fails those that are not over.
    pub(crate) fn close(&mut self, why: &str) {
        self.queue.close();
        self.restored.clear();
        self.board.send_modify(|board| {
            for status in board.open() {
                board.put(ended(status, why));
            }
            board.closed = true;
        });
    }
}

impl Drop for DeskEnd {
    fn drop(&mut self) {
        self.close(LEFT);
    }
}

fn ended(status: ChangeStatus, why: &str) -> ChangeStatus {
    ChangeStatus { state: "failed".to_owned(), verdict: why.to_owned(), took_ms: 0, ..status }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn order(id: usize) -> Order {
        let change = "restart edge".parse().unwrap();
        Order { id: id.to_string(), actor: "root (uid 0)".into(), reason: String::new(), change, queued: SystemTime::now() }
    }

    fn state(desk: &Desk, id: &str) -> Option<String> {
        desk.board().borrow().find(id).map(|change| change.state)
    }

    #[tokio::test]
    async fn what_is_accepted_comes_out_in_order_and_what_does_not_fit_is_refused() {
        let (desk, mut end) = Desk::new();
        for id in 0..QUEUE {
            desk.reserve().unwrap().take(order(id));
        }
        assert_eq!(desk.reserve().unwrap_err(), NoSeat::Full);
        for id in 0..QUEUE {
            assert_eq!(end.next().await.id, id.to_string());
        }
        assert_eq!(desk.reserve().unwrap_err(), NoSeat::Full, "the driver has them, and none is over");
        end.publish(order(0).status("done"));
        desk.reserve().unwrap().take(order(QUEUE));
        assert_eq!(state(&desk, "1").unwrap(), "queued", "until the driver says otherwise");
    }

    #[tokio::test]
    async fn a_verdict_comes_when_the_change_is_over_and_for_an_unknown_one_at_once() {
        let (desk, end) = Desk::new();
        desk.reserve().unwrap().take(order(1));
        let driver = async {
            for state in ["running", "running", "done"] {
                tokio::task::yield_now().await;
                end.publish(ChangeStatus { verdict: "ready".into(), ..order(1).status(state) });
            }
        };
        let (verdict, ()) = tokio::join!(desk.over("1"), driver);
        assert_eq!(verdict.map(|change| (change.state, change.verdict)), Some(("done".into(), "ready".into())));
        assert_eq!(desk.over("2").await, None);
    }

    #[tokio::test]
    async fn as_many_as_can_wait_and_are_concluded_at_once_all_have_their_verdict() {
        let (desk, mut end) = Desk::new();
        for id in 0..QUEUE {
            desk.reserve().unwrap().take(order(id));
        }
        let waiters = futures_util::future::join_all((0..QUEUE).map(async |id| desk.over(&id.to_string()).await));
        let driver = async {
            let mut orders = Vec::new();
            for _ in 0..QUEUE {
                orders.push(end.next().await);
            }
            // In one go: nobody who waits runs between two of them.
            for order in &orders {
                end.publish(order.status("done"));
            }
        };
        let (verdicts, ()) = tokio::join!(waiters, driver);
        assert!(verdicts.iter().all(|verdict| verdict.as_ref().is_some_and(is_over)));
        assert_eq!(desk.board().borrow().all().filter(|change| is_over(change)).count(), QUEUE, "for the trail, which looks later as well");
    }

    #[tokio::test]
    async fn the_next_supervisor_goes_on_where_the_last_one_was() {
        let (desk, end) = Desk::new();
        (1..=4).for_each(|id| desk.reserve().unwrap().take(order(id)));
        end.publish(order(1).status("done"));
        end.publish(order(2).status("running"));
        end.publish(ChangeStatus { what: "fly".into(), ..order(4).status("queued") });
        let left = end.snapshot();
        let (next, mut next_end) = Desk::new();
        let running = next_end.restore(left);
        next.reserve().unwrap().take(order(5));
        assert_eq!(running.iter().map(|order| order.id.as_str()).collect::<Vec<_>>(), ["2"]);
        assert_eq!([next_end.next().await.id, next_end.next().await.id], ["3", "5"]);
        let states = ["1", "2", "3", "4"].map(|id| state(&next, id).unwrap());
        assert_eq!(states, ["done", "running", "queued", "failed"]);
    }

    #[tokio::test]
    async fn a_handover_waits_for_what_is_being_recorded_and_accepts_nothing_until_it_is_called_off() {
        let (desk, end) = Desk::new();
        let (seat, given_up) = (desk.reserve().unwrap(), desk.reserve().unwrap());
        let recorded = async {
            tokio::task::yield_now().await;
            assert_eq!(desk.reserve().unwrap_err(), NoSeat::Paused);
            drop(given_up);
            tokio::task::yield_now().await;
            seat.take(order(1));
        };
        tokio::join!(end.paused(), recorded);
        assert_eq!(end.snapshot().len(), 1);
        end.resume();
        desk.reserve().unwrap().take(order(2));
        assert_eq!(end.snapshot().len(), 2);
    }

    #[tokio::test]
    async fn a_driver_that_leaves_fails_what_is_not_over() {
        let (desk, end) = Desk::new();
        desk.reserve().unwrap().take(order(1));
        end.publish(order(2).status("done"));
        let late = desk.reserve().unwrap();
        drop(end);
        late.take(order(3));
        for id in ["1", "3"] {
            assert_eq!(desk.over(id).await.map(|change| (change.state, change.verdict)), Some(("failed".into(), LEFT.into())));
        }
        assert_eq!(state(&desk, "2").unwrap(), "done");
        assert_eq!(desk.reserve().unwrap_err(), NoSeat::Closed);
        assert!(desk.board().borrow().closed);
    }
}
