//! `gatehouse why`: how a component stands, what led to it, what happens next, and what to do. The supervisor's records hold all of it; this tells it in
//! plain words.

mod story;

use std::path::Path;

use clap::Args;
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::internal::v1::{
    ChangeStatus, InstanceStatus, LogLine, LogsRequest, StatusRequest, supervisor_client::SupervisorClient,
};
use jiff::Timestamp;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{
    events::{changes, concerns, ends, is_open, stranger},
    logs,
    supervisor::{BOUND, PEER, connect},
    target::Target,
};
use crate::{failure::Failure, local, output::Output};
use story::{Records, Story};

/// All that a ledger holds.
const ALL: u32 = 1000;
/// What it said last of a bad thing.
const COMPLAINTS: u32 = 5;

/// About whom.
#[derive(Debug, Args)]
pub struct Whom {
    /// edge, pusher, pusher/1, auditor, admin, redis
    #[arg(value_name = "COMPONENT[/N]")]
    target: Target,
}

/// `gatehouse why`.
pub async fn tell(whom: &Whom, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let mut supervisor = connect(config).await?;
    let status = local::answer(PEER, BOUND, supervisor.status(StatusRequest {})).await?;
    let exits = ends(&mut supervisor, Some(&whom.target), ALL).await?;
    let changes = changes(&mut supervisor, Some(&whom.target)).await?;
    let (component, now_ms) = (whom.target.component(), Timestamp::now().as_millisecond());
    let mut numbers: Vec<_> =
        status.instances.iter().filter(|known| whom.target.means(&known.component, known.instance)).map(|known| known.instance).collect();
    if numbers.is_empty() {
        // One that was removed has a history all the same.
        numbers = exits.iter().map(|exit| exit.instance).collect();
    }
    numbers.sort_unstable();
    numbers.dedup();
    if numbers.is_empty() {
        return Err(stranger(&whom.target, &status.instances));
    }
    let mut all = Vec::new();
    for instance in numbers {
        let of = |known: &&InstanceStatus| known.component == component && known.instance == instance;
        all.push(Records {
            component: component.to_owned(),
            instance,
            processes: status.instances.iter().filter(of).cloned().collect(),
            exits: exits.iter().filter(|exit| exit.instance == instance).cloned().collect(),
            changes: changes.iter().filter(|change| touches(change, component, instance)).cloned().collect(),
            complaints: complaints(&mut supervisor, component, instance).await,
            draining: status.draining,
            now_ms,
        });
    }
    let stories: Vec<_> = all.iter().map(Story::of).collect();
    if output.is_json() {
        let stories: Vec<_> = stories.iter().map(Story::document).collect();
        return output.document(&json!({ "instances": stories }));
    }
    for (number, story) in stories.iter().enumerate() {
        if number > 0 {
            output.line("")?;
        }
        story.lines().iter().try_for_each(|line| output.sentence(line))?;
    }
    Ok(())
}

/// Whether it did something to that one, or is about to.
fn touches(change: &ChangeStatus, component: &str, instance: u32) -> bool {
    change.steps.iter().any(|step| step.component == component && step.instance == instance)
        || (is_open(change) && concerns(change, &Target::one(component, instance)))
}

/// What it said last that was bad. The story is told without it, too.
async fn complaints(supervisor: &mut SupervisorClient<Channel>, component: &str, instance: u32) -> Vec<LogLine> {
    let (component, level) = (component.to_owned(), "warn".to_owned());
    let request = LogsRequest { component, instance: Some(instance), level, lines: COMPLAINTS, ..LogsRequest::default() };
    let (deadline, mut complaints) = (Instant::now() + BOUND, Vec::new());
    if let Ok(Ok(lines)) = timeout_at(deadline, supervisor.logs(request)).await {
        let mut lines = lines.into_inner();
        while let Ok(Ok(Some(line))) = timeout_at(deadline, lines.message()).await {
            complaints.push(line);
        }
    }
    complaints
}

/// A line of a log for the story.
fn quoted(line: &LogLine) -> String {
    logs::legible(line)
}

#[cfg(test)]
mod tests {
    use gatehouse_proto::internal::v1::Step;

    use super::*;

    #[test]
    fn a_change_that_waits_is_told_to_whom_it_may_touch_and_one_that_is_over_to_whom_it_touched() {
        let touches = |what: &str, state: &str, step: Option<(&str, u32)>, component: &str, instance| {
            let step = step.map(|(component, instance)| Step { component: component.into(), instance, ..Step::default() });
            let change =
                ChangeStatus { what: what.into(), state: state.into(), steps: step.into_iter().collect(), ..ChangeStatus::default() };
            super::touches(&change, component, instance)
        };
        assert!(touches("restart pusher", "queued", None, "pusher", 1) && touches("stop edge", "running", None, "edge", 0));
        assert!(touches("upgrade from /opt/bin", "running", None, "edge", 0));
        assert!(!touches("restart pusher/0", "queued", None, "pusher", 1) && !touches("restart pusher", "done", None, "pusher", 1));
        assert!(touches("upgrade", "done", Some(("edge", 0)), "edge", 0));
        assert!(!touches("upgrade", "done", Some(("edge", 0)), "pusher", 0), "another component's first");
    }
}
