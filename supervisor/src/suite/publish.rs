//! What others are told of the suite: operators, edges, systemd, and the supervisor that comes after this one.

use std::time::Instant;

use gatehouse_proto::internal::v1::{Member, Members, StatusResponse};
use sd_notify::NotifyState;

use super::{Phase, Suite, slot::Slot};
use crate::{
    component::{Component, DRAIN_STAGES},
    control::{Snapshot, summary},
    state::SlotRecord,
};

impl Suite {
    /// After every event.
    pub(super) fn publish(&self, ready: bool) {
        let (instances, started): (Vec<_>, Vec<Option<Instant>>) = self.slots.iter().flat_map(Slot::statuses).unzip();
        let draining = matches!(self.phase, Phase::Draining { .. });
        let line = summary(&instances);
        let status = StatusResponse {
            ready: ready && !draining && self.phase == Phase::Serving,
            draining,
            instances,
            listeners: self.parts.launcher.sockets().listed(),
            build: self.build.clone(),
            ..StatusResponse::default()
        };
        let changed = self.parts.ends.snapshot.send_if_modified(|snapshot| {
            let changed = snapshot.status != status || snapshot.started != started;
            *snapshot = Snapshot { status, started };
            changed
        });
        self.publish_members();
        // systemd alone reads it, if it is there.
        let _unread = changed.then(|| sd_notify::notify(&[NotifyState::Status(&line)]));
    }

    /// To be called before one that is removed is asked to drain, so that nobody brings its streams back to it.
    pub(super) fn publish_members(&self) {
        let members = self.members();
        self.parts.ends.members.send_if_modified(|published| {
            let changed = *published != members;
            *published = members;
            changed
        });
    }

    /// Who takes new work. One that crashed belongs to them, or is being replaced: its clients wait for the next generation.
    fn members(&self) -> Members {
        let drained = if let Phase::Draining { stage } = self.phase { DRAIN_STAGES.get(..=stage).unwrap_or(&DRAIN_STAGES) } else { &[] };
        let stops = |slot: &Slot| {
            slot.leaving || slot.machine.is_stopped_by_operator() || drained.iter().any(|stage| stage.contains(&slot.id.component))
        };
        let ours = self.slots.iter().filter(|slot| slot.id.component != Component::Redis && !stops(slot));
        // An added one that has never been ready is not there yet.
        let there = ours.filter(|slot| slot.ready_once || !self.jobs.is_adding(slot.id));
        let member = |slot: &Slot| Member { component: slot.id.component.name().to_owned(), instance: slot.id.instance };
        Members { members: there.map(member).collect() }
    }

    /// For the next supervisor.
    pub(super) fn remember(&mut self) {
        let puts = self.parts.ends.desk.puts();
        self.parts.state.note_changes(self.parts.ends.desk.snapshot());
        self.remember_slots();
        // Later, when the disk stands still.
        if self.parts.state.is_tried() {
            self.parts.ends.desk.noted(puts);
        }
    }

    /// The same without changes: those of the supervisor before may not have been read yet.
    pub(super) fn remember_slots(&mut self) {
        for slot in &self.slots {
            let mut memory = slot.machine.memory(&self.moment);
            // One that is removed is not one that an operator stopped.
            memory.stopped_by_operator &= !slot.leaving;
            let stopped_by = slot.stopped_by.clone().filter(|_| memory.stopped_by_operator);
            self.parts.state.note_slot(slot.id, SlotRecord { memory, restarts: slot.restarts, stopped_by });
        }
        self.parts.state.note_starting(matches!(self.phase, Phase::Starting { .. }));
        let had_room = self.parts.state.is_written();
        self.parts.state.write();
        if !had_room && self.parts.state.is_written() {
            // It lies on the same disk, and waits for the next exit otherwise.
            self.parts.ledger.flush_soon();
        }
    }
}
