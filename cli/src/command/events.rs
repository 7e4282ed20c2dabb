//! `gatehouse events`: what happened to the suite, and what was done to it, in one order of time.

use std::path::Path;

use clap::{Args, value_parser};
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::internal::v1::{
    ChangeStatus, ChangesRequest, ExitRecord, ExitsRequest, InstanceStatus, StatusRequest, supervisor_client::SupervisorClient,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    change, exits,
    supervisor::{BOUND, PEER, connect},
    target::{Target, name},
    time::{Since, moment},
};
use crate::{failure::Failure, local, output::Output};

/// All that a supervisor remembers of either.
const ALL: u32 = 1000;

/// Of whom, and how many.
#[derive(Debug, Args)]
pub struct Which {
    /// edge, pusher, pusher/1, auditor, admin, redis [default: all]
    #[arg(value_name = "COMPONENT[/N]")]
    target: Option<Target>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = value_parser!(u32).range(1..=i64::from(ALL)))]
    limit: u32,
    /// Only what is newer: 10m, 2h, 2026-11-21T09:52:16Z
    #[arg(long, value_name = "TIME", value_parser = Since::read)]
    since: Option<Since>,
}

/// One thing that happened.
#[derive(Debug)]
enum Event {
    Exit(ExitRecord),
    Change(ChangeStatus),
}

/// `gatehouse events`.
pub async fn list(which: Which, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let mut supervisor = connect(config).await?;
    let exits = ends(&mut supervisor, which.target.as_ref(), which.limit).await?;
    let changes = changes(&mut supervisor, which.target.as_ref()).await?;
    if let Some(target) = &which.target {
        let touched = |change: &ChangeStatus| change.steps.iter().any(|step| target.means(&step.component, step.instance));
        known(&mut supervisor, target, !exits.is_empty() || changes.iter().any(touched)).await?;
    }
    let since = which.since.map_or(i64::MIN, |since| since.as_ms(Timestamp::now()));
    let events = merge(exits, changes, since, which.limit);
    if output.is_json() {
        let events: Vec<_> = events.iter().map(Event::document).collect();
        return output.document(&json!({ "events": events }));
    }
    output.table(["TIME", "WHO", "WHAT HAPPENED", "WHY", "THEN"], events.iter().map(Event::row))
}

/// Refuses one that is not there, unless it `has_history`: one that was removed may be asked about all the same.
pub async fn known(supervisor: &mut SupervisorClient<Channel>, target: &Target, has_history: bool) -> Result<(), Failure> {
    if has_history {
        return Ok(());
    }
    let instances = local::answer(PEER, BOUND, supervisor.status(StatusRequest {})).await?.instances;
    // A supervisor that has only just begun knows of none yet.
    if instances.is_empty() || instances.iter().any(|known| target.means(&known.component, known.instance)) {
        return Ok(());
    }
    Err(stranger(target, &instances))
}

/// There is none, and never was, as far as anybody remembers.
pub fn stranger(target: &Target, instances: &[InstanceStatus]) -> Failure {
    let mut known: Vec<_> = instances.iter().map(|known| name(&known.component, known.instance)).collect();
    known.dedup();
    Failure::failed(format!("this suite runs no {target}, and nothing is recorded of one; it runs {}", known.join(", ")))
}

/// Ends of its processes, newest first.
pub async fn ends(supervisor: &mut SupervisorClient<Channel>, target: Option<&Target>, limit: u32) -> Result<Vec<ExitRecord>, Failure> {
    let component = target.map(|target| target.component().to_owned()).unwrap_or_default();
    let request = ExitsRequest { component, instance: target.and_then(Target::instance), limit };
    Ok(local::answer(PEER, BOUND, supervisor.exits(request)).await?.exits)
}

/// What operators changed of it, newest first.
pub async fn changes(supervisor: &mut SupervisorClient<Channel>, target: Option<&Target>) -> Result<Vec<ChangeStatus>, Failure> {
    let mut changes = local::answer(PEER, BOUND, supervisor.changes(ChangesRequest { limit: ALL })).await?.changes;
    changes.retain(|change| target.is_none_or(|target| concerns(change, target)));
    Ok(changes)
}

/// Whether it is about that one, as it was typed or by what it did. What replaces the whole suite may be about to touch it.
pub fn concerns(change: &ChangeStatus, target: &Target) -> bool {
    let named = change.what.split_whitespace().nth(1).and_then(|named| named.parse::<Target>().ok());
    let named = named.is_some_and(|named| match (named.instance(), target.instance()) {
        (Some(named_instance), Some(instance)) => named.component() == target.component() && named_instance == instance,
        _ => named.component() == target.component(),
    });
    let may_come = is_open(change) && change.what.split_whitespace().next() == Some("upgrade");
    named || may_come || change.steps.iter().any(|step| target.means(&step.component, step.instance))
}

/// Whether it is queued or under way.
pub fn is_open(change: &ChangeStatus) -> bool {
    matches!(change.state.as_str(), "queued" | "running")
}

/// Newest first.
fn merge(exits: Vec<ExitRecord>, changes: Vec<ChangeStatus>, since: i64, limit: u32) -> Vec<Event> {
    let exits = exits.into_iter().map(Event::Exit);
    let mut events: Vec<_> = exits.chain(changes.into_iter().map(Event::Change)).filter(|event| event.at_ms() >= since).collect();
    events.sort_by_key(|event| std::cmp::Reverse(event.at_ms()));
    events.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    events
}

impl Event {
    const fn at_ms(&self) -> i64 {
        match self {
            Self::Exit(exit) => exit.at_ms,
            Self::Change(change) => change.queued_ms,
        }
    }

    fn document(&self) -> Value {
        let (kind, mut document) = match self {
            Self::Exit(exit) => ("exit", exits::document(exit)),
            Self::Change(change) => ("change", change::document(change)),
        };
        document["kind"] = json!(kind);
        document["at_ms"] = json!(self.at_ms());
        document
    }

    fn row(&self) -> [String; 5] {
        let at = moment(self.at_ms());
        match self {
            Self::Exit(exit) => {
                let what = format!("generation {} {}", exit.generation, exits::what(exit));
                [at, name(&exit.component, exit.instance), what, exits::why(exit), exits::then(exit)]
            }
            Self::Change(change) => {
                let ChangeStatus { what, actor, reason, .. } = change;
                let (_, then) = change::sentence(change)
                    .split_once(": ")
                    .map_or_else(Default::default, |(what, then)| (what.to_owned(), then.to_owned()));
                [at, actor.clone(), what.clone(), reason.clone(), then]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use gatehouse_proto::internal::v1::Step;

    use super::*;

    #[test]
    fn both_are_merged_newest_first_and_no_more_than_wanted() {
        let exit = |at_ms| ExitRecord { at_ms, ..ExitRecord::default() };
        let change = |queued_ms| ChangeStatus { queued_ms, ..ChangeStatus::default() };
        let times = |since, limit| {
            let events = merge(vec![exit(9), exit(5), exit(1)], vec![change(7), change(2)], since, limit);
            events.iter().map(Event::at_ms).collect::<Vec<_>>()
        };
        assert_eq!(times(i64::MIN, 10), [9, 7, 5, 2, 1]);
        assert_eq!((times(2, 10), times(0, 2)), (vec![9, 7, 5, 2], vec![9, 7]));
    }

    #[test]
    fn a_change_concerns_whom_it_names_and_whom_it_touched() {
        let concerns = |what: &str, touched: Option<u32>, target: &str| {
            let steps = touched.map(|instance| Step { component: "pusher".into(), instance, ..Step::default() });
            let change = ChangeStatus { what: what.into(), steps: steps.into_iter().collect(), ..ChangeStatus::default() };
            super::concerns(&change, &target.parse().unwrap())
        };
        assert!(concerns("restart pusher", None, "pusher/1") && concerns("restart pusher/1", None, "pusher"));
        assert!(concerns("scale pusher 4", Some(3), "pusher/3") && concerns("upgrade", Some(1), "pusher/1"));
        assert!(!concerns("restart pusher/0", None, "pusher/1") && !concerns("restart edge", None, "pusher"));
    }
}
