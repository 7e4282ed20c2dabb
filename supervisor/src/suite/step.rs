//! One event through one machine, and what it wants done.

use std::time::Instant;

use futures_util::FutureExt as _;
use gatehouse_chassis::backoff::random_unit;

use super::Suite;
use crate::{
    child::{Action, Ended, Event, Exit, Other, Reason, State, Then},
    component::{Component, SlotId},
    control::millis,
};

impl Suite {
    /// One event through one machine, and what follows from it.
    pub(super) fn step(&mut self, id: SlotId, event: Event) {
        let now = Instant::now();
        let Some(slot) = self.slot_mut(id) else { return };
        let before = slot.machine.clone();
        match event {
            // It still runs when its successor is started, perhaps after a back-off.
            Event::Hung { generation, .. } if generation == before.lead() => slot.lost = Some(Reason::Hung),
            Event::Leaving { generation, .. } if generation == before.lead() => slot.lost = Some(Reason::Exit),
            _ => {}
        }
        let (machine, actions) = slot.machine.clone().on(event, now);
        slot.machine = machine;
        let after = slot.machine.state();
        if let State::Ready { since } = after
            && since == now
        {
            self.became_ready(id, now);
        }
        let is_ready = matches!(after, State::Ready { .. });
        self.parts.metrics.up(id, is_ready);
        if actions.iter().any(|action| matches!(action, Action::Terminate(_))) {
            // First it is written down: who is asked a second time, by a supervisor that knows nothing of the first, aborts its drain.
            self.remember_slots();
        }
        for action in actions {
            match action {
                Action::Spawn(generation) => self.spawn(id, generation, self.reason_to_spawn(id, event, before.state())),
                Action::Terminate(generation) => self.terminate(id, generation, now),
                Action::Abort(generation) => self.abort_hung(id, generation),
                Action::Kill(generation) => self.kill(
                    id,
                    generation,
                    matches!(before.other(), Some(Other::Successor { generation: successor, .. }) if successor == generation)
                        || matches!(before.state(), State::Starting { .. }) && before.lead() == generation,
                ),
            }
        }
        self.note_stop(id, now);
    }

    fn became_ready(&mut self, id: SlotId, now: Instant) {
        let awake = self.attention.now();
        let Some(slot) = self.slot_mut(id) else { return };
        slot.ready_once = true;
        let generation = slot.machine.lead();
        // All of ours have been told to show progress; one that hangs before it first does hangs, too.
        slot.alive(generation, awake);
        let Some(process) = slot.process_mut(generation) else { return };
        let took = now.duration_since(process.since);
        process.ready_after = Some(took);
        self.parts.metrics.started(id, took);
        let (component, instance) = (id.component.name(), id.instance);
        tracing::info!(component, instance, generation, start_ms = millis(took), "component ready");
    }

    /// What has ended itself or was asked to end is asked only once; from when on is counted for the report.
    fn note_stop(&mut self, id: SlotId, now: Instant) {
        let Some(slot) = self.slot_mut(id) else { return };
        let lead = slot.machine.lead();
        if matches!(slot.machine.state(), State::Draining { then: Then::Stop | Then::Again, .. })
            && let Some(process) = slot.process_mut(lead)
        {
            process.asked.get_or_insert(now);
        }
    }

    /// Why a process is started in place of another; nothing for a slot's first.
    fn reason_to_spawn(&self, id: SlotId, event: Event, before: State) -> Option<Reason> {
        let slot = self.slot(id)?;
        match (event, before) {
            (Event::Restart | Event::Start, _) | (_, State::Draining { then: Then::Again, .. }) => Some(Reason::Operator),
            _ => slot.lost,
        }
    }

    pub(super) fn spawn(&mut self, id: SlotId, generation: u32, reason: Option<Reason>) {
        let (component, instance) = (id.component, id.instance);
        if let Some(reason) = reason {
            self.parts.metrics.restarted(id, reason);
        }
        if let Err(error) = self.parts.launcher.sockets_mut().restore_local(component, instance) {
            tracing::error!(component = component.name(), instance, error, "its local socket is gone and cannot be bound again");
        }
        let launched = self.parts.launcher.launch(id, generation);
        let Some(slot) = self.slot_mut(id) else { return };
        slot.restarts += u32::from(reason.is_some());
        slot.stale = false;
        let (launched, ended) = match launched {
            Ok(launched) => launched,
            Err(error) => {
                // Through the queue like any other end: a machine is not entered twice.
                let ended = Ended { exit: Exit::NotStarted(error.to_string()), peak_rss_bytes: 0 };
                self.exits.push(std::future::ready((id, generation, ended)).boxed_local());
                return;
            }
        };
        let (child, build, lane) = (launched.pid, &launched.build, launched.lane.as_deref().unwrap_or_default());
        tracing::info!(component = component.name(), instance, generation, child.pid = child, build, lane, "component starting");
        slot.run(launched);
        self.exits.push(ended.map(move |ended| (id, generation, ended)).boxed_local());
        self.ask(id, generation);
    }

    pub(super) fn terminate(&mut self, id: SlotId, generation: u32, now: Instant) {
        if let Some(process) = self.slot_mut(id).and_then(|slot| slot.process_mut(generation)) {
            process.asked.get_or_insert(now);
            process.launched.terminate();
        }
    }

    /// SIGKILL. `too_slow`: for not being ready in time, if it is not the suite's end.
    pub(super) fn kill(&mut self, id: SlotId, generation: u32, too_slow: bool) {
        let ending = self.aborted;
        if let Some(process) = self.slot_mut(id).and_then(|slot| slot.process_mut(generation)) {
            process.killed = true;
            process.too_slow = too_slow && !ending && process.asked.is_none();
            let (component, instance, pid) = (id.component.name(), id.instance, process.launched.pid);
            tracing::warn!(component, instance, generation, child.pid = pid, "component killed");
            process.launched.kill();
        }
    }

    pub(super) fn exited(&mut self, id: SlotId, generation: u32, end: Ended) {
        let now = Instant::now();
        let Some(slot) = self.slot_mut(id) else { return };
        let (pid, uptime) = slot.process(generation).map(|process| (process.launched.pid, now.duration_since(process.since))).unzip();
        let before = slot.machine.clone();
        let is_successor = matches!(before.other(), Some(Other::Successor { generation: successor, .. }) if successor == generation);
        let ended = slot.ended(generation, end, now);
        if before.lead() == generation {
            slot.lost = Some(ended.exit.reason());
        }
        if let Some(stopped) = &ended.stopped {
            self.parts.metrics.stopped(id, stopped.outcome.label(), stopped.took);
        }
        if id.component == Component::Redis {
            self.answers = None;
        }
        // First, for a failed start restarts nobody.
        self.check_start(id, &ended.exit);
        self.step(id, Event::Exited { generation, is_final: ended.exit.is_final(), draw: random_unit() });
        self.record(id, &ended, uptime.unwrap_or_default(), &before);
        if let Some(pid) = pid {
            self.parts.launcher.lanes().heard(id, pid);
        }
        let Some(slot) = self.slot(id) else { return };
        let (component, instance, next) = (id.component.name(), id.instance, slot.machine.label());
        let (uptime_ms, exit, peak_rss_bytes) = (millis(uptime.unwrap_or_default()), &ended.exit, ended.peak_rss_bytes);
        match slot.machine.state() {
            _ if ended.stopped.is_some() => {
                tracing::info!(component, instance, generation, child.pid = pid, %exit, uptime_ms, peak_rss_bytes, "component ended");
            }
            State::Stopped => tracing::debug!(component, instance, generation, %exit, uptime_ms, peak_rss_bytes, "component ended"),
            State::Quarantined { .. } => {
                tracing::error!(component, instance, generation, %exit, uptime_ms, reason = slot.detail(), "component quarantined");
            }
            _ if is_successor => {
                tracing::error!(component, instance, generation, %exit, uptime_ms, "component not replaced: the new one ended");
            }
            _ => tracing::warn!(component, instance, generation, %exit, uptime_ms, peak_rss_bytes, next, "component exited"),
        }
    }
}
