//! Waits for a change to be over, also across the end of the supervisor that took it: an upgrade replaces that one by the next, which knows of the change.

use std::{
    convert::Infallible,
    error::Error as _,
    io::{self, IsTerminal as _},
    time::Duration,
};

use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::{
    control::target,
    internal::v1::{ChangeStatus, VerdictRequest, supervisor_client::SupervisorClient},
};
use tokio::time::{Instant, interval, sleep, timeout_at};
use tonic::{Code, Status};

use crate::{
    command::supervisor::PEER,
    failure::Failure,
    output::{Output, harmless},
};

/// Between two tries while nobody answers.
pub const PAUSE: Duration = Duration::from_millis(200);
/// How often a terminal is told how it goes.
const GLANCE: Duration = Duration::from_millis(250);
/// For how long nobody may answer. By then an init system has started the supervisor again, if it ever will.
const GONE: Duration = Duration::from_mins(1);
/// Said when nobody does.
const ORPHANED: &str = "gatehouse: the supervisor is gone, and its components may serve on; waiting up to a minute for the next one";

/// Tells people at a terminal how it goes, on standard error.
#[derive(Debug)]
pub struct Progress<'a> {
    output: &'a Output,
    watched: bool,
    told: Vec<String>,
}

impl<'a> Progress<'a> {
    /// Silent unless somebody watches.
    pub fn new(output: &'a Output) -> Self {
        let watched = io::stderr().is_terminal() && !output.is_json();
        Self { output, watched, told: Vec::new() }
    }

    /// One line.
    pub fn say(&self, line: &str) {
        if self.watched {
            self.output.complain(&harmless(line));
        }
    }

    fn see(&mut self, change: &ChangeStatus) {
        for line in news(change, &mut self.told) {
            self.say(&line);
        }
    }
}

/// What was not told yet.
fn news(change: &ChangeStatus, told: &mut Vec<String>) -> Vec<String> {
    let steps = change.steps.iter().map(|step| format!("{}: {}", target(&step.component, Some(step.instance)), step.message));
    let lines = (change.state == "running").then(|| format!("{}: running", change.what)).into_iter().chain(steps);
    let new: Vec<_> = lines.filter(|line| !told.contains(line)).collect();
    told.extend(new.iter().cloned());
    new
}

/// How the change stands when it is over.
pub async fn follow(
    supervisor: SupervisorClient<Channel>,
    id: &str,
    deadline: Instant,
    progress: &mut Progress<'_>,
) -> Result<ChangeStatus, Failure> {
    let output = progress.output;
    let over = tokio::select! {
        over = timeout_at(deadline, over(supervisor.clone(), id, output)) => over,
        never = watch(supervisor, id, progress) => match never {},
    };
    over.unwrap_or_else(|_| Err(Failure::failed(format!("change {id} is not over yet; it goes on: see `gatehouse changes {id}`"))))
}

async fn over(mut supervisor: SupervisorClient<Channel>, id: &str, output: &Output) -> Result<ChangeStatus, Failure> {
    let (mut answered, mut told) = (Instant::now(), false);
    loop {
        let begun = Instant::now();
        let status = match supervisor.verdict(VerdictRequest { change_id: id.to_owned(), wait: true }).await {
            Ok(answer) => return Ok(answer.into_inner().change.unwrap_or_default()),
            Err(status) => status,
        };
        let failure = Failure::of_status(PEER, &status);
        if begun.elapsed() > PAUSE {
            // It held the question for a while, so it was there.
            answered = Instant::now();
        }
        match &failure {
            Failure::Refused { code: Code::NotFound, .. } => {
                return Err(Failure::failed(format!(
                    "the supervisor knows of no change {id}: it is over for long, or a supervisor died with it"
                )));
            }
            Failure::Unreachable(why) if answered.elapsed() > GONE => {
                return Err(Failure::Unreachable(format!("{why}; what came of change {id} is not known")));
            }
            // The connection broke or the supervisor is ending: the next one is asked.
            Failure::Unreachable(_)
            | Failure::Refused { code: Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal, .. } => {
                // Whoever waits is told, terminal or not: it may be for long. Not a program, which expects one document at most.
                if !told && nobody_listens(&status) && !output.is_json() {
                    output.complain(ORPHANED);
                    told = true;
                }
                sleep(PAUSE).await;
            }
            _ => return Err(failure),
        }
    }
}

/// While one supervisor executes the next, the socket takes connections all the time.
fn nobody_listens(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound);
        }
        cause = error.source();
    }
    false
}

async fn watch(mut supervisor: SupervisorClient<Channel>, id: &str, progress: &mut Progress<'_>) -> Infallible {
    if !progress.watched {
        return std::future::pending().await;
    }
    let mut glances = interval(GLANCE);
    loop {
        glances.tick().await;
        // One that is not answered is made up for by the next.
        if let Ok(answer) = supervisor.verdict(VerdictRequest { change_id: id.to_owned(), wait: false }).await {
            progress.see(&answer.into_inner().change.unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use gatehouse_proto::internal::v1::Step;

    use super::*;

    #[test]
    fn each_thing_is_told_once() {
        let mut told = Vec::new();
        let mut change = ChangeStatus { what: "restart pusher".into(), state: "queued".into(), ..ChangeStatus::default() };
        assert!(news(&change, &mut told).is_empty());
        change.state = "running".into();
        assert_eq!(news(&change, &mut told), ["restart pusher: running"]);
        change.steps.push(Step { component: "pusher".into(), message: "ready after 210 ms".into(), ..Step::default() });
        assert_eq!(news(&change, &mut told), ["pusher/0: ready after 210 ms"]);
        change.steps.push(Step { component: "pusher".into(), instance: 1, message: "ready after 190 ms".into(), ..Step::default() });
        assert_eq!(news(&change, &mut told), ["pusher/1: ready after 190 ms"]);
        assert!(news(&change, &mut told).is_empty());
    }
}
