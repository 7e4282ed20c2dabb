use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::audit::record;

const WINDOW: Duration = Duration::from_secs(10);

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

fn refusal(action: &str, request_id: &str) -> AuditRecord {
    AuditRecord {
        request_id: Some(request_id.into()),
        user_agent: Some("client/1".into()),
        latency_ms: Some(1),
        ip_address: Some("192.0.2.1".into()),
        ..record("command", action, "denied")
    }
}

fn from(address: &str) -> Key {
    Key::new("signature", "command", Who::Address(Some(address.parse().unwrap())))
}

fn counts(due: &[(Key, AuditRecord)]) -> Vec<u32> {
    due.iter().map(|(_, record)| record.event_count).collect()
}

#[test]
fn the_first_is_due_at_once_and_the_rest_together_at_the_end_of_each_window() {
    let (mut groups, t) = (Groups::new(WINDOW, 8), Instant::now());
    assert!(groups.note(from("192.0.2.1"), refusal("a.b", "r-0"), t), "somebody must write it");
    assert_eq!(groups.next(), Some(t));
    let due = groups.take_due(t);
    assert_eq!((counts(&due), due[0].1.request_id.as_deref(), due[0].1.latency_ms), (vec![1], Some("r-0"), Some(1)));
    for i in 1..=5 {
        assert!(!groups.note(from("192.0.2.1"), refusal("a.b", &format!("r-{i}")), at(t, i)), "nobody need be woken");
    }
    assert!(groups.take_due(at(t, 9)).is_empty());
    assert_eq!(groups.next(), Some(at(t, 10)));
    let due = groups.take_due(at(t, 10));
    let gathered = &due[0].1;
    assert_eq!((counts(&due), gathered.action.as_str(), gathered.ip_address.as_deref()), (vec![5], "a.b", Some("192.0.2.1")));
    assert_eq!((gathered.user_agent.as_deref(), &gathered.request_id, gathered.latency_ms), (Some("client/1"), &None, None));
    // A window in which nothing comes is the last.
    groups.note(from("192.0.2.1"), refusal("a.b", "r-6"), at(t, 15));
    assert_eq!(counts(&groups.take_due(at(t, 20))), [1]);
    assert_eq!((groups.take_due(at(t, 30)), groups.len(), groups.next()), (vec![], 0, None));
    groups.note(from("192.0.2.1"), refusal("a.b", "r-7"), at(t, 31));
    assert_eq!(counts(&groups.take_due(at(t, 31))), [1], "and then it is the first again");
}

#[test]
fn what_is_given_back_keeps_the_time_of_its_first() {
    let (mut groups, t) = (Groups::new(WINDOW, 8), Instant::now());
    let refused_at = |ts_us| AuditRecord { ts_us, ..refusal("a.b", "r") };
    groups.note(from("192.0.2.1"), refused_at(1), t);
    let (key, unwritten) = groups.take_due(t).pop().unwrap();
    groups.note(from("192.0.2.1"), refused_at(2), at(t, 1));
    groups.put_back(key, unwritten, at(t, 1));
    let due = groups.take_due(at(t, 11));
    assert_eq!((counts(&due), due[0].1.ts_us), (vec![2], 1));
}

#[test]
fn kinds_are_cause_and_type_and_session_or_network() {
    let keys = [
        Key::new("signature", "command", Who::Address(None)),
        Key::new("replay", "command", Who::Address(None)),
        Key::new("signature", "push", Who::Address(None)),
        Key::new("signature", "command", Who::Session("s")),
        Key::new("signature", "command", Who::Session("t")),
        from("192.0.2.1"),
        from("192.0.2.2"),
        from("2001:db8:1:2::1"),
        from("2001:db8:1:3::1"),
    ];
    for (i, key) in keys.iter().enumerate() {
        assert!(keys.iter().skip(i + 1).all(|other| other != key), "{key:?}");
    }
    assert_eq!(from("2001:db8:1:2::1"), from("2001:db8:1:2:ffff::9"), "one network");
    assert_eq!(from("::ffff:192.0.2.1"), from("192.0.2.1"));
}

#[test]
fn what_differs_is_left_out_and_several_actions_are_a_star() {
    let (mut groups, t) = (Groups::new(WINDOW, 8), Instant::now());
    let other = AuditRecord { ip_address: Some("192.0.2.2".into()), grpc_code: Some("UNAUTHENTICATED".into()), ..refusal("c.d", "r-1") };
    groups.note(from("192.0.2.1"), AuditRecord { grpc_code: Some("UNAUTHENTICATED".into()), ..refusal("a.b", "r-1") }, t);
    groups.note(from("192.0.2.1"), other, t);
    let (_, gathered) = groups.take_due(t).remove(0);
    assert_eq!((gathered.action.as_str(), gathered.ip_address, gathered.event_count), ("*", None, 2));
    assert_eq!(
        (gathered.request_id.as_deref(), gathered.grpc_code.as_deref()),
        (Some("r-1"), Some("UNAUTHENTICATED")),
        "what they share stays"
    );
}

#[test]
fn what_could_not_be_written_comes_with_what_was_refused_meanwhile() {
    let (mut groups, t) = (Groups::new(WINDOW, 8), Instant::now());
    groups.note(from("192.0.2.1"), refusal("a.b", "r-0"), t);
    let (key, gathered) = groups.take_due(t).remove(0);
    groups.note(from("192.0.2.1"), refusal("a.b", "r-1"), at(t, 1));
    groups.put_back(key, gathered, at(t, 2));
    assert!(groups.take_due(at(t, 9)).is_empty());
    assert_eq!(counts(&groups.take_due(at(t, 10))), [2]);
    // A trail that takes nothing is not asked before the next window.
    groups.note(from("192.0.2.1"), refusal("a.b", "r-2"), at(t, 11));
    groups.put_off(at(t, 20));
    assert_eq!((groups.next(), groups.take_due(at(t, 29)).len()), (Some(at(t, 30)), 0));
    assert_eq!(counts(&groups.take_due(at(t, 30))), [1]);
}

#[derive(Clone, Debug)]
enum Step {
    Note {
        cause: usize,
        from: u32,
    },
    /// So many seconds later what is due is written, or not.
    Write {
        after: u64,
        fails: bool,
    },
    PutOff,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3_usize, 0..40_u32).prop_map(|(cause, from)| Step::Note { cause, from }),
        2 => (0..15_u64, any::<bool>()).prop_map(|(after, fails)| Step::Write { after, fails }),
        1 => Just(Step::PutOff),
    ];
    prop::collection::vec(step, 0..400)
}

proptest! {
    #[test]
    fn every_refusal_is_counted_once_and_records_and_groups_are_few(steps in steps()) {
        const KINDS: usize = 8;
        let causes = ["signature", "stale", "replay"];
        let (mut groups, start) = (Groups::new(WINDOW, KINDS), Instant::now());
        let (mut now, mut noted, mut counted, mut records) = (start, 0, 0, 0);
        for step in steps {
            match step {
                Step::Note { cause, from } => {
                    let address = std::net::IpAddr::V4(Ipv4Addr::from_bits(from));
                    groups.note(Key::new(causes[cause], "command", Who::Address(Some(address))), refusal("a.b", "r"), now);
                    noted += 1;
                }
                Step::Write { after, fails } => {
                    now += Duration::from_secs(after);
                    for (key, record) in groups.take_due(now) {
                        if fails {
                            groups.put_back(key, record, now);
                        } else {
                            counted += record.event_count;
                            records += 1;
                        }
                    }
                }
                Step::PutOff => groups.put_off(now),
            }
            prop_assert!(groups.len() <= KINDS + causes.len());
        }
        let windows = (now - start).as_secs() / WINDOW.as_secs() + 1;
        // In each window a group ends at most, and another begins in its place.
        prop_assert!(records <= 2 * windows * (KINDS + causes.len()) as u64, "{records} records in {windows} windows");
        counted += groups.take_all().iter().map(|(_, record)| record.event_count).sum::<u32>();
        prop_assert_eq!(counted, noted);
    }
}
