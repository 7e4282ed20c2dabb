use std::{sync::Arc, time::Duration};

use prometheus::{IntCounter, IntGauge};

use super::{
    Verdict::{Failure, Nothing, Success},
    permit::Breaker,
    *,
};

fn setting() -> CircuitBreaker {
    CircuitBreaker { window: Duration::from_secs(10), min_requests: 4, failure_percent: 50, open_time: Duration::from_secs(5), probes: 2 }
}

/// One thing that happens.
enum Step {
    /// As many requests are let through and end so.
    Ends(u32, Verdict),
    /// Time passes.
    Passes(u64),
    /// The next request is rejected.
    Rejects,
    /// An operator resets it.
    Resets,
}

use Step::{Ends, Passes, Rejects, Resets};

#[test]
fn each_way_through_the_machine_ends_where_the_diagram_says() {
    let rows: [(&str, &[Step], State); 14] = [
        ("as new", &[], State::Closed),
        ("too few requests", &[Ends(3, Failure)], State::Closed),
        ("enough failures", &[Ends(2, Success), Ends(2, Failure), Rejects], State::Open),
        ("too low a share of them", &[Ends(4, Success), Ends(3, Failure)], State::Closed),
        ("what is nobody's fault is not counted", &[Ends(100, Nothing), Ends(3, Failure)], State::Closed),
        ("failures long ago", &[Ends(3, Failure), Passes(10), Ends(1, Failure)], State::Closed),
        ("not yet", &[Ends(4, Failure), Passes(4), Rejects], State::Open),
        ("half-open by time alone", &[Ends(4, Failure), Passes(5)], State::HalfOpen),
        ("one probe is not enough", &[Ends(4, Failure), Passes(5), Ends(1, Success)], State::HalfOpen),
        ("closed by as many probes", &[Ends(4, Failure), Passes(5), Ends(2, Success)], State::Closed),
        ("open again by one", &[Ends(4, Failure), Passes(5), Ends(1, Success), Ends(1, Failure), Rejects], State::Open),
        ("open again for as long", &[Ends(4, Failure), Passes(5), Ends(1, Failure), Passes(5)], State::HalfOpen),
        ("clients that leave close and open nothing", &[Ends(4, Failure), Passes(5), Ends(50, Nothing)], State::HalfOpen),
        ("reset, with nothing counted", &[Ends(4, Failure), Resets, Ends(3, Failure)], State::Closed),
    ];
    for (what, steps, state) in rows {
        let mut now = Instant::now();
        let mut circuit = Circuit::new(setting(), now);
        for step in steps {
            match step {
                Ends(times, verdict) => {
                    for _ in 0..*times {
                        let ticket = circuit.admit(now).expect(what);
                        circuit.settle(ticket, *verdict, now);
                    }
                }
                Passes(seconds) => now += Duration::from_secs(*seconds),
                Rejects => assert_eq!(circuit.admit(now), None, "{what}"),
                Resets => circuit.reset(now),
            }
        }
        circuit.tick(now);
        assert_eq!(circuit.state(), state, "{what}");
    }
}

fn opened(now: Instant) -> Circuit {
    let mut circuit = Circuit::new(setting(), now);
    for _ in 0..4 {
        let ticket = circuit.admit(now).unwrap();
        circuit.settle(ticket, Failure, now);
    }
    assert_eq!(circuit.state(), State::Open);
    circuit
}

#[test]
fn a_success_that_is_taken_back_is_one_failure_of_the_state_that_let_it_through() {
    let now = Instant::now();
    let success = |circuit: &mut Circuit, now| {
        let ticket = circuit.admit(now).unwrap();
        circuit.settle(ticket, Success, now);
        ticket
    };
    let mut circuit = Circuit::new(CircuitBreaker { failure_percent: 100, ..setting() }, now);
    let tickets: Vec<_> = (0..4).map(|_| success(&mut circuit, now)).collect();
    for (ticket, state) in tickets.iter().zip([State::Closed, State::Closed, State::Closed, State::Open]) {
        circuit.take_back(*ticket, now);
        assert_eq!(circuit.state(), state, "all four have failed, and no other was there");
    }

    let now = now + Duration::from_secs(5);
    let first = success(&mut circuit, now);
    circuit.take_back(tickets[0], now);
    assert_eq!(circuit.state(), State::HalfOpen, "that one tells of a time that is over");
    circuit.take_back(first, now);
    assert_eq!(circuit.state(), State::Open);
    circuit.take_back(first, now);
    assert_eq!(circuit.state(), State::Open);
}

#[test]
fn half_open_lets_no_more_through_than_its_probes() {
    let start = Instant::now();
    let (mut circuit, now) = (opened(start), start + Duration::from_secs(5));
    let (first, second) = (circuit.admit(now).unwrap(), circuit.admit(now).unwrap());
    assert_eq!(circuit.admit(now), None);
    circuit.settle(first, Nothing, now);
    let third = circuit.admit(now).expect("the place of one that counts as nothing is free");
    assert_eq!(circuit.admit(now), None);
    circuit.settle(second, Success, now);
    assert_eq!(circuit.admit(now), None, "one succeeded, one runs: the last place is taken");
    circuit.settle(third, Success, now);
    assert_eq!(circuit.state(), State::Closed);
}

#[test]
fn what_was_let_through_before_a_change_of_state_counts_as_nothing_after_it() {
    let start = Instant::now();
    let mut circuit = Circuit::new(setting(), start);
    let slow = circuit.admit(start).unwrap();
    for _ in 0..4 {
        let ticket = circuit.admit(start).unwrap();
        circuit.settle(ticket, Failure, start);
    }
    let now = start + Duration::from_secs(5);
    let probe = circuit.admit(now).unwrap();
    circuit.settle(slow, Failure, now);
    assert_eq!(circuit.state(), State::HalfOpen, "a failure of before it opened");
    circuit.settle(probe, Failure, now);
    let now = now + Duration::from_secs(5);
    circuit.tick(now);
    circuit.settle(probe, Success, now);
    let places = (0..3).filter(|_| circuit.admit(now).is_some()).count();
    assert_eq!(places, 2, "and neither frees nor takes a place of another half-open");
}

#[test]
fn a_share_of_none_never_opens() {
    let now = Instant::now();
    let mut circuit = Circuit::new(CircuitBreaker { failure_percent: 0, ..setting() }, now);
    for _ in 0..1000 {
        let ticket = circuit.admit(now).unwrap();
        circuit.settle(ticket, Failure, now);
    }
    assert_eq!(circuit.state(), State::Closed);
}

#[test]
fn a_permit_that_is_dropped_gives_its_place_back() {
    let (gauge, counter) = (IntGauge::new("g", "g").unwrap(), IntCounter::new("c", "c").unwrap());
    let setting = CircuitBreaker { open_time: Duration::ZERO, ..setting() };
    let breaker = Arc::new(Breaker::new(&"orders".into(), &setting, gauge.clone(), counter.clone()));
    let opened = (0..4).map(|_| breaker.admit().unwrap().settle(Failure)).collect::<Vec<_>>();
    assert_eq!((opened, gauge.get()), (vec![false, false, false, true], 2));
    for _ in 0..10 {
        let held = [breaker.admit().unwrap(), breaker.admit().unwrap()];
        assert!(breaker.admit().is_none());
        drop(held);
    }
    assert_eq!((gauge.get(), counter.get(), breaker.state()), (1, 10, State::HalfOpen));
    let probes = [breaker.admit().unwrap(), breaker.admit().unwrap()];
    for probe in probes {
        probe.settle(Success);
    }
    assert_eq!((gauge.get(), breaker.state()), (0, State::Closed));
}
