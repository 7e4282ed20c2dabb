//! A child that makes no progress: dumped, aborted, and then replaced like any that ended.

use std::time::Instant;

use futures_util::FutureExt as _;

use super::{State, Suite};
use crate::{component::label, dump};

/// Messages that are read before children are judged: more than the queue of the socket holds.
const QUEUE: usize = 1024;

impl Suite {
    /// Hears what was said first: a child whose words wait in our queue is not silent.
    pub(super) fn look_for_hangs(&mut self) {
        for _ in 0..QUEUE {
            let Some((pid, words)) = self.notifications.try_next() else { break };
            self.said(pid, words);
        }
        let now = self.attention.look(Instant::now());
        for i in 0..self.slots.len() {
            if let Some(silence) = self.slots[i].overdue(now) {
                self.hang(i, &format!("silent for {:.1} s", silence.as_secs_f64()));
            }
        }
    }

    /// It hangs, as it says itself or as its silence does.
    pub(super) fn hang(&mut self, i: usize, what: &str) {
        let slot = &mut self.slots[i];
        if !matches!(slot.machine.state(), State::Ready { .. }) {
            return;
        }
        let Some(pid) = slot.begin_hang() else { return };
        let (component, instance) = (slot.component.name(), slot.instance);
        tracing::error!(component, instance, child.pid = pid, "component hung: {what}");
        let subject = format!("{}.g{}", label(slot.component, instance), slot.machine.spawns());
        let dump = dump::threads(pid, &subject, what, &self.process.shared().state_dir.join("dumps"));
        let dumped = async move {
            match dump.await {
                Ok(path) => tracing::info!(component, instance, child.pid = pid, "its threads are dumped in {}", path.display()),
                Err(error) => tracing::warn!(component, instance, child.pid = pid, %error, "its threads are not dumped"),
            }
            (i, pid)
        };
        self.dumps.push(dumped.boxed_local());
    }

    /// What can be known about it is known.
    pub(super) fn dumped(&mut self, i: usize, pid: u32) {
        let slot = &mut self.slots[i];
        if slot.pid() == Some(pid) {
            slot.abort(Instant::now());
        }
    }
}
