//! The machine as a table, and its one law: nothing runs on after a stop.

use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

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
    }
}

const EXITED: Event = Event::Exited { is_final: false, draw: 0.5 };
const EXITED_FOR_GOOD: Event = Event::Exited { is_final: true, draw: 0.5 };

/// Seconds since the start, the event, the action that it must cause, and the state after it.
type Row = (u32, Event, Option<Action>, &'static str);

fn walk(rows: &[Row]) -> Machine {
    let begun = Instant::now();
    let mut machine = Machine::new(policy());
    for (i, (second, event, action, label)) in rows.iter().enumerate() {
        let (next, did) = machine.on(*event, begun + *second * SECOND);
        assert_eq!((did, next.label()), (*action, *label), "row {i}: {event:?} at {second} s in {:?}", next.state());
        machine = next;
    }
    machine
}

use Action::{Kill as DoKill, Spawn, Terminate};
use Event::{Kill, Leaving, NeedsMet, Ready, Retire, Stop, Tick};

#[test]
fn a_child_starts_when_its_needs_are_met_serves_and_stops() {
    walk(&[
        (0, Ready, None, "waiting"),
        (0, NeedsMet, Some(Spawn), "starting"),
        (0, NeedsMet, None, "starting"),
        (1, Ready, None, "ready"),
        (9, Stop, Some(Terminate), "draining"),
        (9, Stop, None, "draining"),
        (9, Ready, None, "draining"),
        (10, EXITED, None, "stopped"),
        (11, NeedsMet, None, "stopped"),
    ]);
}

#[test]
fn the_first_restart_is_at_once_the_next_waits_and_the_third_exit_in_a_row_is_quarantine() {
    let machine = walk(&[
        (0, NeedsMet, Some(Spawn), "starting"),
        (1, Ready, None, "ready"),
        (2, EXITED, Some(Spawn), "starting"),
        (3, EXITED, None, "backing_off"),
        (3, Tick, None, "backing_off"),
        (5, Tick, Some(Spawn), "starting"),
        (6, Ready, None, "ready"),
        (7, EXITED, None, "quarantined"),
    ]);
    assert_eq!((machine.quarantine(), machine.spawns()), (Some(Quarantine::CrashLoop(3)), 3));
}

#[test]
fn quarantine_is_probed_slowly_shown_until_the_probe_is_ready_and_forgotten_when_it_has_held() {
    let crash_loop: [Row; 7] = [
        (0, NeedsMet, Some(Spawn), "starting"),
        (0, EXITED, Some(Spawn), "starting"),
        (0, EXITED, None, "backing_off"),
        (1, Tick, Some(Spawn), "starting"),
        (1, EXITED, None, "quarantined"),
        (60, Tick, None, "quarantined"),
        (61, Tick, Some(Spawn), "quarantined"),
    ];
    let failed_again: [Row; 2] = [(62, EXITED, None, "quarantined"), (122, Tick, Some(Spawn), "quarantined")];
    walk(&[&crash_loop[..], &failed_again].concat());
    let ready_but_not_for_long: [Row; 2] = [(62, Ready, None, "ready"), (100, EXITED, None, "quarantined")];
    walk(&[&crash_loop[..], &ready_but_not_for_long].concat());
    let held: [Row; 2] = [(62, Ready, None, "ready"), (122, EXITED, Some(Spawn), "starting")];
    assert_eq!(walk(&[&crash_loop[..], &held].concat()).quarantine(), None);
}

#[test]
fn exits_are_forgotten_after_time_spent_ready_not_after_mere_uptime() {
    walk(&[
        (0, NeedsMet, Some(Spawn), "starting"),
        (0, EXITED, Some(Spawn), "starting"),
        // 29 s of starting, then 59 s of being ready: not enough.
        (29, Ready, None, "ready"),
        (88, EXITED, None, "backing_off"),
        (100, Tick, Some(Spawn), "starting"),
        (101, Ready, None, "ready"),
        (161, EXITED, Some(Spawn), "starting"),
    ]);
}

#[test]
fn wrong_configuration_is_never_retried() {
    let machine = walk(&[
        (0, NeedsMet, Some(Spawn), "starting"),
        (1, Ready, None, "ready"),
        (2, EXITED_FOR_GOOD, None, "quarantined"),
        (9999, Tick, None, "quarantined"),
    ]);
    assert_eq!((machine.quarantine(), machine.deadline()), (Some(Quarantine::Configuration), None));
}

#[test]
fn a_child_that_is_not_ready_in_time_is_killed_once_and_counts_as_an_exit() {
    walk(&[
        (0, NeedsMet, Some(Spawn), "starting"),
        (29, Tick, None, "starting"),
        (30, Tick, Some(DoKill), "starting"),
        (31, Tick, None, "starting"),
        (31, Ready, None, "starting"),
        (31, EXITED, Some(Spawn), "starting"),
    ]);
}

#[test]
fn a_drain_over_its_budget_and_grace_is_killed_once() {
    walk(&[
        (0, NeedsMet, Some(Spawn), "starting"),
        (0, Ready, None, "ready"),
        (10, Stop, Some(Terminate), "draining"),
        (15, Tick, None, "draining"),
        (16, Tick, Some(DoKill), "draining"),
        (17, Tick, None, "draining"),
        (17, EXITED_FOR_GOOD, None, "stopped"),
    ]);
}

#[test]
fn a_child_that_leaves_by_itself_is_replaced_and_bounded() {
    walk(&[
        (0, NeedsMet, Some(Spawn), "starting"),
        (0, Ready, None, "ready"),
        (10, Leaving, None, "draining"),
        (16, Tick, Some(DoKill), "draining"),
        (16, EXITED, Some(Spawn), "starting"),
    ]);
}

#[test]
fn stop_is_obeyed_in_every_state() {
    let quarantined: &[Row] = &[(0, NeedsMet, Some(Spawn), "starting"), (0, EXITED_FOR_GOOD, None, "quarantined")];
    let backing_off: &[Row] =
        &[(0, NeedsMet, Some(Spawn), "starting"), (0, EXITED, Some(Spawn), "starting"), (0, EXITED, None, "backing_off")];
    for (before, end) in [
        (&[][..], vec![(1, Stop, None, "stopped")]),
        (&[(0, NeedsMet, Some(Spawn), "starting")], vec![(1, Stop, Some(Terminate), "draining"), (1, EXITED, None, "stopped")]),
        (
            &[(0, NeedsMet, Some(Spawn), "starting"), (30, Tick, Some(DoKill), "starting")],
            vec![(31, Stop, None, "draining"), (31, EXITED, None, "stopped")],
        ),
        (
            &[(0, NeedsMet, Some(Spawn), "starting"), (0, Ready, None, "ready"), (1, Leaving, None, "draining")],
            vec![(1, Stop, None, "draining"), (1, EXITED, None, "stopped")],
        ),
        (backing_off, vec![(1, Stop, None, "stopped"), (99, Tick, None, "stopped")]),
        (quarantined, vec![(1, Stop, None, "stopped"), (99, Tick, None, "stopped")]),
    ] {
        walk(&[before, &end].concat());
    }
}

#[test]
fn a_retired_child_serves_on_until_it_is_stopped_and_is_not_replaced() {
    walk(&[(0, NeedsMet, Some(Spawn), "starting"), (0, Retire, None, "starting"), (1, Ready, None, "ready"), (2, EXITED, None, "stopped")]);
    walk(&[(0, Retire, None, "stopped"), (0, NeedsMet, None, "stopped")]);
}

fn events() -> impl Strategy<Value = Event> {
    let exited = (proptest::bool::ANY, 0.0..1.0).prop_map(|(is_final, draw)| Event::Exited { is_final, draw });
    prop_oneof![Just(NeedsMet), Just(Ready), Just(Leaving), exited, Just(Tick), Just(Stop), Just(Kill), Just(Retire)]
}

proptest! {
    /// The machine against a model of the process that it governs: never two at once, none started once it was stopped or the suite drains,
    /// and what was stopped ends by itself when time passes.
    #[test]
    fn no_sequence_of_events_leaves_it_running_after_a_stop(steps in proptest::collection::vec((events(), 0_u64..40), 0..60)) {
        let (mut now, mut machine) = (Instant::now(), Machine::new(policy()));
        let (mut runs, mut over, mut stopped) = (false, false, false);
        for (event, seconds) in steps {
            now += u32::try_from(seconds).unwrap() * SECOND;
            // A process that is not there does not speak.
            if !runs && matches!(event, Event::Exited { .. } | Ready | Leaving) {
                continue;
            }
            over |= matches!(event, Stop | Kill | Retire);
            stopped |= matches!(event, Stop | Kill);
            runs &= !matches!(event, Event::Exited { .. });
            let (next, action) = machine.on(event, now);
            machine = next;
            if action == Some(Spawn) {
                assert!(!runs && !over, "{event:?} started a process in {:?}", machine.state());
                runs = true;
            }
            let has_process = matches!(machine.state(), State::Starting { .. } | State::Ready { .. } | State::Draining { .. });
            assert_eq!(has_process, runs, "after {event:?}: {:?}", machine.state());
        }
        if stopped {
            if runs {
                // It is killed at its deadline, unless it was already.
                if let Some(deadline) = machine.deadline() {
                    let (next, action) = machine.on(Tick, deadline);
                    assert_eq!(action, Some(DoKill));
                    machine = next;
                }
                machine = machine.on(EXITED, now).0;
            }
            assert_eq!(machine.state(), State::Stopped);
        }
    }
}
