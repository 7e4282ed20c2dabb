//! An end as the ledger keeps it.

use std::time::Duration;

use gatehouse_proto::internal::v1::ExitRecord;
use jiff::Timestamp;

use super::slot::Ended;
use crate::{
    child::{Exit, Machine, Other, State},
    component::SlotId,
    control::millis,
};

/// `before` and `after` it was heard of.
pub(super) fn record(id: SlotId, ended: &Ended, uptime: Duration, before: &Machine, after: &Machine) -> ExitRecord {
    ExitRecord {
        at_ms: Timestamp::now().as_millisecond(),
        component: id.component.name().to_owned(),
        instance: id.instance,
        generation: ended.generation,
        pid: ended.pid,
        exit: ended.exit.to_string(),
        cause: cause(ended).to_owned(),
        code: if let Exit::Status(code) = ended.exit { Some(code) } else { None },
        signal: if let Exit::Signal(number) = ended.exit { Some(number) } else { None },
        uptime_ms: millis(uptime),
        last_words: ended.words.all(),
        next: next(ended.generation, before, after).to_owned(),
        ..ExitRecord::default()
    }
}

fn cause(ended: &Ended) -> &'static str {
    match &ended.exit {
        exit if exit.is_final() => "configuration",
        Exit::StartTimeout | Exit::NotStarted(_) => "failed_start",
        _ if ended.hung => "hung",
        _ if ended.killed => "killed",
        _ if ended.stopped.is_some() => "asked",
        _ if ended.ready_after.is_none() => "failed_start",
        _ => "crashed",
    }
}

/// What was decided for the slot.
fn next(generation: u32, before: &Machine, after: &Machine) -> &'static str {
    match (before.other(), after.state()) {
        (Some(Other::Outgoing { generation: outgoing, .. }), _) if outgoing == generation => "replaced",
        (Some(Other::Successor { generation: successor, .. }), State::Ready { .. } | State::Draining { .. }) if successor == generation => {
            "kept"
        }
        (_, State::Starting { .. } | State::Ready { .. }) => "restarted",
        _ => after.label(),
    }
}
