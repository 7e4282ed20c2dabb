//! The story of one instance, from what the supervisor knows of it. Pure.

use gatehouse_proto::internal::v1::{ChangeStatus, ExitRecord, InstanceStatus, LogLine};
use serde_json::{Value, json};

use super::quoted;
use crate::command::{
    change,
    events::is_open,
    exits, logs,
    target::name,
    time::{moment, span},
};

/// Ends that are told one by one.
const TOLD: usize = 5;
/// An end nobody wanted is news for so long, in ms.
const NEWS: i64 = 24 * 3600 * 1000;

/// What is known of one instance.
#[derive(Debug, Default)]
pub struct Records {
    pub component: String,
    pub instance: u32,
    /// The one that leads first; none of one that was removed.
    pub processes: Vec<InstanceStatus>,
    /// Newest first.
    pub exits: Vec<ExitRecord>,
    pub changes: Vec<ChangeStatus>,
    /// What it said last that was bad, oldest first.
    pub complaints: Vec<LogLine>,
    /// The suite is ending.
    pub draining: bool,
    pub now_ms: i64,
}

/// See the module's head.
#[derive(Debug)]
pub struct Story<'a> {
    records: &'a Records,
    /// `quarantined`; `removed`.
    state: &'a str,
    /// How it stands.
    now: String,
    /// What led to it, a sentence each.
    why: Vec<String>,
    /// The end that explains it, with its words.
    culprit: Option<&'a ExitRecord>,
    next: String,
    advice: Vec<String>,
}

impl<'a> Story<'a> {
    /// Tells it.
    pub fn of(records: &'a Records) -> Self {
        let lead = records.processes.first();
        let state = lead.map_or("removed", |lead| lead.state.as_str());
        let culprit = records.culprit(state);
        let mut story = Self {
            records,
            state,
            now: records.now(lead),
            why: records.why(lead, culprit),
            culprit,
            next: records.next(lead, culprit),
            advice: Vec::new(),
        };
        story.advice = story.advise();
        story
    }

    /// For programs.
    pub fn document(&self) -> Value {
        let Self { records, state, now, why, culprit, next, advice } = self;
        let lead = records.processes.first();
        json!({
            "component": records.component,
            "instance": records.instance,
            "state": state,
            "generation": lead.map(|lead| lead.generation),
            "pid": lead.and_then(|lead| lead.pid),
            "uptime_ms": lead.map(|lead| lead.uptime_ms),
            "now": now,
            "why": why,
            "next": next,
            "advice": advice,
            "evidence": {
                "exit": culprit.map(exits::document),
                "exits": records.exits.iter().take(TOLD).map(exits::document).collect::<Vec<_>>(),
                "complaints": records.complaints.iter().map(logs::document).collect::<Vec<_>>(),
                "changes": records.changes.iter().take(TOLD).map(change::document).collect::<Vec<_>>(),
            },
        })
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.now.clone()];
        let mut section = |heading: &str, told: Vec<String>| {
            if !told.is_empty() {
                lines.push(String::new());
                lines.push(heading.to_owned());
                lines.extend(told.into_iter().map(|line| format!("  {line}")));
            }
        };
        section("Why", self.why.clone());
        section("Ended before, the newest first", self.ends());
        if let Some(culprit) = self.culprit {
            section(&format!("What generation {} said last", culprit.generation), culprit.last_words.clone());
        }
        // What it said last holds them.
        if self.culprit.is_none_or(|culprit| culprit.last_words.is_empty()) {
            section("What it complained of last", self.records.complaints.iter().map(quoted).collect());
        }
        section("Next", vec![self.next.clone()]);
        section("What to do", self.advice.clone());
        lines
    }

    /// One by one, and how many more.
    fn ends(&self) -> Vec<String> {
        let exits = &self.records.exits;
        let mut told: Vec<_> = exits.iter().take(TOLD).map(end).collect();
        if let Some(oldest) = exits.last().filter(|_| exits.len() > TOLD) {
            told.push(format!("and {} before, since {}", exits.len() - TOLD, moment(oldest.at_ms)));
        }
        told
    }

    fn advise(&self) -> Vec<String> {
        let name = self.records.name();
        let mut advice = Vec::new();
        let look = self.culprit.map(|culprit| {
            if culprit.dump.is_empty() {
                format!("See what led to it: gatehouse logs {name} --since {}", moment(culprit.at_ms - 60_000))
            } else {
                format!("See what its threads were doing: {}", culprit.dump)
            }
        });
        let cause = self.culprit.map(|culprit| culprit.cause.as_str());
        match (self.state, cause) {
            ("quarantined" | "backing_off" | "ready" | "starting", Some("configuration")) => {
                advice.push("Correct the configuration, and check it: gatehouse config check".to_owned());
            }
            (_, Some("out_of_memory")) => {
                advice.push("Give it more memory, or less to do; `dmesg` has the kernel's account".to_owned());
            }
            (_, Some("crashed")) if self.culprit.is_some_and(|culprit| culprit.signal == Some(9)) => {
                advice.push("Find out who sends SIGKILL: an operator, a script, or the kernel for want of memory (`dmesg`)".to_owned());
            }
            _ => {}
        }
        advice.extend(look);
        match self.state {
            "quarantined" | "backing_off" => advice.push(format!("Start it now, with its history forgotten: gatehouse restart {name}")),
            "stopped" if !self.records.draining => advice.push(format!("Start it again: gatehouse start {name}")),
            "waiting" => {
                let needs = self.records.processes.first().and_then(|lead| lead.detail.strip_prefix("waits for ")).unwrap_or_default();
                advice.extend(
                    needs.split(", ").filter(|needed| !needed.is_empty()).map(|needed| format!("See why it waits: gatehouse why {needed}")),
                );
            }
            "ready" if self.culprit.is_none() => advice.push("Nothing".to_owned()),
            _ => {}
        }
        advice
    }
}

impl Records {
    fn name(&self) -> String {
        name(&self.component, self.instance)
    }

    /// The end that explains how it stands: the last one that nobody wanted, while it is news.
    fn culprit(&self, state: &str) -> Option<&ExitRecord> {
        let unwanted = self.exits.iter().find(|exit| !exits::was_wanted(exit))?;
        match state {
            "quarantined" | "backing_off" => Some(unwanted),
            "stopped" | "removed" | "waiting" => None,
            _ => Some(unwanted).filter(|unwanted| unwanted.at_ms > self.now_ms - NEWS),
        }
    }

    fn now(&self, lead: Option<&InstanceStatus>) -> String {
        let name = self.name();
        let Some(lead) = lead else { return format!("{name} is not there any more: it was removed.") };
        let process =
            lead.pid.map_or_else(String::new, |pid| format!(": generation {}, pid {pid}, for {}", lead.generation, span(lead.uptime_ms)));
        let stands = match lead.state.as_str() {
            "ready" => "is ready",
            "starting" => "is starting",
            "waiting" => "waits for what it needs",
            "draining" => "is draining",
            "backing_off" => "is down, and waits before its next start",
            "quarantined" if lead.pid.is_some() => "is in quarantine, and being tried again",
            "quarantined" => "is down, in quarantine",
            "stopped" => "is stopped",
            other => other,
        };
        let others = self.processes.iter().skip(1).map(|other| {
            let detail = if other.detail.is_empty() { String::new() } else { format!(" ({})", other.detail) };
            format!(" Generation {} beside it is {}{detail}.", other.generation, other.state)
        });
        format!("{name} {stands}{process}.{}", others.collect::<String>())
    }

    fn why(&self, lead: Option<&InstanceStatus>, culprit: Option<&ExitRecord>) -> Vec<String> {
        let mut why = Vec::new();
        let (state, detail) = lead.map_or(("removed", ""), |lead| (lead.state.as_str(), lead.detail.as_str()));
        match state {
            "stopped" if !detail.is_empty() => why.push(format!("It was {detail}.")),
            "stopped" | "draining" if self.draining => why.push("The suite is being stopped.".to_owned()),
            // Its words stand below.
            "quarantined" => why.push(format!("{}.", sentence(detail.split(": ").next().unwrap_or_default()))),
            "waiting" | "draining" if !detail.is_empty() => why.push(format!("{}.", sentence(detail))),
            _ => {}
        }
        if let Some(exit) = culprit {
            why.push(format!("Generation {} {}: {}.", exit.generation, exits::what(exit), exits::why(exit)));
        } else if let Some(exit) = self.exits.first().filter(|_| matches!(state, "ready" | "starting" | "removed")) {
            why.push(format!("Generation {} {}: {}.", exit.generation, exits::what(exit), exits::why(exit)));
        } else if self.exits.is_empty() && state == "ready" {
            why.push("None of its processes has ended, as far as is recorded.".to_owned());
        }
        why.extend(self.changes.iter().filter(|change| is_open(change)).map(|change| {
            let reason = if change.reason.is_empty() { String::new() } else { format!(": {}", change.reason) };
            format!("{}, by {}{reason}.", change::sentence(change), change.actor)
        }));
        why
    }

    fn next(&self, lead: Option<&InstanceStatus>, culprit: Option<&ExitRecord>) -> String {
        let name = self.name();
        let start =
            culprit.filter(|culprit| culprit.wait_ms > 0).map(|culprit| culprit.at_ms + i64::try_from(culprit.wait_ms).unwrap_or(0));
        let start = start.map(|at| match u64::try_from(at - self.now_ms) {
            Ok(left) => format!("It is started again in {}, at {}", span(left), moment(at)),
            Err(_) => "It is started again now".to_owned(),
        });
        let Some(lead) = lead else { return "Nothing.".to_owned() };
        match lead.state.as_str() {
            _ if self.draining => "The suite ends, and with it this.".to_owned(),
            "ready" => "It serves; if it ends, it is started again.".to_owned(),
            "starting" => "When it says that it is ready, it serves; if it is not in time, it is killed and started again.".to_owned(),
            "waiting" => "It is started when that is ready.".to_owned(),
            "draining" => "It ends within its budget, or is killed.".to_owned(),
            "quarantined" if lead.pid.is_some() => {
                "If it becomes ready and stays so, the quarantine is over; else it is tried again later.".to_owned()
            }
            "quarantined" => start.map_or_else(
                || "Nothing starts it again but an operator.".to_owned(),
                |start| format!("{start}, on trial, and then again and again."),
            ),
            "backing_off" => start.map_or_else(|| "It is started again soon.".to_owned(), |start| format!("{start}.")),
            "stopped" => format!("It stays down until an operator starts it: gatehouse start {name}."),
            _ => "Not known.".to_owned(),
        }
    }
}

/// One end on one line.
fn end(exit: &ExitRecord) -> String {
    let memory = if exit.peak_rss_bytes > 0 { format!(", {} MiB at most", exit.peak_rss_bytes >> 20) } else { String::new() };
    format!(
        "{}  generation {} {}{memory}: {}; {}",
        moment(exit.at_ms),
        exit.generation,
        exits::what(exit),
        exits::why(exit),
        exits::then(exit)
    )
}

/// With a capital.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests;
