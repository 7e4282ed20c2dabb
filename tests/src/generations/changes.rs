//! Changes that an operator asks the supervisor for.

use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{
    ChangeRequest, ChangeStatus, Scale, Target, VerdictRequest, change_request::Change, supervisor_client::SupervisorClient,
};

use crate::{Suite, wait};

/// A new generation of every instance of a component.
#[must_use]
pub fn restart(component: &str) -> Change {
    Change::Restart(Target { component: component.to_owned(), instance: None })
}

/// So many pushers.
#[must_use]
pub fn scale(instances: u32) -> Change {
    Change::Scale(Scale { component: "pusher".to_owned(), instances })
}

/// Asks for it on the control socket; its verdict, which must be that it is done.
pub async fn change(suite: &Suite, change: Change) -> ChangeStatus {
    let mut supervisor = SupervisorClient::new(ipc::channel(suite.runtime_dir().join("supervisor.sock")));
    let request = ChangeRequest { reason: "a scenario".to_owned(), change: Some(change) };
    let change_id = supervisor.change(request).await.expect("the change is queued").into_inner().change_id;
    let verdict = wait::bounded("the verdict", supervisor.verdict(VerdictRequest { change_id, wait: true })).await;
    let verdict = verdict.expect("a verdict").into_inner().change.expect("a verdict names its change");
    assert_eq!(verdict.state, "done", "{verdict:?}");
    assert!(!verdict.steps.is_empty() && verdict.steps.iter().all(|step| step.succeeded), "{verdict:?}");
    verdict
}
