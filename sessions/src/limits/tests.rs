use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use gatehouse_chassis::config::{Config as _, Reader, Source};

use super::*;

mod model;
mod shared;

const SECOND: u64 = 1_000_000_000;

/// Limits of a test, whose clock stands until it is moved.
fn limits(text: &str) -> (Limits, Metrics) {
    let metrics = Metrics::new("test", 0);
    (limits_on(text, &metrics), metrics)
}

fn limits_on(text: &str, metrics: &Metrics) -> Limits {
    Limits::new(&configured(text), metrics, Clock::Set(AtomicU64::new(SECOND)))
}

fn configured(text: &str) -> limit::Limits {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("signer.pem");
    gatehouse_testkit::write_private(&key, &gatehouse_proto::keys::Signer::from_seed(&[7; 32]).to_pkcs8_pem().unwrap());
    let mut reader = Reader::new(Source::of(text, &[("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", key.to_str().unwrap())]));
    let config = Config::read(&mut reader).unwrap();
    assert_eq!(reader.into_problems(), []);
    config.limits
}

impl Limits {
    fn wait(&self, span: Duration) {
        let Clock::Set(now) = &self.inner.clock else { panic!("a clock that goes by itself") };
        now.fetch_add(nanos(span), Ordering::Relaxed);
    }

    /// How many of so many at once are admitted.
    fn admitted(&self, of: u32, subject: Subject<'_>) -> u32 {
        (0..of).map(|_| u32::from(self.take(&subject).is_ok())).sum()
    }
}

fn of_session(id: &str) -> Subject<'_> {
    Subject { device_session_id: id, user_id: "u-1", message_type: "orders.create", address: None }
}

fn from(address: &str) -> Subject<'static> {
    let address: IpAddr = address.parse().unwrap();
    Subject { device_session_id: "ds-1", user_id: "u-1", message_type: "orders.create", address: Some(address) }
}

fn sample(metrics: &Metrics, name: &str, labels: &[&str]) -> f64 {
    let text = metrics.text();
    let is = |line: &&str| line.starts_with(name) && labels.iter().all(|label| line.contains(&format!("\"{label}\"")));
    text.lines().find(is).and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
}

#[test]
fn each_session_has_its_own_rate() {
    let (limits, _) = limits("[limits]\ncommands_per_second = 2\nburst = 3\n");
    assert_eq!(limits.admitted(9, of_session("a")), 3);
    assert_eq!(limits.admitted(9, of_session("b")), 3);
    limits.wait(Duration::from_secs(1));
    assert_eq!(limits.admitted(9, of_session("a")), 2);
}

#[test]
fn without_limits_everything_is_admitted() {
    let (limits, _) = limits("");
    assert_eq!(limits.admitted(1000, of_session("a")), 1000);
}

#[test]
fn the_wait_is_honest_to_the_millisecond() {
    let (limits, _) = limits("[[limit]]\nname = \"m\"\nper = \"user\"\nrate = \"7/m\"\nburst = 2\n");
    limits.wait(Duration::from_nanos(123_456_789));
    for _ in 0..20 {
        let Err(wait) = limits.take(&of_session("a")) else { continue };
        assert_eq!(wait.subsec_nanos() % 1_000_000, 0);
        limits.wait(wait.saturating_sub(Duration::from_millis(1)));
        assert!(limits.take(&of_session("a")).is_err(), "a millisecond before");
        limits.wait(Duration::from_millis(1));
        assert_eq!(limits.take(&of_session("a")), Ok(()));
    }
}

#[test]
fn a_refusal_takes_nothing_from_the_limits_it_passed_wherever_they_stand() {
    let text = r#"
[[limit]]
name = "first"
per = "user"
rate = "1/h"
burst = 5
[[limit]]
name = "narrow"
per = "session"
rate = "1/m"
burst = 1
[[limit]]
name = "last"
per = "all"
rate = "1/h"
burst = 6
"#;
    let (limits, metrics) = limits(text);
    assert_eq!(limits.admitted(100, of_session("a")), 1, "the narrow one");
    let passed: u32 = ["b", "c", "d", "e", "f", "g"].map(|id| limits.admitted(1, of_session(id))).iter().sum();
    assert_eq!(passed, 4, "the user has used no more than they were given");
    let wait = limits.take(&of_session("a")).unwrap_err();
    assert_eq!(wait, Duration::from_hours(1), "the longest of those that refuse");
    let decided = |limit, outcome| sample(&metrics, "limit_decisions_total", &[limit, outcome]);
    assert!((decided("first", "admitted") - 5.0).abs() < 0.1 && (decided("last", "admitted") - 5.0).abs() < 0.1);
    assert!((decided("narrow", "refused") - 100.0).abs() < 0.1, "99 of the hundred, and the last");
    assert!((decided("first", "refused") - 3.0).abs() < 0.1);
    assert_eq!(limits.admitted(1, Subject { user_id: "u-2", ..of_session("h") }), 1, "one token of all was left");
    assert_eq!(limits.admitted(1, Subject { user_id: "u-3", ..of_session("i") }), 0);
}

#[test]
fn only_what_the_pattern_names_is_counted() {
    let (limits, _) = limits("[[limit]]\nname = \"orders\"\nper = \"message_type\"\nmessage_type = \"orders.*\"\nrate = \"1/h\"\n");
    let of_type = |message_type| Subject { message_type, ..of_session("a") };
    assert_eq!(limits.admitted(5, of_type("orders.create")), 1);
    assert_eq!(limits.admitted(5, of_type("orders.list")), 1, "its own bucket");
    assert_eq!(limits.admitted(5, of_type("echo")), 5);
}

#[test]
fn an_address_is_a_host_of_ipv4_and_a_site_of_ipv6() {
    let (limits, _) = limits("[[limit]]\nname = \"address\"\nper = \"address\"\nrate = \"1/h\"\nburst = 2\n");
    assert_eq!(limits.admitted(5, from("192.0.2.1")), 2);
    assert_eq!(limits.admitted(5, from("192.0.2.2")), 2);
    assert_eq!(limits.admitted(1, from("2001:db8::1")) + limits.admitted(1, from("2001:db8::ffff:1")), 2);
    assert_eq!(limits.admitted(5, from("2001:db8::2")), 0);
    assert_eq!(limits.admitted(5, of_session("a")), 5, "a peer without an address");
}

#[test]
fn keys_beyond_the_cap_are_limited_together_until_others_are_forgotten() {
    let (limits, metrics) = limits("[limits]\nmax_keys = 2\n[[limit]]\nname = \"s\"\nper = \"session\"\nrate = 1\nburst = 2\n");
    assert_eq!(["a", "b"].map(|id| limits.admitted(3, of_session(id))), [2, 2]);
    assert_eq!(["c", "d", "e"].map(|id| limits.admitted(1, of_session(id))), [1, 1, 0]);
    assert!((sample(&metrics, "limit_overflow_total", &["s"]) - 3.0).abs() < 0.1);
    limits.inner.forget();
    assert!((sample(&metrics, "limit_keys", &["s"]) - 2.0).abs() < 0.1);
    limits.wait(Duration::from_secs(2));
    assert_eq!(["f", "g"].map(|id| limits.admitted(3, of_session(id))), [2, 2], "the first two are idle");
    limits.wait(Duration::from_secs(2));
    limits.inner.forget();
    assert!(sample(&metrics, "limit_keys", &["s"]) < 0.1);
}
