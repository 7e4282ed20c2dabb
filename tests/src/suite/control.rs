//! Changes that an operator asks for, and their verdicts.

use std::{path::Path, time::Duration};

use gatehouse_chassis::ipc;
use gatehouse_proto::internal::v1::{
    ChangeRequest, ChangeStatus, Scale, Target, Upgrade, VerdictRequest, change_request::Change, supervisor_client::SupervisorClient,
};
use tonic::{Code, Status};

use super::{Suite, split};
use crate::wait;

/// A change of everything, one component after the other, on a busy machine.
const LONGEST: Duration = Duration::from_mins(3);

impl Suite {
    /// A client of the supervisor's control socket.
    #[must_use]
    pub fn supervisor(&self) -> SupervisorClient<ipc::Channel> {
        SupervisorClient::new(ipc::channel(self.runtime_dir().join("supervisor.sock")))
    }

    /// Asks for a change and waits for its verdict, over the death or the upgrade of a supervisor too.
    pub async fn change(&self, change: Change) -> Result<ChangeStatus, Status> {
        let request = ChangeRequest { reason: "a scenario of the tests".into(), change: Some(change) };
        let change_id = self.supervisor().change(request).await?.into_inner().change_id;
        wait::within(LONGEST, "the change has a verdict", async || {
            let request = VerdictRequest { change_id: change_id.clone(), wait: true };
            match tokio::time::timeout(wait::PATIENCE, self.supervisor().verdict(request)).await {
                Ok(Ok(answer)) => {
                    let change = answer.into_inner().change.expect("a verdict names its change");
                    ["done", "failed"].contains(&change.state.as_str()).then_some(Ok(change))
                }
                // It is asked again on another connection.
                Ok(Err(status)) if [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal].contains(&status.code()) => None,
                Ok(Err(status)) => Some(Err(status)),
                Err(_) => None,
            }
        })
        .await
    }

    /// The same, which must succeed.
    pub async fn changed(&self, change: Change) -> ChangeStatus {
        let verdict = self.change(change.clone()).await.unwrap_or_else(|status| panic!("{change:?}: {status:?}"));
        assert_eq!(verdict.state, "done", "{verdict:?}");
        verdict
    }
}

/// `edge`, `pusher/1`, or `pusher` for all of them, one after the other.
#[must_use]
pub fn target(name: &str) -> Target {
    let (component, number) = split(name);
    Target { component: component.to_owned(), instance: name.contains('/').then_some(number) }
}

/// A new generation.
#[must_use]
pub fn restart(name: &str) -> Change {
    Change::Restart(target(name))
}

/// So many pushers.
#[must_use]
pub fn scale(instances: u32) -> Change {
    Change::Scale(Scale { component: "pusher".into(), instances })
}

/// The binaries of that directory.
#[must_use]
pub fn upgrade(directory: &Path) -> Change {
    Change::Upgrade(Upgrade { directory: directory.display().to_string() })
}
