//! Ends that nobody has heard of, for no supervisor ran: found by the lanes, which still name those processes, and told once.
//!
//! How it ended is not known, unless its cgroup remembers that it ran out of memory; nor when, so that its uptime is what it was at most. The loss of a lead is an
//! exit like any other to whoever counts restarts. To the back-off it is a first one: how long it had served is not known, and its clients have waited already.

use std::time::SystemTime;

use gatehouse_proto::internal::v1::ExitRecord;
use jiff::Timestamp;

use super::Suite;
use crate::{
    child::{
        Ended, Exit, Memory,
        adopt::{self, Found},
    },
    control::millis,
};

impl Suite {
    /// `left` is what still runs. Before anything is started: a lane has room for one process only.
    pub(super) fn tell_unheard(&mut self, left: &[Found]) {
        for gone in adopt::unheard(self.parts.launcher.lanes(), left) {
            let (id, generation) = (gone.slot(), gone.generation);
            if !self.parts.ledger.has(id, generation, gone.pid) {
                self.tell(&gone, left);
            }
            self.parts.launcher.lanes().heard(id, gone.pid);
        }
    }

    fn tell(&mut self, gone: &Found, left: &[Found]) {
        let (id, generation) = (gone.slot(), gone.generation);
        let (component, instance) = (id.component.name(), id.instance);
        let Ended { exit, peak_rss_bytes } = self.parts.launcher.gone(gone);
        let exit = if exit == Exit::Unknown { Exit::Unseen } else { exit };
        let memory = self.parts.state.slot(id).memory;
        let was_asked = generation == memory.lead && (memory.draining || memory.stopped_by_operator);
        let cause = match exit {
            Exit::OutOfMemory => "out_of_memory",
            _ if was_asked => "asked",
            _ => "unseen",
        };
        let mut record = ExitRecord {
            at_ms: Timestamp::now().as_millisecond(),
            component: component.to_owned(),
            instance,
            generation,
            pid: gone.pid,
            exit: exit.to_string(),
            cause: cause.to_owned(),
            uptime_ms: SystemTime::now().duration_since(gone.started).map_or(0, millis),
            peak_rss_bytes,
            build: gone.build.clone(),
            next: self.next_of_unheard(gone, left, &memory).to_owned(),
            detail: if cause == "unseen" { String::new() } else { "no supervisor ran when it ended".to_owned() },
            ..ExitRecord::default()
        };
        if let Some(slot) = self.slot_mut(id) {
            if generation == memory.lead && !was_asked {
                slot.lost_unseen(exit.clone());
                record.exits_in_a_row = slot.machine.exits_in_a_row();
            } else {
                slot.earlier_exit = exit.to_string();
            }
        }
        self.parts.ledger.record(&record);
        tracing::warn!(component, instance, generation, child.pid = gone.pid, %exit, cause, next = record.next, "component ended while no supervisor ran");
    }

    /// What becomes of its slot.
    fn next_of_unheard(&self, gone: &Found, left: &[Found], memory: &Memory) -> &'static str {
        let is_left = |generation: u32| left.iter().any(|found| found.slot() == gone.slot() && found.generation == generation);
        match gone.generation {
            _ if memory.stopped_by_operator || self.slot(gone.slot()).is_none() => "stopped",
            generation if generation < memory.lead => "replaced",
            generation if generation > memory.lead && is_left(memory.lead) => "kept",
            _ => "restarted",
        }
    }
}
