//! Where all can see how each change stands.

use std::collections::VecDeque;

use gatehouse_proto::internal::v1::ChangeStatus;
use jiff::Timestamp;

use super::desk::QUEUE;

/// Changes that are over and still remembered. More than can be open: those that are concluded at once, by one pass of the driver, are all there when who
/// waits for them looks.
const REMEMBERED: usize = QUEUE + 44;

/// Oldest first. What is not over is never forgotten.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board {
    changes: VecDeque<ChangeStatus>,
    /// The driver has gone; nothing changes any more.
    pub(crate) closed: bool,
    /// The driver is handing over to the next; nothing is accepted meanwhile.
    pub(super) paused: bool,
    /// Orders that are being recorded and will be queued.
    pub(super) coming: usize,
    /// How often something was put up.
    pub(super) puts: u64,
    /// Up to which of these the state file has been written.
    pub(super) noted: u64,
}

impl Board {
    /// Puts it up, in the place of what was known of the same change.
    pub(crate) fn put(&mut self, mut status: ChangeStatus) {
        self.puts += 1;
        if is_over(&status) && status.took_ms == 0 {
            status.took_ms = age(&status);
        }
        match self.changes.iter_mut().find(|known| known.change_id == status.change_id) {
            Some(known) => *known = status,
            None => self.changes.push_back(status),
        }
        let over = self.changes.iter().filter(|change| is_over(change)).count();
        for _ in REMEMBERED..over {
            let oldest = self.changes.iter().position(is_over);
            oldest.and_then(|oldest| self.changes.remove(oldest));
        }
    }

    /// One of them.
    pub(crate) fn find(&self, id: &str) -> Option<ChangeStatus> {
        self.changes.iter().find(|change| change.change_id == id).map(timed)
    }

    /// Newest first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<ChangeStatus> {
        self.changes.iter().rev().take(limit).map(timed).collect()
    }

    /// Queued and running, oldest first.
    pub(crate) fn open(&self) -> Vec<ChangeStatus> {
        self.changes.iter().filter(|change| !is_over(change)).map(timed).collect()
    }

    /// How many are queued or running.
    pub(super) fn waiting(&self) -> usize {
        self.changes.iter().filter(|change| !is_over(change)).count()
    }

    /// All, oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &ChangeStatus> {
        self.changes.iter()
    }
}

/// Whether it has its verdict.
pub(crate) fn is_over(status: &ChangeStatus) -> bool {
    matches!(status.state.as_str(), "done" | "failed")
}

fn timed(status: &ChangeStatus) -> ChangeStatus {
    let took_ms = if is_over(status) { status.took_ms } else { age(status) };
    ChangeStatus { took_ms, ..status.clone() }
}

/// Since it was queued. By the wall clock, which goes on while one supervisor hands over to the next.
fn age(status: &ChangeStatus) -> u64 {
    u64::try_from(Timestamp::now().as_millisecond().saturating_sub(status.queued_ms)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(id: usize, state: &str) -> ChangeStatus {
        let queued_ms = Timestamp::now().as_millisecond() - 1000;
        ChangeStatus { change_id: id.to_string(), state: state.into(), queued_ms, ..ChangeStatus::default() }
    }

    #[test]
    fn the_oldest_that_are_over_are_forgotten_and_what_is_not_over_never() {
        let mut board = Board::default();
        board.put(status(0, "running"));
        (1..500).for_each(|id| board.put(status(id, "queued")));
        (1..=REMEMBERED + 50).for_each(|id| board.put(status(id, "done")));
        assert_eq!(board.open().len(), 500 - (REMEMBERED + 50));
        assert!(board.find("50").is_none() && board.find("51").is_some() && board.find("0").is_some());
        assert_eq!(board.newest(2).iter().map(|change| change.change_id.as_str()).collect::<Vec<_>>(), ["499", "498"]);
    }

    #[test]
    fn the_time_of_a_change_runs_until_it_is_over() {
        let mut board = Board::default();
        board.put(status(1, "running"));
        assert!(board.find("1").unwrap().took_ms >= 1000);
        board.put(ChangeStatus { took_ms: 7, ..status(1, "done") });
        assert_eq!(board.find("1").unwrap().took_ms, 7, "as the driver says");
        board.put(status(2, "failed"));
        assert!(board.find("2").unwrap().took_ms >= 1000, "or else as it is now");
    }
}
