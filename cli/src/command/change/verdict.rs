//! What came of changes, for people and for programs.

use gatehouse_proto::{
    control::target,
    internal::v1::{ChangeStatus, Step},
};
use serde_json::{Value, json};

use crate::{
    command::time::{moment, span},
    failure::Failure,
    output::Output,
};

/// One change with all it did. One that failed fails the command, too.
pub fn print(change: &ChangeStatus, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        output.document(&document(change))?;
    } else {
        output.sentence(&sentence(change))?;
        if !change.steps.is_empty() {
            output.table(["INSTANCE", "GENERATION", "RESULT", "WHAT HAPPENED"], change.steps.iter().map(row))?;
        }
    }
    if change.state == "failed" { Err(Failure::Said(1)) } else { Ok(()) }
}

/// Many, a line each.
pub fn table(changes: &[ChangeStatus], output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        let changes: Vec<_> = changes.iter().map(document).collect();
        return output.document(&json!({ "changes": changes }));
    }
    output.table(["TIME", "CHANGE", "STATE", "TOOK", "WHO", "WHY", "VERDICT", "ID"], changes.iter().map(line))
}

/// For programs.
pub fn document(change: &ChangeStatus) -> Value {
    let ChangeStatus { change_id, what, actor, reason, state, queued_ms, took_ms, verdict, steps } = change;
    let steps: Vec<_> = steps.iter().map(step).collect();
    json!({
        "change_id": change_id,
        "what": what,
        "actor": actor,
        "reason": reason,
        "state": state,
        "queued_ms": queued_ms,
        "took_ms": took_ms,
        "verdict": verdict,
        "steps": steps,
    })
}

fn step(step: &Step) -> Value {
    let Step { component, instance, from_generation, to_generation, succeeded, message } = step;
    let present = |generation: u32| (generation > 0).then_some(generation);
    json!({
        "component": component,
        "instance": instance,
        "from_generation": present(*from_generation),
        "to_generation": present(*to_generation),
        "succeeded": succeeded,
        "message": message,
    })
}

/// `restart pusher: done in 1.6 s: 2 of 2 replaced`.
pub fn sentence(change: &ChangeStatus) -> String {
    let ChangeStatus { what, state, took_ms, verdict, .. } = change;
    let took = span(*took_ms);
    let how = match state.as_str() {
        "done" => format!("done in {took}"),
        "failed" => format!("FAILED after {took}"),
        state => format!("{state} for {took}"),
    };
    let why = if verdict.is_empty() { String::new() } else { format!(": {verdict}") };
    format!("{what}: {how}{why}")
}

fn row(step: &Step) -> [String; 4] {
    let generation = match (step.from_generation, step.to_generation) {
        (0, 0) => "-".to_owned(),
        (0, to) => to.to_string(),
        (from, 0) => format!("{from} ended"),
        (from, to) if from == to => format!("{from} stays"),
        (from, to) => format!("{from} to {to}"),
    };
    let result = if step.succeeded { "done" } else { "failed" };
    [target(&step.component, Some(step.instance)), generation, result.to_owned(), step.message.clone()]
}

fn line(change: &ChangeStatus) -> [String; 8] {
    let ChangeStatus { change_id, what, actor, reason, state, queued_ms, took_ms, verdict, .. } = change.clone();
    [moment(queued_ms), what, state, span(took_ms), actor, reason, verdict, change_id]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_one_sentence() {
        let change = |state: &str, took_ms, verdict: &str| {
            let (what, state, verdict) = ("restart edge".into(), state.into(), verdict.into());
            sentence(&ChangeStatus { what, state, took_ms, verdict, ..ChangeStatus::default() })
        };
        assert_eq!(change("done", 1690, ""), "restart edge: done in 1.6 s");
        assert_eq!(change("failed", 999, "not ready within 30s"), "restart edge: FAILED after 999 ms: not ready within 30s");
        assert_eq!(change("running", 61_000, ""), "restart edge: running for 1 min 1 s");
    }

    #[test]
    fn generations_say_what_became_of_them() {
        let told = |from_generation, to_generation| row(&Step { from_generation, to_generation, ..Step::default() })[1].clone();
        assert_eq!([told(0, 0), told(0, 1), told(3, 0), told(3, 3), told(3, 4)], ["-", "1", "3 ended", "3 stays", "3 to 4"]);
    }
}
