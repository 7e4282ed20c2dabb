//! An end as the ledger keeps it: what was seen, why it came to that, and what was decided.

use std::time::{Duration, Instant};

use gatehouse_proto::internal::v1::ExitRecord;
use jiff::Timestamp;

use super::{
    Phase, Suite,
    slot::{Ended, Slot},
};
use crate::{
    child::{Exit, Machine, Other, State},
    component::SlotId,
    control::millis,
};

/// Between two looks at the memory that processes use. What one used after the last look before it crashed is not known, unless it has a cgroup.
const LOOK: Duration = Duration::from_secs(10);

impl Suite {
    /// Looks how much memory each has used at most, now and then.
    pub(super) fn sample_memory(&mut self, now: Instant) {
        if now.duration_since(self.sampled) >= LOOK {
            self.sampled = now;
            for process in self.slots.iter().flat_map(Slot::processes) {
                process.launched.sample();
            }
        }
    }

    /// Into the ledger. `before` it was heard of; now all that follows from it is decided.
    pub(super) fn record(&mut self, id: SlotId, ended: &Ended, uptime: Duration, before: &Machine) {
        let starved = ended.seen == Exit::Signal(9) && !ended.killed && self.starvation.has_killed();
        let Some(after) = self.slot(id).map(|slot| &slot.machine) else { return };
        let cause = cause(ended, before, starved);
        let code = if let Exit::Status(code) = ended.seen { Some(code) } else { None };
        let signal = if let Exit::Signal(number) = ended.seen { Some(number) } else { None };
        // Neither what was wanted nor a successor that failed is counted against the slot.
        let counts = !ended.was_asked() && (before.lead() == ended.generation || cause == "hung");
        let record = ExitRecord {
            at_ms: Timestamp::now().as_millisecond(),
            component: id.component.name().to_owned(),
            instance: id.instance,
            generation: ended.generation,
            pid: ended.pid,
            exit: ended.exit.to_string(),
            cause: cause.to_owned(),
            code,
            signal,
            uptime_ms: millis(uptime),
            peak_rss_bytes: ended.peak_rss_bytes,
            build: ended.build.clone(),
            last_words: ended.words.all(),
            dump: ended.dump.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            next: next(ended.generation, before, after).to_owned(),
            detail: self.detail(id, ended, cause),
            exits_in_a_row: if counts { after.exits_in_a_row() } else { 0 },
            wait_ms: after.next_start().map_or(0, |start| millis(start.saturating_duration_since(Instant::now()))),
        };
        self.parts.ledger.record(&record);
    }

    /// What is known beyond the exit itself.
    fn detail(&self, id: SlotId, ended: &Ended, cause: &str) -> String {
        match (cause, &ended.exit) {
            ("hung", _) => ended.hung.clone().unwrap_or_default(),
            (_, Exit::OutOfMemory) => "it used more than its cgroup may".to_owned(),
            ("out_of_memory", _) => "the kernel killed for want of memory at that time".to_owned(),
            (_, Exit::StartTimeout) => format!("not ready within {:?}", self.parts.config.restarts.ready_timeout),
            ("asked" | "killed", _) if ended.was_asked() => self.whose_wish(id),
            _ => String::new(),
        }
    }

    fn whose_wish(&self, id: SlotId) -> String {
        match self.phase {
            Phase::Draining { .. } if self.failure.is_some() => "the start of the suite failed".to_owned(),
            Phase::Draining { .. } => "the suite was stopped".to_owned(),
            Phase::Starting { .. } | Phase::Serving => self.jobs.whose(id).unwrap_or_default(),
        }
    }
}

fn cause(ended: &Ended, before: &Machine, starved: bool) -> &'static str {
    let served = ended.ready_after.is_some() || (before.lead() == ended.generation && before.is_ready());
    match &ended.exit {
        exit if exit.is_final() => "configuration",
        Exit::StartTimeout | Exit::NotStarted(_) => "failed_start",
        Exit::Hung => "hung",
        Exit::OutOfMemory => "out_of_memory",
        _ if starved => "out_of_memory",
        _ if ended.killed => "killed",
        _ if ended.was_asked() => "asked",
        _ if !served => "failed_start",
        Exit::Status(0) => "left",
        _ => "crashed",
    }
}

/// What was decided for the slot.
fn next(generation: u32, before: &Machine, after: &Machine) -> &'static str {
    match (before.other(), after.state()) {
        (Some(Other::Outgoing { generation: outgoing, .. }), state)
            if outgoing == generation && !matches!(state, State::BackingOff { .. } | State::Quarantined { .. }) =>
        {
            "replaced"
        }
        (Some(Other::Successor { generation: successor, .. }), State::Ready { .. } | State::Draining { .. }) if successor == generation => {
            "kept"
        }
        // As a probe it may start while it is still shown as quarantined.
        (_, State::Starting { .. } | State::Ready { .. }) => "restarted",
        _ => after.label(),
    }
}
