use gatehouse_chassis::config::{Problem, Source};

use super::*;

fn read(text: &str) -> (Limits, Vec<String>) {
    let mut reader = Reader::new(Source::of(text, &[]));
    let limits = Limits::read(&mut reader);
    (limits, reader.into_problems().iter().map(Problem::to_string).collect())
}

#[test]
fn without_a_word_nothing_is_limited() {
    assert_eq!(read(""), (Limits { max_keys: 100_000, each: Vec::new() }, Vec::new()));
}

#[test]
fn the_limit_of_every_session_stands_first() {
    let (limits, problems) =
        read("[limits]\ncommands_per_second = 5\nmax_keys = 7\n[[limit]]\nname = \"all\"\nper = \"all\"\nrate = 0.5\nscope = \"shared\"\n");
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(limits.max_keys, 7);
    let [sessions, all] = &limits.each[..] else { panic!("{limits:?}") };
    assert_eq!((sessions.per, sessions.burst, sessions.rate.interval()), (Per::Session, 5, Duration::from_millis(200)));
    assert_eq!((all.per, all.burst, all.rate.interval()), (Per::All, 1, Duration::from_secs(2)));
    assert_eq!((sessions.scope, all.scope), (Scope::Local, Scope::Shared(WhenAway::Share)));
}

#[test]
fn a_rate_is_written_as_people_say_it() {
    let cases =
        [("10", 100_000_000), ("2.5", 400_000_000), ("10/s", 100_000_000), ("100/m", 600_000_000), ("3", 333_333_334), ("1000000", 1000)];
    for (text, nanos) in cases {
        assert_eq!(text.parse::<Rate>().unwrap().interval(), Duration::from_nanos(nanos), "{text}");
    }
    assert_eq!("1/h".parse::<Rate>().unwrap().interval(), Duration::from_hours(1));
    for text in ["", "0", "-1", "inf", "NaN", "1e9", "0/m", "10/d", "10 / s", "ten", "0.00001"] {
        assert!(text.parse::<Rate>().is_err(), "{text}");
    }
}

#[test]
fn a_pattern_is_a_type_or_its_beginning() {
    let matches = |pattern: &str, message_type| pattern.parse::<Pattern>().unwrap().matches(message_type);
    assert!(matches("orders.create", "orders.create") && !matches("orders.create", "orders.create2"));
    assert!(matches("orders.*", "orders.create") && matches("orders.*", "orders.") && !matches("orders.*", "orders"));
    assert!(matches("*", "anything"));
    for text in ["", "orders.*.create", "**", &"x".repeat(129)] {
        assert!(text.parse::<Pattern>().is_err(), "{text}");
    }
}

#[test]
fn nonsense_is_refused_with_its_place() {
    let text = r#"
[limits]
max_keys = 0
[[limit]]
name = "Big"
per = "device"
rate = "fast"
[[limit]]
name = "a"
per = "user"
rate = "1/h"
burst = 25
when_redis_is_away = "open"
[[limit]]
name = "a"
per = "user"
rate = 1
scope = "global"
brust = 1
[[limit]]
name = "commands_per_second"
per = "user"
rate = 1
scope = "shared"
when_redis_is_away = "ask"
"#;
    let (_, problems) = read(text);
    let wanted = [
        "limit[2].when_redis_is_away: is for limits",
        "limit[2].burst: 25 takes longer than a day",
        "gateway.toml:3: limits.max_keys: 0 is outside",
        "limit[1].per: `device`: is none of",
        "limit[1].rate: `fast`: is no rate",
        "limit[3].name: `a` is the name of another limit already",
        "limit[3].scope: `global`: is neither",
        "limit[3].brust: unknown key; did you mean `burst`?",
        "limit[4].name: `commands_per_second` is the name of another limit already",
        "limit[4].when_redis_is_away: `ask`: is none of",
    ];
    for wanted in wanted {
        assert!(problems.iter().any(|problem| problem.contains(wanted)), "{wanted} not in {problems:#?}");
    }
    assert_eq!(problems.len(), wanted.len(), "{problems:#?}");
}

#[test]
fn a_name_is_plain_and_there_are_not_too_many() {
    let many: Vec<_> = (0..=MAX_LIMITS).map(|i| format!("[[limit]]\nname = \"l{i}\"\nper = \"all\"\nrate = 1\n")).collect();
    let (_, problems) = read(&many.concat());
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("more than 32 limits"), "{problems:?}");
    let (_, problems) = read("[[limit]]\nname = \"a b\"\nper = \"all\"\nrate = 1\n");
    assert!(problems[0].contains("is not of lower-case letters"), "{problems:?}");
}
