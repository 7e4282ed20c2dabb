//! The shutdown report: one line for each child, and a table for people.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use gatehouse_chassis::outlet::Outlet;

use super::slot::Slot;
use crate::{child::Exit, component::label, control::millis};

/// How a stopped child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// By itself, with status 0, within its budget.
    Drained,
    /// By itself, with status 0, at the end of its budget: it dropped what was unfinished.
    Cut,
    /// By itself, within its budget, and nobody knows with which status: whoever started it is no more.
    Unseen,
    /// By us, over its budget or at a second signal.
    Killed,
    /// By itself, otherwise.
    Failed(String),
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(crate) struct Stopped {
    /// From the request to the end.
    pub(crate) took: Duration,
    /// How.
    pub(crate) outcome: Outcome,
}

impl Outcome {
    /// Of a process that was asked to stop; `overran` when it took its whole budget.
    pub(crate) fn of(exit: &Exit, killed: bool, overran: bool) -> Self {
        match exit {
            _ if killed => Self::Killed,
            Exit::Status(0) | Exit::Unknown if overran => Self::Cut,
            Exit::Status(0) => Self::Drained,
            Exit::Unknown => Self::Unseen,
            other => Self::Failed(other.to_string()),
        }
    }

    /// For the metric.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::Unseen => "unseen",
            Self::Cut => "cut",
            Self::Killed => "killed",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drained => f.write_str("drained"),
            Self::Unseen => f.write_str("ended when asked (status not known: an earlier supervisor started it)"),
            Self::Cut => f.write_str("cut at its budget"),
            Self::Killed => f.write_str("killed"),
            Self::Failed(exit) => write!(f, "exited with {exit}"),
        }
    }
}

/// Writes it.
pub(crate) fn log(slots: &[Slot], text: bool) {
    let stopped: Vec<_> = slots.iter().filter_map(|slot| Some((slot, slot.stopped.as_ref()?))).collect();
    for (slot, Stopped { took, outcome }) in &stopped {
        let (component, instance) = (slot.id.component.name(), slot.id.instance);
        let (budget_ms, took_ms, outcome) = (millis(slot.policy.budget), millis(*took), outcome.to_string());
        tracing::info!(component, instance, budget_ms, took_ms, outcome, "component stopped");
    }
    if text && !stopped.is_empty() {
        let rows = stopped.iter().map(|(slot, stopped)| (label(slot.id), slot.policy.budget, *stopped));
        Outlet::stderr().line(table(rows).trim_end().to_owned());
    }
}

fn table<'a>(rows: impl Iterator<Item = (String, Duration, &'a Stopped)>) -> String {
    let mut text = format!("{:<12} {:>9} {:>9}  outcome\n", "component", "budget", "took");
    for (name, budget, Stopped { took, outcome }) in rows {
        // Writing to a string cannot fail.
        let _written = writeln!(text, "{name:<12} {:>6} ms {:>6} ms  {outcome}", budget.as_millis(), took.as_millis());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_who_how_long_and_how() {
        let budget = Duration::from_secs(5);
        let stopped = |ms, exit: &Exit, killed| {
            let took = Duration::from_millis(ms);
            Stopped { took, outcome: Outcome::of(exit, killed, took >= budget) }
        };
        let rows = [
            ("edge".to_owned(), stopped(12, &Exit::Status(0), false)),
            ("pusher-1".to_owned(), stopped(6001, &Exit::Signal(9), true)),
            ("auditor".to_owned(), stopped(3, &Exit::Status(70), false)),
            ("admin".to_owned(), stopped(5009, &Exit::Status(0), false)),
            ("redis".to_owned(), stopped(4, &Exit::Unknown, false)),
        ];
        let expected = "\
component       budget      took  outcome
edge           5000 ms     12 ms  drained
pusher-1       5000 ms   6001 ms  killed
auditor        5000 ms      3 ms  exited with status 70
admin          5000 ms   5009 ms  cut at its budget
redis          5000 ms      4 ms  ended when asked (status not known: an earlier supervisor started it)
";
        assert_eq!(table(rows.iter().map(|(name, stopped)| (name.clone(), budget, stopped))), expected);
    }
}
