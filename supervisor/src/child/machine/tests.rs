//! The machine as a table, and its laws: nothing runs on after a stop, and never more than two at once.

use std::collections::BTreeSet;

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

#[test]
fn the_next_supervisor_takes_over_what_runs_and_remembers_what_was() {
    let now = Instant::now();
    let machine = after(&SERVES, &[(2, exited(1), &[Spawn(2)], "starting"), (3, Ready(2), &[], "ready")]);
    let memory = machine.memory(&Moment::now());
    let adopt = |memory: &Memory, found: &[u32]| {
        let mut next = Machine::new(policy(), memory);
        next.adopt(found, memory, &Moment::now());
        next
    };
    let next = adopt(&memory, &[2]);
    assert_eq!((next.label(), next.lead(), next.other(), next.exits_in_a_row), ("ready", 2, None, 1));
    let next = adopt(&memory, &[2, 3]);
    assert!(matches!((next.label(), next.lead(), next.other()), ("ready", 2, Some(Other::Successor { generation: 3, .. }))));
    let next = adopt(&memory, &[1, 2]);
    assert!(matches!((next.label(), next.lead(), next.other()), ("ready", 2, Some(Other::Outgoing { generation: 1, .. }))));
    // Its lead died while nobody looked: the old one drains, and a new one is started.
    let next = adopt(&memory, &[1]);
    assert!(matches!((next.label(), next.other()), ("waiting", Some(Other::Outgoing { generation: 1, .. }))));
    assert_eq!(next.on(NeedsMet, now).1, [Spawn(3)]);
    // The state file is older than what runs.
    let next = adopt(&Memory::default(), &[7]);
    assert_eq!((next.label(), next.lead(), next.generations()), ("starting", 7, 7));
    // A third has no place.
    let next = adopt(&memory, &[1, 2, 3]);
    assert_eq!([1, 2, 3].map(|generation| next.has(generation)), [true, true, false]);
}

#[test]
fn the_next_supervisor_replaces_what_was_on_its_way_out_and_asks_nobody_twice() {
    let now = Instant::now();
    let adopt = |machine: &Machine, found: &[u32], policy: Policy| {
        let (moment, mut next) = (Moment::now(), Machine::new(policy, &machine.memory(&Moment::now())));
        next.adopt(found, &machine.memory(&moment), &moment);
        next
    };
    // The suite drained.
    let drains = after(&SERVES, &[(9, Retire, &[], "ready"), (9, Stop, &[Terminate(1)], "draining")]);
    let next = adopt(&drains, &[1], policy());
    assert!(matches!((next.label(), next.other()), ("waiting", Some(Other::Outgoing { generation: 1, .. }))) && next.has(1));
    let (next, actions) = next.on(NeedsMet, now);
    assert_eq!((actions, next.on(exited(1), now).0.other()), (vec![Spawn(2)], None));
    // Nothing may run beside it.
    let next = adopt(&drains, &[1], Policy { overlaps: false, ..policy() });
    assert_eq!((next.label(), next.other(), next.clone().on(exited(1), now).1), ("draining", None, vec![Spawn(2)]));
    // An operator stopped it.
    let stops = after(&SERVES, &[(9, Stop, &[Terminate(1)], "draining")]);
    let (next, actions) = adopt(&stops, &[1], policy()).on(Stop, now);
    assert_eq!((next.label(), actions, next.clone().on(exited(1), now).0.label()), ("draining", vec![], "stopped"));
    // It died meanwhile.
    let next = adopt(&stops, &[], policy());
    assert_eq!((next.label(), next.has(1)), ("stopped", false));
}

#[test]
fn what_was_to_be_started_later_is_not_started_sooner_by_the_next_supervisor() {
    let begun = Moment::now();
    let adopt = |rows: &[Row], policy: Policy| {
        // As it stands in the file.
        let memory = serde_json::to_string(&walk(rows).memory(&begun)).unwrap();
        let memory = serde_json::from_str(&memory).unwrap();
        let (now, mut next) = (Moment::now(), Machine::new(policy, &memory));
        next.adopt(&[], &memory, &now);
        (next.label(), next.next_start().map(|start| start.saturating_duration_since(Instant::now())))
    };
    let near = |left: Option<Duration>, seconds: u32| {
        let left = left.unwrap();
        left <= seconds * SECOND + Duration::from_millis(1) && left + SECOND > seconds * SECOND
    };
    // A probe at 61 s.
    let (label, left) = adopt(&CRASH_LOOP[..5], Policy { probe_interval: 90 * SECOND, ..policy() });
    assert!(label == "quarantined" && near(left, 61), "{label}, {left:?}");
    let (label, left) = adopt(&CRASH_LOOP[..5], Policy { probe_interval: 7 * SECOND, ..policy() });
    assert!(label == "quarantined" && near(left, 7), "{label}, {left:?}: no longer than now configured");
    assert_eq!(adopt(&[STARTED, (0, refused(1), &[], "quarantined")], policy()), ("quarantined", None));
    // A start at 100 s and some, by a clock that was set back.
    let late = [STARTED, (100, exited(1), &[Spawn(2)], "starting"), (100, exited(2), &[], "backing_off")];
    let (label, left) = adopt(&late, policy());
    assert!(label == "backing_off" && near(left, 10), "{label}, {left:?}");
    // What was due meanwhile is started at once.
    let mut memory = walk(&CRASH_LOOP[..3]).memory(&begun);
    memory.pause = Some(memory::Pause::BackOff(1));
    let mut next = Machine::new(policy(), &memory);
    next.adopt(&[], &memory, &Moment::now());
    assert_eq!(next.on(Tick, Instant::now()).1, [Spawn(3)]);
}

fn events() -> impl Strategy<Value = Event> {
    let generation = 1_u32..6;
    let exited = (generation.clone(), proptest::bool::ANY, 0.0..1.0).prop_map(|(generation, is_final, draw)| Event::Exited {
        generation,
        is_final,
        draw,
    });
    let of = move |event: fn(u32) -> Event| generation.clone().prop_map(event);
    prop_oneof![
        2 => Just(NeedsMet),
        4 => of(Ready),
        1 => of(leaving),
        1 => of(hung),
        4 => exited,
        2 => Just(Tick),
        2 => Just(Restart),
        1 => Just(Start),
        1 => Just(Stop),
        1 => Just(Kill),
        1 => Just(Retire)
    ]
}

proptest! {
    /// The machine against a model of the processes that it governs: never more than two, none started twice or while the suite drains or an operator's stop
    /// holds, and what was stopped ends by itself when time passes.
    #[test]
    fn no_sequence_of_events_leaves_it_running_after_a_stop(steps in proptest::collection::vec((events(), 0_u64..40), 0..80)) {
        let (mut now, mut machine) = (Instant::now(), Machine::new(policy(), &Memory::default()));
        let (mut alive, mut retired, mut stopped) = (BTreeSet::new(), false, false);
        for (event, seconds) in steps {
            now += u32::try_from(seconds).unwrap() * SECOND;
            // A process that is not there does not speak.
            let (Ready(generation) | Event::Leaving { generation, .. } | Event::Hung { generation, .. } | Event::Exited { generation, .. }) = event
            else {
                (machine, retired, stopped) = step(machine, event, now, &mut alive, retired, stopped);
                continue;
            };
            if alive.contains(&generation) {
                if matches!(event, Event::Exited { .. }) {
                    alive.remove(&generation);
                }
                (machine, retired, stopped) = step(machine, event, now, &mut alive, retired, stopped);
            }
        }
        if stopped {
            // Each is killed at its deadline, unless it was already.
            while let Some(deadline) = machine.deadline() {
                let (next, actions) = machine.on(Tick, deadline);
                assert!(matches!(actions[..], [DoKill(_)] | [DoKill(_), DoKill(_)]), "{actions:?}");
                machine = next;
            }
            for generation in alive {
                machine = machine.on(exited(generation), now).0;
            }
            assert!(machine.is_stopped(), "{machine:?}");
        }
    }
}

fn step(
    machine: Machine,
    event: Event,
    now: Instant,
    alive: &mut BTreeSet<u32>,
    mut retired: bool,
    mut stopped: bool,
) -> (Machine, bool, bool) {
    retired |= event == Retire;
    match event {
        Stop | Kill => stopped = true,
        Restart | Start if !retired => stopped = false,
        _ => {}
    }
    let (machine, actions) = machine.on(event, now);
    for action in actions {
        match action {
            Spawn(generation) => {
                assert!(!retired && !stopped, "{event:?} started a process in {:?}", machine.state());
                assert!(alive.insert(generation), "{generation} twice");
            }
            Terminate(generation) | Abort(generation) | DoKill(generation) => {
                assert!(alive.contains(&generation), "{action:?} after {event:?}");
            }
        }
    }
    let lead = matches!(machine.state(), State::Starting { .. } | State::Ready { .. } | State::Draining { .. });
    let known: BTreeSet<_> = lead.then_some(machine.lead()).into_iter().chain(machine.other().map(Other::generation)).collect();
    assert_eq!(known, *alive, "after {event:?}: {machine:?}");
    (machine, retired, stopped)
}
