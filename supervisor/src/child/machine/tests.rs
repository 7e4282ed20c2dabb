//! The machine as a table.

mod adoption;
mod laws;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> Policy {
    Policy {
        ready_timeout: 30 * SECOND,
        budget: 5 * SECOND,
        stable_after: 60 * SECOND,
        ceiling: 10 * SECOND,
        quarantine_after: 3,
        probe_interval: 60 * SECOND,
        overlaps: true,
    }
}

fn exited(generation: u32) -> Event {
    Event::Exited { generation, is_final: false, draw: 0.5 }
}

fn refused(generation: u32) -> Event {
    Event::Exited { generation, is_final: true, draw: 0.5 }
}

fn leaving(generation: u32) -> Event {
    Event::Leaving { generation, draw: 0.5 }
}

fn hung(generation: u32) -> Event {
    Event::Hung { generation, draw: 0.5 }
}

/// Seconds since the start, the event, the actions that it must cause, and the lead's state after it.
type Row = (u32, Event, &'static [Action], &'static str);

fn walk_by(policy: Policy, rows: &[Row]) -> Machine {
    let begun = Instant::now();
    let mut machine = Machine::new(policy, &Memory::default());
    for (i, (second, event, actions, label)) in rows.iter().enumerate() {
        let (next, did) = machine.on(*event, begun + *second * SECOND);
        assert_eq!((&did[..], next.label()), (*actions, *label), "row {i}: {event:?} at {second} s in {:?}", next.state());
        machine = next;
    }
    machine
}

fn walk(rows: &[Row]) -> Machine {
    walk_by(policy(), rows)
}

use Action::{Abort, Kill as DoKill, Spawn, Terminate};
use Event::{Kill, NeedsMet, Ready, Restart, Retire, Start, Stop, Tick};

const STARTED: Row = (0, NeedsMet, &[Spawn(1)], "starting");
const SERVES: [Row; 2] = [STARTED, (1, Ready(1), &[], "ready")];
const RESTARTS: [Row; 3] = [SERVES[0], SERVES[1], (10, Restart, &[Spawn(2)], "ready")];

fn after(before: &[Row], then: &[Row]) -> Machine {
    walk(&[before, then].concat())
}

#[test]
fn a_child_starts_when_its_needs_are_met_serves_and_stops() {
    let machine = walk(&[
        (0, Ready(1), &[], "waiting"),
        STARTED,
        (0, NeedsMet, &[], "starting"),
        (1, Ready(1), &[], "ready"),
        (9, Stop, &[Terminate(1)], "draining"),
        (9, Stop, &[], "draining"),
        (9, Ready(1), &[], "draining"),
        (10, exited(1), &[], "stopped"),
        (11, NeedsMet, &[], "stopped"),
    ]);
    assert!(machine.is_stopped());
}

#[test]
fn the_first_restart_is_at_once_the_next_waits_and_the_third_exit_in_a_row_is_quarantine() {
    let machine = after(
        &SERVES,
        &[
            (2, exited(1), &[Spawn(2)], "starting"),
            (3, exited(2), &[], "backing_off"),
            (3, Tick, &[], "backing_off"),
            (5, Tick, &[Spawn(3)], "starting"),
            (6, Ready(3), &[], "ready"),
            (7, exited(3), &[], "quarantined"),
        ],
    );
    assert_eq!((machine.quarantine(), machine.generations()), (Some(Quarantine::CrashLoop(3)), 3));
}

const CRASH_LOOP: [Row; 7] = [
    STARTED,
    (0, Event::Exited { generation: 1, is_final: false, draw: 0.5 }, &[Spawn(2)], "starting"),
    (0, Event::Exited { generation: 2, is_final: false, draw: 0.5 }, &[], "backing_off"),
    (1, Tick, &[Spawn(3)], "starting"),
    (1, Event::Exited { generation: 3, is_final: false, draw: 0.5 }, &[], "quarantined"),
    (60, Tick, &[], "quarantined"),
    (61, Tick, &[Spawn(4)], "quarantined"),
];

#[test]
fn quarantine_is_probed_slowly_shown_until_the_probe_is_ready_and_forgotten_when_it_has_held() {
    after(&CRASH_LOOP, &[(62, exited(4), &[], "quarantined"), (122, Tick, &[Spawn(5)], "quarantined")]);
    after(&CRASH_LOOP, &[(62, Ready(4), &[], "ready"), (100, exited(4), &[], "quarantined")]);
    let held = after(&CRASH_LOOP, &[(62, Ready(4), &[], "ready"), (122, exited(4), &[Spawn(5)], "starting")]);
    assert_eq!(held.quarantine(), None);
}

#[test]
fn an_operators_restart_ends_quarantine_and_forgets() {
    let before = &CRASH_LOOP[..5];
    let machine = after(before, &[(2, Restart, &[Spawn(4)], "starting"), (3, exited(4), &[Spawn(5)], "starting")]);
    assert_eq!(machine.quarantine(), None);
    after(&[STARTED, (1, refused(1), &[], "quarantined")], &[(2, Start, &[Spawn(2)], "starting")]);
    after(&CRASH_LOOP[..3], &[(0, Restart, &[Spawn(3)], "starting")]);
}

#[test]
fn exits_are_forgotten_after_time_spent_ready_not_after_mere_uptime() {
    walk(&[
        STARTED,
        (0, exited(1), &[Spawn(2)], "starting"),
        // 29 s of starting, then 59 s of being ready: not enough.
        (29, Ready(2), &[], "ready"),
        (88, exited(2), &[], "backing_off"),
        (100, Tick, &[Spawn(3)], "starting"),
        (101, Ready(3), &[], "ready"),
        (161, exited(3), &[Spawn(4)], "starting"),
    ]);
}

#[test]
fn wrong_configuration_is_never_retried() {
    let machine = after(&SERVES, &[(2, refused(1), &[], "quarantined"), (9999, Tick, &[], "quarantined")]);
    assert_eq!((machine.quarantine(), machine.deadline()), (Some(Quarantine::Configuration), None));
}

#[test]
fn a_child_that_is_not_ready_in_time_is_killed_once_and_counts_as_an_exit() {
    walk(&[
        STARTED,
        (29, Tick, &[], "starting"),
        (30, Tick, &[DoKill(1)], "starting"),
        (31, Tick, &[], "starting"),
        (31, Ready(1), &[], "starting"),
        (31, exited(1), &[Spawn(2)], "starting"),
    ]);
}

#[test]
fn a_drain_over_its_budget_and_grace_is_killed_once() {
    after(
        &SERVES,
        &[
            (10, Stop, &[Terminate(1)], "draining"),
            (15, Tick, &[], "draining"),
            (16, Tick, &[DoKill(1)], "draining"),
            (17, Tick, &[], "draining"),
            (17, refused(1), &[], "stopped"),
        ],
    );
}

#[test]
fn a_child_that_leaves_by_itself_is_replaced_while_it_drains_and_bounded() {
    after(
        &SERVES,
        &[
            (10, leaving(1), &[Spawn(2)], "starting"),
            (11, Ready(2), &[], "ready"),
            (16, Tick, &[DoKill(1)], "ready"),
            (16, exited(1), &[], "ready"),
        ],
    );
    let alone = Policy { overlaps: false, ..policy() };
    walk_by(
        alone,
        &[
            &SERVES[..],
            &[(10, leaving(1), &[], "draining"), (16, Tick, &[DoKill(1)], "draining"), (16, exited(1), &[Spawn(2)], "starting")],
        ]
        .concat(),
    );
}

#[test]
fn a_restart_lets_the_new_one_become_ready_before_the_old_one_drains() {
    let machine = after(
        &RESTARTS,
        &[
            (10, Restart, &[], "ready"),
            (11, Ready(2), &[Terminate(1)], "ready"),
            (12, Restart, &[], "ready"),
            (12, leaving(1), &[], "ready"),
            (13, exited(1), &[], "ready"),
            (14, Restart, &[Spawn(3)], "ready"),
        ],
    );
    assert_eq!((machine.lead(), machine.exits_in_a_row), (2, 0));
}

#[test]
fn a_successor_that_fails_leaves_the_lead_serving() {
    let machine = after(&RESTARTS, &[(11, refused(2), &[], "ready"), (12, Restart, &[Spawn(3)], "ready")]);
    assert_eq!((machine.lead(), machine.exits_in_a_row), (1, 0));
    after(&RESTARTS, &[(40, Tick, &[DoKill(2)], "ready"), (40, Ready(2), &[], "ready"), (41, exited(2), &[], "ready")]);
}

#[test]
fn a_lead_that_dies_during_a_restart_is_followed_by_the_successor() {
    let machine = after(&RESTARTS, &[(11, exited(1), &[], "starting"), (12, Ready(2), &[], "ready")]);
    assert_eq!((machine.lead(), machine.exits_in_a_row, machine.other()), (2, 1, None));
    after(&RESTARTS, &[(11, leaving(1), &[], "starting"), (12, Ready(2), &[], "ready"), (13, exited(1), &[], "ready")]);
}

#[test]
fn a_hung_one_is_aborted_and_replaced_at_once() {
    after(
        &SERVES,
        &[
            (10, hung(1), &[Abort(1), Spawn(2)], "starting"),
            (10, hung(1), &[], "starting"),
            (11, Ready(2), &[], "ready"),
            (13, Tick, &[DoKill(1)], "ready"),
            (13, exited(1), &[], "ready"),
        ],
    );
    // In the middle of a restart, with the old one still draining, there is no room for a third.
    after(
        &RESTARTS,
        &[
            (11, Ready(2), &[Terminate(1)], "ready"),
            (12, hung(2), &[Abort(2)], "draining"),
            (13, exited(1), &[], "draining"),
            (13, exited(2), &[Spawn(3)], "starting"),
        ],
    );
    after(&RESTARTS, &[(11, hung(1), &[Abort(1)], "starting"), (12, Ready(2), &[], "ready"), (12, exited(1), &[], "ready")]);
    // Whoever is not ready has proved nothing that could be missed.
    after(&[STARTED], &[(10, hung(1), &[], "starting")]);
}

#[test]
fn what_may_not_overlap_is_stopped_before_it_is_started_again() {
    let alone = Policy { overlaps: false, ..policy() };
    let rows: [Row; 4] = [SERVES[0], SERVES[1], (10, Restart, &[Terminate(1)], "draining"), (11, exited(1), &[Spawn(2)], "starting")];
    assert_eq!(walk_by(alone, &rows).exits_in_a_row, 0);
}

#[test]
fn an_operators_stop_is_overridden_by_nothing_but_an_operators_start() {
    let stopped: [Row; 2] = [(10, Stop, &[Terminate(1)], "draining"), (11, exited(1), &[], "stopped")];
    let stopped = [&SERVES[..], &stopped].concat();
    let machine = after(&stopped, &[(12, NeedsMet, &[], "stopped"), (999, Tick, &[], "stopped"), (999, hung(1), &[], "stopped")]);
    assert!(machine.is_stopped_by_operator());
    let remembered = Machine::new(policy(), &machine.memory(&Moment::now()));
    assert_eq!((remembered.label(), remembered.generations()), ("stopped", 1));
    assert!(!after(&stopped, &[(12, Start, &[Spawn(2)], "starting")]).is_stopped_by_operator());
    // Wanted again before it has ended.
    after(&stopped[..3], &[(10, Start, &[], "draining"), (11, exited(1), &[Spawn(2)], "starting")]);
    // The suite's own drain is no wish that anybody remembers.
    assert!(!after(&SERVES, &[(9, Retire, &[], "ready"), (9, Stop, &[Terminate(1)], "draining")]).is_stopped_by_operator());
}

#[test]
fn a_stop_ends_both_processes() {
    let machine = after(&RESTARTS, &[(11, Stop, &[Terminate(2), Terminate(1)], "draining"), (12, exited(1), &[], "stopped")]);
    assert!(!machine.is_stopped());
    after(&RESTARTS, &[(11, Kill, &[DoKill(2), DoKill(1)], "draining"), (12, exited(2), &[], "draining"), (12, exited(1), &[], "stopped")]);
}

#[test]
fn stop_is_obeyed_in_every_state() {
    let cases: [(&[Row], &[Row]); 6] = [
        (&[], &[(1, Stop, &[], "stopped")]),
        (&[STARTED], &[(1, Stop, &[Terminate(1)], "draining"), (1, exited(1), &[], "stopped")]),
        (&[STARTED, (30, Tick, &[DoKill(1)], "starting")], &[(31, Stop, &[], "draining"), (31, exited(1), &[], "stopped")]),
        (&CRASH_LOOP[..3], &[(1, Stop, &[], "stopped"), (99, Tick, &[], "stopped")]),
        (&CRASH_LOOP[..5], &[(1, Stop, &[], "stopped"), (99, Tick, &[], "stopped")]),
        (&CRASH_LOOP, &[(61, Stop, &[Terminate(4)], "draining"), (62, exited(4), &[], "stopped")]),
    ];
    for (before, end) in cases {
        after(before, end);
    }
}

#[test]
fn a_retired_child_serves_on_until_it_is_stopped_and_is_not_replaced() {
    after(&[STARTED], &[(0, Retire, &[], "starting"), (1, Ready(1), &[], "ready"), (2, exited(1), &[], "stopped")]);
    after(&RESTARTS, &[(11, Retire, &[Terminate(2)], "ready"), (12, Restart, &[], "ready"), (12, exited(2), &[], "ready")]);
    walk(&[(0, Retire, &[], "stopped"), (0, NeedsMet, &[], "stopped")]);
}
