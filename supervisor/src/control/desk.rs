//! Between operators and the driver: what is wanted goes in, where it stands comes out.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use gatehouse_proto::internal::v1::ChangeStatus;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::component::Component;

/// Changes that are remembered once they are over.
const PAST: usize = 100;
/// Changes that may wait for the driver.
const QUEUE: usize = 256;

/// What an operator wants, as the driver receives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Order {
    /// UUIDv7.
    pub(crate) id: String,
    pub(crate) actor: String,
    pub(crate) reason: String,
    pub(crate) change: Change,
    pub(crate) queued: SystemTime,
}

/// What is to be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Restart(Target),
    Stop(Target),
    Start(Target),
    Scale { instances: u32 },
    Upgrade { directory: Option<PathBuf> },
}

/// Which instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    pub(crate) component: Component,
    /// `None`: all, one after the other.
    pub(crate) instance: Option<u32>,
}

/// The operators' side.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) orders: mpsc::Sender<Order>,
    board: Arc<Mutex<VecDeque<ChangeStatus>>>,
}

/// The driver's side.
#[derive(Debug)]
pub(crate) struct DeskEnd {
    orders: mpsc::Receiver<Order>,
    board: Arc<Mutex<VecDeque<ChangeStatus>>>,
}

impl Desk {
    pub(crate) fn new() -> (Self, DeskEnd) {
        let (sender, orders) = mpsc::channel(QUEUE);
        let board = Arc::<Mutex<_>>::default();
        (Self { orders: sender, board: Arc::clone(&board) }, DeskEnd { orders, board })
    }

    pub(crate) fn find(&self, id: &str) -> Option<ChangeStatus> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).iter().find(|status| status.change_id == id).cloned()
    }
}

impl DeskEnd {
    /// The next order. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Order {
        match self.orders.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    /// Where a change stands.
    pub(crate) fn publish(&self, status: ChangeStatus) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        match board.iter_mut().find(|known| known.change_id == status.change_id) {
            Some(known) => *known = status,
            None => {
                if board.len() == PAST {
                    board.pop_front();
                }
                board.push_back(status);
            }
        }
    }

    /// Those that are remembered.
    pub(crate) fn snapshot(&self) -> Vec<ChangeStatus> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// What the last supervisor remembered.
    pub(crate) fn restore(&self, past: Vec<ChangeStatus>) {
        past.into_iter().for_each(|status| self.publish(status));
    }
}
