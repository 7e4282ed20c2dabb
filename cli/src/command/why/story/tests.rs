use super::*;

const NOW: i64 = 1_767_225_600_000;

fn edge(state: &str, pid: Option<u32>, detail: &str) -> InstanceStatus {
    let (component, state, detail) = ("edge".into(), state.into(), detail.into());
    InstanceStatus { component, state, detail, pid, generation: 4, uptime_ms: 61_000, ..InstanceStatus::default() }
}

fn exit(generation: u32, ago_ms: i64, cause: &str, next: &str) -> ExitRecord {
    ExitRecord {
        at_ms: NOW - ago_ms,
        component: "edge".into(),
        generation,
        pid: 100 + generation,
        exit: "status 75".into(),
        code: Some(75),
        cause: cause.into(),
        uptime_ms: 40,
        next: next.into(),
        last_words: vec![format!("ERROR no port {generation}")],
        ..ExitRecord::default()
    }
}

fn records(process: InstanceStatus, exits: Vec<ExitRecord>) -> Records {
    Records { component: "edge".into(), processes: vec![process], exits, now_ms: NOW, ..Records::default() }
}

fn told(records: &Records) -> String {
    Story::of(records).lines().join("\n")
}

#[test]
fn a_quarantine_is_explained_with_its_evidence_its_next_trial_and_the_way_out() {
    let quarantined = ExitRecord { wait_ms: 60_000, exits_in_a_row: 7, ..exit(7, 18_000, "failed_start", "quarantined") };
    let before = (1..7).rev().map(|generation| {
        let wait_ms = 100;
        ExitRecord {
            wait_ms,
            exits_in_a_row: generation,
            ..exit(generation, 20_000 - i64::from(generation), "failed_start", "backing_off")
        }
    });
    let exits = std::iter::once(quarantined).chain(before).collect();
    let records = records(edge("quarantined", None, "7 exits in a row, tried again slowly: no port 7"), exits);
    let expected = "\
edge is down, in quarantine.

Why
  7 exits in a row, tried again slowly.
  Generation 7 ended after 40 ms: status 75 (something it needs is missing): it was never ready.

Ended before, the newest first
  2025-12-31T23:59:42Z  generation 7 ended after 40 ms: status 75 (something it needs is missing): it was never ready; quarantined, tried again 1 min 0 s later, 7th in a row
  2025-12-31T23:59:40Z  generation 6 ended after 40 ms: status 75 (something it needs is missing): it was never ready; started again 100 ms later, 6th in a row
  2025-12-31T23:59:40Z  generation 5 ended after 40 ms: status 75 (something it needs is missing): it was never ready; started again 100 ms later, 5th in a row
  2025-12-31T23:59:40Z  generation 4 ended after 40 ms: status 75 (something it needs is missing): it was never ready; started again 100 ms later, 4th in a row
  2025-12-31T23:59:40Z  generation 3 ended after 40 ms: status 75 (something it needs is missing): it was never ready; started again 100 ms later, 3rd in a row
  and 2 before, since 2025-12-31T23:59:40Z

What generation 7 said last
  ERROR no port 7

Next
  It is started again in 42.0 s, at 2026-01-01T00:00:42Z, on trial, and then again and again.

What to do
  See what led to it: gatehouse logs edge --since 2025-12-31T23:58:42Z
  Start it now, with its history forgotten: gatehouse restart edge";
    assert_eq!(told(&records), expected);
}

#[test]
fn wrong_configuration_is_not_tried_again_and_the_check_is_named() {
    let wrong = ExitRecord { exit: "status 78".into(), code: Some(78), exits_in_a_row: 1, ..exit(3, 5000, "configuration", "quarantined") };
    let records = records(edge("quarantined", None, "wrong configuration, not tried again: listen.http: no port"), vec![wrong]);
    let told = told(&records);
    for part in [
        "Wrong configuration, not tried again.",
        "Nothing starts it again but an operator.",
        "gatehouse config check",
        "gatehouse restart edge",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn one_that_an_operator_stopped_says_who_and_why_and_blames_no_crash() {
    let asked = ExitRecord {
        code: Some(0),
        exit: "status 0".into(),
        detail: "stop edge, by ada: leaks".into(),
        ..exit(4, 9000, "asked", "stopped")
    };
    let records = records(edge("stopped", None, "stopped by ada: leaks"), vec![asked, exit(3, 99_000, "crashed", "restarted")]);
    let story = Story::of(&records);
    assert_eq!((story.why.as_slice(), story.culprit), (&["It was stopped by ada: leaks.".to_owned()][..], None));
    assert_eq!(story.next, "It stays down until an operator starts it: gatehouse start edge.");
    assert_eq!(story.advice, ["Start it again: gatehouse start edge"]);
}

#[test]
fn one_that_serves_again_after_sigkill_from_outside_says_so_for_a_day() {
    let killed =
        |ago_ms| ExitRecord { exit: "signal 9 (SIGKILL)".into(), code: None, signal: Some(9), ..exit(3, ago_ms, "crashed", "restarted") };
    let recent = records(edge("ready", Some(7), ""), vec![killed(61_000)]);
    let story = Story::of(&recent);
    assert_eq!(story.now, "edge is ready: generation 4, pid 7, for 1 min 1 s.");
    assert_eq!(story.why, ["Generation 3 ended after 40 ms: signal 9 (SIGKILL): SIGKILL came from outside the supervisor."]);
    assert!(story.advice[0].starts_with("Find out who sends SIGKILL"), "{:?}", story.advice);
    let old = records(edge("ready", Some(7), ""), vec![killed(NEWS + 1)]);
    let story = Story::of(&old);
    assert_eq!((story.advice.as_slice(), story.why.len()), (&["Nothing".to_owned()][..], 1));
}

#[test]
fn one_that_never_ended_has_nothing_to_explain() {
    let records = records(edge("ready", Some(7), ""), Vec::new());
    let story = Story::of(&records);
    assert_eq!(
        (story.why.as_slice(), story.advice.as_slice()),
        (&["None of its processes has ended, as far as is recorded.".to_owned()][..], &["Nothing".to_owned()][..])
    );
}

#[test]
fn a_hang_names_what_stood_still_and_where_its_threads_are() {
    let hung = ExitRecord {
        exit: "hung".into(),
        code: None,
        signal: Some(6),
        detail: "stalled: reader, 1.8 s".into(),
        dump: "/s/dumps/x.txt".into(),
        ..exit(3, 5000, "hung", "replaced")
    };
    let told = told(&records(edge("ready", Some(7), ""), vec![hung]));
    for part in ["hung after 40 ms: it made no progress: stalled: reader, 1.8 s", "See what its threads were doing: /s/dumps/x.txt"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn one_that_waits_names_whom_to_ask_and_one_that_is_replaced_shows_both_and_the_change() {
    let waiting = records(edge("waiting", None, "waits for pusher"), Vec::new());
    assert_eq!(Story::of(&waiting).advice, ["See why it waits: gatehouse why pusher"]);
    let mut replaced = records(edge("ready", Some(7), ""), Vec::new());
    replaced.processes.push(InstanceStatus { generation: 5, ..edge("starting", Some(8), "to replace the one that serves") });
    replaced.changes = vec![ChangeStatus {
        what: "restart edge".into(),
        state: "running".into(),
        actor: "ada".into(),
        reason: "leaks".into(),
        took_ms: 1200,
        ..ChangeStatus::default()
    }];
    let told = told(&replaced);
    assert!(
        told.starts_with(
            "edge is ready: generation 4, pid 7, for 1 min 1 s. Generation 5 beside it is starting (to replace the one that serves)."
        ),
        "{told}"
    );
    assert!(told.contains("restart edge: running for 1.2 s, by ada: leaks."), "{told}");
}

#[test]
fn one_that_was_removed_is_history() {
    let records = Records { processes: Vec::new(), ..records(edge("", None, ""), vec![exit(2, 5000, "asked", "stopped")]) };
    assert!(told(&records).starts_with("edge is not there any more: it was removed."));
}

#[test]
fn programs_get_the_same_with_its_evidence() {
    let records =
        records(edge("quarantined", None, "wrong configuration, not tried again"), vec![exit(3, 5000, "configuration", "quarantined")]);
    let document = Story::of(&records).document();
    assert_eq!((&document["state"], &document["evidence"]["exit"]["generation"]), (&json!("quarantined"), &json!(3)));
    assert_eq!(document["evidence"]["exits"][0]["last_words"], json!(["ERROR no port 3"]));
}
