//! Changes as they stand in the state file.

use gatehouse_proto::internal::v1::{ChangeStatus, Step};
use serde::{Deserialize, Serialize};

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct SavedChange {
    id: String,
    what: String,
    actor: String,
    reason: String,
    state: String,
    queued_ms: i64,
    took_ms: u64,
    verdict: String,
    steps: Vec<SavedStep>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct SavedStep {
    component: String,
    instance: u32,
    from_generation: u32,
    to_generation: u32,
    succeeded: bool,
    message: String,
}

impl From<ChangeStatus> for SavedChange {
    fn from(status: ChangeStatus) -> Self {
        let ChangeStatus { change_id, what, actor, reason, state, queued_ms, took_ms, verdict, steps } = status;
        let steps = steps.into_iter().map(|Step { component, instance, from_generation, to_generation, succeeded, message }| SavedStep {
            component,
            instance,
            from_generation,
            to_generation,
            succeeded,
            message,
        });
        Self { id: change_id, what, actor, reason, state, queued_ms, took_ms, verdict, steps: steps.collect() }
    }
}

impl From<SavedChange> for ChangeStatus {
    fn from(past: SavedChange) -> Self {
        let SavedChange { id, what, actor, reason, state, queued_ms, took_ms, verdict, steps } = past;
        let steps = steps.into_iter().map(|SavedStep { component, instance, from_generation, to_generation, succeeded, message }| Step {
            component,
            instance,
            from_generation,
            to_generation,
            succeeded,
            message,
        });
        Self { change_id: id, what, actor, reason, state, queued_ms, took_ms, verdict, steps: steps.collect() }
    }
}
