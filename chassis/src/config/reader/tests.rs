use super::*;
use crate::config::{Config as _, Shared};

fn problems(text: &str, env: &[(&str, &str)]) -> Vec<String> {
    let mut reader = Reader::new(Source::of(text, env));
    Shared::read(&mut reader);
    reader.into_problems().iter().map(ToString::to_string).collect()
}

#[test]
fn an_empty_file_is_a_whole_configuration() {
    assert_eq!(problems("", &[]), Vec::<String>::new());
}

#[test]
fn all_problems_come_at_once_each_with_its_place() {
    let found = problems(
        "[redis]\npasword = 'x'\ndb = 'zero'\nmaster_addr = 'redis'\n\n[shutdwon]\ntimeout = '5s'\n\n[log]\nlevel = 'loud'\n",
        &[("GATEWAY_SHUTDOWN_TIMEOUT", "soon"), ("GATEWAY_REDIS_TLS_ENABLED", ""), ("GATEWAY_DATABASE_URL", "mysql://x")],
    );
    assert_eq!(
        found,
        [
            "GATEWAY_REDIS_TLS_ENABLED: no longer accepted: connections to Redis never use TLS; unset it",
            "GATEWAY_SHUTDOWN_TIMEOUT: `soon` is no length of time; write 500ms, 5s or 1m 30s",
            "gateway.toml: database.url: GATEWAY_DATABASE_URL is not a postgres:// URL; leave it out for SQLite in the state directory",
            "gateway.toml:10: log.level: `loud`: is none of debug, info, warn, error",
            "gateway.toml:1: redis.password: GATEWAY_REDIS_PASSWORD is required with an address",
            "gateway.toml:2: redis.pasword: unknown key; did you mean `password`?",
            "gateway.toml:3: redis.db: `zero`: invalid digit found in string",
            "gateway.toml:4: redis.master_addr: GATEWAY_REDIS_MASTER_ADDR `redis`: is not of the form host:port or unix:/path",
            "gateway.toml:6: shutdwon: unknown section; did you mean `shutdown`?",
        ]
    );
}

#[test]
fn what_is_not_toml_is_a_problem_with_its_line() {
    assert_eq!(problems("[redis]\ndb = = 1\n", &[])[0].split(": ").next(), Some("gateway.toml:2"));
}

#[test]
fn environment_beats_file_and_an_empty_variable_counts_as_unset() {
    let read = |value| {
        let mut reader = Reader::new(Source::of("[suite]\nstate_dir = '/from/file'\n", &[("GATEWAY_STATE_DIR", value)]));
        Shared::read(&mut reader).map(|shared| shared.state_dir)
    };
    assert_eq!(read("/from/env"), Some("/from/env".into()));
    assert_eq!(read(""), Some("/from/file".into()));
}

#[test]
fn secrets_come_as_values_files_or_credentials_and_are_never_printed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis-password");
    std::fs::write(&path, "hunter2\n").unwrap();
    let path = path.to_str().unwrap();
    let in_file = format!("[redis]\npassword_file = '{path}'\n");
    let addr = ("GATEWAY_REDIS_MASTER_ADDR", "127.0.0.1:6379");
    for (text, env) in [
        ("", vec![addr, ("GATEWAY_REDIS_PASSWORD", "hunter2")]),
        ("", vec![addr, ("GATEWAY_REDIS_PASSWORD_FILE", path)]),
        ("", vec![addr, ("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())]),
        (&in_file, vec![addr]),
    ] {
        let mut reader = Reader::new(Source::of(text, &env));
        let shared = Shared::read(&mut reader).unwrap();
        assert_eq!(shared.redis.password().unwrap().expose(), "hunter2");
        assert!(!format!("{shared:?}").contains("hunter2"));
        assert_eq!(reader.into_problems(), []);
    }
    let missing = problems("[redis]\npassword_file = '/nowhere'\n", &[addr]);
    assert!(missing.iter().any(|problem| problem.contains("/nowhere cannot be read")), "{missing:?}");
}

#[test]
fn lists_of_sections_are_named_by_their_place() {
    let mut reader = Reader::new(Source::of("[[backend]]\nname = 'a'\n[[backend]]\nnmae = 'b'\n", &[]));
    let names = reader.each("backend", |section| section.key("name").required::<String>());
    assert_eq!(names, ["a"]);
    let found: Vec<_> = reader.into_problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["gateway.toml:3: backend[2].name: is required", "gateway.toml:4: backend[2].nmae: unknown key; did you mean `name`?"]
    );
}

#[test]
fn numbers_outside_their_bounds_and_values_of_the_wrong_shape_are_refused() {
    let found = problems("[suite]\npushers = 0\n[redis]\ndb = [1]\nreplica_addrs = 'a'\n", &[]);
    assert_eq!(
        found,
        [
            "gateway.toml:2: suite.pushers: 0 is outside 1..=64",
            "gateway.toml:4: redis.db: is a single value, not a list or a section",
            "gateway.toml:5: redis.replica_addrs: is a list: write [\"…\", \"…\"]",
        ]
    );
}

#[test]
fn a_section_inside_a_section_is_read_by_who_owns_it_and_a_misspelled_one_is_refused_by_who_owns_the_outer() {
    let text = "[limits]\nburst = 1\n[limits.edge]\nopen_files = 7\nmemmory = 1\n[limits.pusher]\nopen_files = 1\n[limits.egde]\n";
    let mut reader = Reader::new(Source::of(text, &[]));
    let mut section = reader.section("limits");
    assert_eq!(section.key("burst").or(0), 1);
    section.finish();
    let mut section = reader.section("limits.edge");
    assert_eq!(section.key("open_files").optional_within(1_u64..=9), Some(7));
    assert_eq!(section.key("memory").optional::<u64>(), None);
    section.finish();
    let mut section = reader.section("limits.pusher");
    assert_eq!(section.key("open_files").optional_within(5_u64..=9), None);
    section.finish();
    let found: Vec<_> = reader.into_problems().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "gateway.toml:5: limits.edge.memmory: unknown key; did you mean `memory`?",
            "gateway.toml:7: limits.pusher.open_files: 1 is outside 5..=9",
            "gateway.toml:8: limits.egde: unknown key; did you mean `edge`?",
        ]
    );
}

#[test]
fn a_value_where_a_section_inside_a_section_belongs_is_refused() {
    let mut reader = Reader::new(Source::of("[limits]\nedge = 5\n", &[]));
    reader.section("limits").finish();
    reader.section("limits.edge").finish();
    let found: Vec<_> = reader.into_problems().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["gateway.toml:2: limits.edge: is a section: write [limits.edge]"]);
}
