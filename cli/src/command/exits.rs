//! Ends of processes in plain words, from the supervisor's ledger.

use gatehouse_chassis::boot::describe_exit;
use gatehouse_proto::internal::v1::ExitRecord;
use serde_json::{Value, json};

use super::time::span;

/// For programs.
pub fn document(exit: &ExitRecord) -> Value {
    let ExitRecord {
        at_ms,
        component,
        instance,
        generation,
        pid,
        exit,
        cause,
        code,
        signal,
        uptime_ms,
        peak_rss_bytes,
        build,
        last_words,
        dump,
        next,
        detail,
        exits_in_a_row,
        wait_ms,
    } = exit;
    let present = |text: &String| (!text.is_empty()).then(|| text.clone());
    json!({
        "at_ms": at_ms,
        "component": component,
        "instance": instance,
        "generation": generation,
        "pid": (*pid > 0).then_some(pid),
        "exit": exit,
        "cause": cause,
        "detail": present(detail),
        "code": code,
        "signal": signal,
        "uptime_ms": uptime_ms,
        "peak_rss_bytes": (*peak_rss_bytes > 0).then_some(peak_rss_bytes),
        "build": present(build),
        "exits_in_a_row": exits_in_a_row,
        "next": next,
        "wait_ms": (*wait_ms > 0).then_some(wait_ms),
        "dump": present(dump),
        "last_words": last_words,
    })
}

/// Whether somebody wanted it to end.
pub fn was_wanted(exit: &ExitRecord) -> bool {
    exit.cause == "asked"
}

/// `ended after 2 min 3 s: signal 9 (SIGKILL)`.
pub fn what(exit: &ExitRecord) -> String {
    let how = exit.code.map_or_else(|| exit.exit.clone(), describe_exit);
    match (exit.pid, exit.cause.as_str()) {
        (0, _) => how,
        // "hung", "not ready in time": what it came to in the end tells nothing more.
        (_, "hung") => format!("hung after {}", span(exit.uptime_ms)),
        (_, "unseen") => format!("ended while no supervisor ran, {} after its start at most", span(exit.uptime_ms)),
        (_, "failed_start") if exit.signal == Some(9) => format!("killed after {}: {}", span(exit.uptime_ms), exit.exit),
        _ => format!("ended after {}: {how}", span(exit.uptime_ms)),
    }
}

/// The cause in words.
pub fn why(exit: &ExitRecord) -> String {
    let ExitRecord { cause, detail, .. } = exit;
    let told = match (cause.as_str(), exit.signal) {
        ("asked", _) => "it was asked to stop",
        ("killed", _) => "it was killed: it had not ended within its budget",
        ("crashed", Some(9)) => "SIGKILL came from outside the supervisor",
        ("crashed", Some(6)) => "it aborted itself",
        ("crashed", Some(4 | 7 | 8 | 11)) => "it crashed in native code",
        ("crashed", Some(_)) => "the signal came from outside the supervisor",
        ("crashed", None) => "it failed while it served",
        ("left", _) => "it left, and nobody had asked it to",
        ("hung", _) => "it made no progress",
        ("out_of_memory", _) => "it ran out of memory",
        ("unseen", _) => "how is not known",
        ("failed_start", _) => "it was never ready",
        ("configuration", _) => "its configuration is wrong",
        (other, _) => other,
    };
    if detail.is_empty() { told.to_owned() } else { format!("{told}: {detail}") }
}

/// What was decided, in words.
pub fn then(exit: &ExitRecord) -> String {
    let row = match exit.exits_in_a_row {
        0 | 1 => String::new(),
        row => format!(", {} in a row", ordinal(row)),
    };
    let told = match (exit.next.as_str(), exit.wait_ms) {
        ("restarted", _) => "started again at once".to_owned(),
        ("replaced", _) => "another had taken its place".to_owned(),
        ("kept", _) => "the one before it served on".to_owned(),
        ("backing_off", wait) => format!("started again {} later", span(wait)),
        ("quarantined", 0) => "quarantined, not tried again".to_owned(),
        ("quarantined", wait) => format!("quarantined, tried again {} later", span(wait)),
        ("stopped", _) => "left down".to_owned(),
        (other, _) => other.to_owned(),
    };
    format!("{told}{row}")
}

fn ordinal(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(cause: &str, code: Option<i32>, signal: Option<i32>) -> ExitRecord {
        let exit = code.map_or_else(|| "signal 9 (SIGKILL)".to_owned(), |code| format!("status {code}"));
        ExitRecord { pid: 7, uptime_ms: 123_000, exit, cause: cause.into(), code, signal, ..ExitRecord::default() }
    }

    #[test]
    fn an_end_is_told_in_plain_words() {
        let crashed = exit("crashed", None, Some(9));
        assert_eq!(what(&crashed), "ended after 2 min 3 s: signal 9 (SIGKILL)");
        assert_eq!(why(&crashed), "SIGKILL came from outside the supervisor");
        let wrong = exit("configuration", Some(78), None);
        assert_eq!(
            (what(&wrong).as_str(), why(&wrong).as_str()),
            ("ended after 2 min 3 s: status 78 (wrong configuration)", "its configuration is wrong")
        );
        let asked = ExitRecord { detail: "restart edge, by alice: leaks".into(), ..exit("asked", Some(0), None) };
        assert_eq!(why(&asked), "it was asked to stop: restart edge, by alice: leaks");
        let hung = ExitRecord { exit: "hung".into(), detail: "silent for 2.6 s".into(), ..exit("hung", None, Some(6)) };
        assert_eq!((what(&hung).as_str(), why(&hung).as_str()), ("hung after 2 min 3 s", "it made no progress: silent for 2.6 s"));
        let unseen = ExitRecord { exit: "status not known (no supervisor ran)".into(), ..exit("unseen", None, None) };
        assert_eq!(
            (what(&unseen).as_str(), why(&unseen).as_str()),
            ("ended while no supervisor ran, 2 min 3 s after its start at most", "how is not known")
        );
        let absent = ExitRecord { pid: 0, exit: "not started: no such file".into(), ..exit("failed_start", None, None) };
        assert_eq!(what(&absent), "not started: no such file");
    }

    #[test]
    fn what_was_decided_is_told_with_its_times() {
        let told =
            |next: &str, wait_ms, exits_in_a_row| then(&ExitRecord { next: next.into(), wait_ms, exits_in_a_row, ..ExitRecord::default() });
        assert_eq!(told("restarted", 0, 1), "started again at once");
        assert_eq!(told("backing_off", 240, 3), "started again 240 ms later, 3rd in a row");
        assert_eq!(told("quarantined", 60_000, 10), "quarantined, tried again 1 min 0 s later, 10th in a row");
        assert_eq!(told("quarantined", 0, 1), "quarantined, not tried again");
        assert_eq!([ordinal(11), ordinal(21), ordinal(22), ordinal(113)], ["11th", "21st", "22nd", "113th"]);
    }
}
