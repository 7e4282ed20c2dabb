//! A child that makes no progress: dumped, aborted, and then replaced like any that ended.

use std::time::Instant;

use futures_util::FutureExt as _;

use super::{State, Suite, Wake, slot::Slot};
use crate::{component::label, dump, notify::Word};

/// Messages that are read before children are judged: more than the queue of the socket holds.
const QUEUE: usize = 1024;

impl Suite {
    /// Most of what wakes us: somebody who is ready is alive, or it is time to look and all is well. Nothing follows from it, and it is done here, for
    /// next to nothing.
    pub(super) fn is_routine(&mut self, wake: &Wake) -> bool {
        match wake {
            Wake::Said(pid, words) => {
                let now = self.attention.look(Instant::now());
                let is_ready = |slot: &&mut Slot| slot.pid() == Some(*pid) && matches!(slot.machine.state(), State::Ready { .. });
                let beat = words.contains(&Word::Alive) && words.iter().all(|word| matches!(word, Word::Alive | Word::Ready));
                let slot = beat.then(|| self.slots.iter_mut().find(is_ready)).flatten();
                let Some(slot) = slot else { return false };
                slot.alive(now);
                let overdue = self.slots.iter().any(|slot| slot.overdue(now).is_some());
                !overdue || !self.look_for_hangs()
            }
            Wake::Look => !self.look_for_hangs(),
            _ => false,
        }
    }

    /// Whether anything but silence was heard or found. Hears what was said first: a child whose words wait in our queue is not silent.
    pub(super) fn look_for_hangs(&mut self) -> bool {
        let mut found = false;
        for _ in 0..QUEUE {
            let Some((pid, words)) = self.notifications.try_next() else { break };
            found |= words.iter().any(|word| *word != Word::Alive);
            self.said(pid, words);
        }
        let now = self.attention.look(Instant::now());
        for i in 0..self.slots.len() {
            if let Some(silence) = self.slots[i].overdue(now) {
                self.hang(i, &format!("silent for {:.1} s", silence.as_secs_f64()));
                found = true;
            }
        }
        found
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
