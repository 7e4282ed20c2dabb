//! A child that makes no progress: another takes its place at once, while it is dumped, aborted, and killed if that does not end it. Redis, of which there can be
//! only one, is replaced when it has ended; what it had acknowledged was on the disk (`appendfsync always`).

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use gatehouse_chassis::backoff::random_unit;

use super::{Event, SlotId, Suite, Wake, answers::Answers};
use crate::{component::label, dump, notify::Word, watch::Awake};

/// Dumps at the same time. Each is a process that reads symbol tables, for a second at most; of many that hang for the same reason, some are enough.
const DUMPS: usize = 4;
/// Messages that are read before children are judged: more than the queue of the socket holds.
const QUEUE: usize = 1024;

impl Suite {
    /// Most of what wakes us: somebody who serves is alive, or it is time to look and all is well. Nothing follows from it, and it is done here, for
    /// next to nothing.
    pub(super) fn is_routine(&mut self, wake: &Wake) -> bool {
        match wake {
            Wake::Said(pid, words) => {
                let now = self.attention.look(Instant::now());
                let is_beat = words.contains(&Word::Alive) && words.iter().all(|word| matches!(word, Word::Alive | Word::Ready));
                let serves =
                    self.slots.iter_mut().find(|slot| slot.machine.is_ready() && slot.generation_of(*pid) == Some(slot.machine.lead()));
                let Some(slot) = serves.filter(|_| is_beat) else { return false };
                slot.alive(slot.machine.lead(), now);
                self.sample_memory(Instant::now());
                !self.is_anybody_doubtful(now) || !self.look_for_hangs()
            }
            Wake::Answered(id, generation) if self.slot(*id).is_some_and(|slot| slot.machine.is_ready()) => {
                let now = self.attention.look(Instant::now());
                self.alive(*id, *generation);
                !self.is_anybody_doubtful(now) || !self.look_for_hangs()
            }
            Wake::Look => !self.look_for_hangs(),
            Wake::Paths => {
                self.restore_paths();
                true
            }
            _ => false,
        }
    }

    fn is_anybody_doubtful(&self, now: Awake) -> bool {
        self.slots.iter().any(|slot| slot.watch().is_some_and(|watch| watch.is_doubtful(now)))
    }

    fn is_anybody_overdue(&self, now: Awake) -> bool {
        self.slots.iter().any(|slot| slot.watch().is_some_and(|watch| watch.is_overdue(now)))
    }

    /// Whether anything but silence was heard or found. Hears what was said first: a child whose words wait in our queue is not silent.
    pub(super) fn look_for_hangs(&mut self) -> bool {
        let mut found = false;
        for _ in 0..QUEUE {
            let Some((pid, words)) = self.parts.notifications.try_next() else { break };
            found |= words.iter().any(|word| *word != Word::Alive);
            self.said(pid, &words);
        }
        while let Some((id, generation)) = self.answers.as_mut().and_then(Answers::try_next) {
            // The first answer is its readiness.
            found |= self.slot(id).is_some_and(|slot| !slot.machine.is_ready());
            self.answered(id, generation);
        }
        self.sample_memory(Instant::now());
        let now = self.attention.look(Instant::now());
        if self.is_anybody_overdue(now) && self.restore_paths() {
            return found;
        }
        for id in self.ids() {
            let Some(slot) = self.slot_mut(id) else { continue };
            let Some(watch) = slot.watch().filter(|watch| watch.is_doubtful(now)) else { continue };
            let (generation, silence) = (slot.machine.lead(), watch.silence(now));
            if slot.hangs(generation, silence, now) {
                self.hang(id, generation, &format!("silent for {:.1} s", silence.as_secs_f64()));
                found = true;
            }
        }
        found
    }

    /// Redis did, when it was asked.
    pub(super) fn answered(&mut self, id: SlotId, generation: u32) {
        self.step(id, Event::Ready(generation));
        self.alive(id, generation);
    }

    pub(super) fn alive(&mut self, id: SlotId, generation: u32) {
        let now = self.attention.now();
        if let Some(slot) = self.slot_mut(id) {
            slot.alive(generation, now);
        }
    }

    pub(super) fn extend(&mut self, id: SlotId, generation: u32, by: Duration) {
        let now = self.attention.now();
        if let Some(slot) = self.slot_mut(id) {
            slot.extend(generation, now, by);
        }
    }

    /// It hangs, as it says itself or as its silence does. Once; and only one that serves: for others there are deadlines.
    pub(super) fn hang(&mut self, id: SlotId, generation: u32, what: &str) {
        let Some(slot) = self.slot_mut(id).filter(|slot| slot.machine.is_ready() && slot.machine.lead() == generation) else { return };
        if slot.is_traced(generation) {
            return;
        }
        let Some(process) = slot.process_mut(generation).filter(|process| process.hung.is_none()) else { return };
        process.hung = Some(what.to_owned());
        let (component, instance, pid) = (id.component.name(), id.instance, process.launched.pid);
        tracing::error!(component, instance, generation, child.pid = pid, "component hung: {what}");
        self.step(id, Event::Hung { generation, draw: random_unit() });
    }

    /// Dumps its threads, and aborts it when that is done; at once, when others are being dumped already.
    pub(super) fn abort_hung(&mut self, id: SlotId, generation: u32) {
        let dumps = self.parts.process.shared().state_dir.join("dumps");
        let Some(process) = self.slot(id).and_then(|slot| slot.process(generation)) else { return };
        let (component, instance, pid) = (id.component.name(), id.instance, process.launched.pid);
        if self.dumps.len() >= DUMPS {
            tracing::warn!(component, instance, child.pid = pid, "its threads are not dumped, for those of {DUMPS} others are just being");
            return self.dumped(id, generation, None);
        }
        let subject = format!("{}.g{generation}", label(id));
        let dump = dump::threads(pid, &subject, process.hung.as_deref().unwrap_or_default(), &dumps);
        let dumped = async move {
            let dump = dump.await;
            match &dump {
                Ok(path) => tracing::info!(component, instance, child.pid = pid, "its threads are dumped in {}", path.display()),
                Err(error) => tracing::warn!(component, instance, child.pid = pid, %error, "its threads are not dumped"),
            }
            (id, generation, dump.ok())
        };
        self.dumps.push(dumped.boxed_local());
    }

    /// What can be known about it is known.
    pub(super) fn dumped(&mut self, id: SlotId, generation: u32, dump: Option<PathBuf>) {
        if let Some(process) = self.slot_mut(id).and_then(|slot| slot.process_mut(generation)) {
            process.dump = dump;
            process.launched.abort();
        }
    }
}
