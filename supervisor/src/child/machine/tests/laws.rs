//! The machine's laws: nothing runs on after a stop, and never more than two at once.

use std::collections::BTreeSet;

use proptest::prelude::{Just, Strategy, prop_oneof, proptest};

use super::*;

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
