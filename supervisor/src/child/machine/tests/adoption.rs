//! What the next supervisor makes of what the last one left.

use super::*;

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
