use gatehouse_chassis::config::{Problem, Source};
use gatehouse_proto::keys::Signer;

use super::*;

const GOOD: &str = r#"
[[backend]]
name = "orders"
protocol = "grpc"
address = "127.0.0.1:9000"
timeout = "3s"

[[backend]]
name = "shop"
protocol = "http"
address = "http://127.0.0.1:9001"

[[command]]
message_type = "orders.create"
backend = "orders"

[[command]]
message_type = "orders.list"
backend = "orders"
timeout = "500ms"
audit = "best_effort"

[[route]]
prefix = "/shop/"
backend = "shop"
strip_prefix = true
audit = "required"

[auth]
backend = "shop"
"#;

/// The configuration, and every problem; with a signer's key beside it, so that the sections of others are right.
fn read(text: &str) -> (Option<Config>, Vec<Problem>) {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("signer.pem");
    gatehouse_testkit::write_private(&key, &Signer::from_seed(&[7; 32]).to_pkcs8_pem().unwrap());
    let env = [("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", key.to_str().unwrap())];
    let mut reader = Reader::new(Source::of(text, &env));
    let config = Config::read(&mut reader);
    (config, reader.into_problems())
}

#[test]
fn routes_are_joined_to_their_backends() {
    let (config, problems) = read(GOOD);
    assert_eq!(problems, []);
    let config = config.unwrap();
    let command = |i: usize| (config.commands[i].backend, config.commands[i].timeout, config.commands[i].audit);
    assert_eq!(command(0), (0, Duration::from_secs(3), Audit::Required), "the backend's timeout");
    assert_eq!(command(1), (0, Duration::from_millis(500), Audit::BestEffort));
    assert_eq!(config.backends[1].timeout, TIMEOUT);
    let (audit, priority, timeout, transfer) = (Audit::Required, Priority::Normal, TIMEOUT, Transfer::default());
    assert_eq!(config.routes, [Route { prefix: "/shop".into(), backend: 1, strip_prefix: true, audit, priority, timeout, transfer }]);
    assert_eq!(config.auth, Some(Auth { backend: 1, timeout, transfer }));
}

#[test]
fn each_mistake_is_named_at_its_place() {
    let with = |from: &str, to: &str| {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        text
    };
    for (text, problem) in [
        (
            with("backend = \"orders\"", "backend = \"order\""),
            "gateway.toml:15: command[1].backend: `order`: unknown backend; did you mean `orders`?",
        ),
        (
            with("timeout = \"3s\"", "path = \"/commands\""),
            "gateway.toml:6: backend[1].path: is for http backends; commands to grpc backends go to CommandHandler.Execute",
        ),
        (
            with("timeout = \"500ms\"", "path = \"/commands\""),
            "gateway.toml:20: command[2].path: is for http backends; commands to grpc backends go to CommandHandler.Execute",
        ),
        (
            with("address = \"http://127.0.0.1:9001\"", "path = \"commands\""),
            "gateway.toml:11: backend[2].path: `commands` is no path; write /path",
        ),
        (
            with("timeout = \"3s\"", "addresses = [\"127.0.0.1:9002\"]"),
            "gateway.toml:6: backend[1].addresses: stands beside address; write one or the other",
        ),
        (
            with("address = \"127.0.0.1:9000\"", "addresses = [\"127.0.0.1:9000\", \"http://127.0.0.1:9000\"]"),
            "gateway.toml:5: backend[1].addresses: `http://127.0.0.1:9000` stands there twice",
        ),
        (with("address = \"127.0.0.1:9000\"\n", ""), "gateway.toml:2: backend[1].address: is required, or addresses with several"),
        (with("timeout = \"3s\"", "connect_timeout = \"0s\""), "gateway.toml:6: backend[1].connect_timeout: is zero"),
        (
            with("timeout = \"3s\"", "health_check.interval = \"never\""),
            "gateway.toml:6: backend[1].health_check.interval: `never` is no length of time; write 500ms, 5s or 1m 30s",
        ),
        (
            with("timeout = \"3s\"", "circuit_breaker.failure_percent = 101"),
            "gateway.toml:6: backend[1].circuit_breaker.failure_percent: 101 is outside 0..=100",
        ),
        (
            with("timeout = \"3s\"", "outlier_ejection.max_time = \"1s\""),
            "gateway.toml:6: backend[1].outlier_ejection.max_time: is shorter than base_time",
        ),
        (
            with("timeout = \"3s\"", "retry_budget.persent = 1"),
            "gateway.toml:6: backend[1].retry_budget.persent: unknown key; did you mean `percent`?",
        ),
        (
            with("prefix = \"/shop/\"\nbackend = \"shop\"", "prefix = \"/shop/\"\nbackend = \"orders\""),
            "gateway.toml:25: route[1].backend: `orders` speaks grpc, and http is needed here",
        ),
        (with("orders.list", "orders.create"), "gateway.toml:18: command[2].message_type: `orders.create` has a route already"),
        (with("name = \"shop\"", "name = \"orders\""), "gateway.toml:9: backend[2].name: `orders` is the name of another backend already"),
        (
            with("127.0.0.1:9000", "127.0.0.1"),
            "gateway.toml:5: backend[1].address: `127.0.0.1`: is not of the form host:port, http://host:port or unix:/path",
        ),
        (with("\"grpc\"", "\"gprc\""), "gateway.toml:4: backend[1].protocol: `gprc`: is neither grpc nor http"),
        (with("\"3s\"", "\"0s\""), "gateway.toml:6: backend[1].timeout: is zero, so that nothing would ever be answered"),
        (with("/shop/", "shop"), "gateway.toml:24: route[1].prefix: `shop` does not begin with a slash"),
        (with("/shop/", "/a/../b"), "gateway.toml:24: route[1].prefix: `/a/../b` has an empty or a dot segment"),
        (with("/shop/", "/a;b"), "gateway.toml:24: route[1].prefix: `/a;b` has a parameter; what follows a semicolon is part of no route"),
        (with("/shop/", "/health"), "gateway.toml:24: route[1].prefix: `/health` is answered by the gateway itself"),
        (with("\"best_effort\"", "\"maybe\""), "gateway.toml:21: command[2].audit: `maybe`: is none of required, best_effort, intent"),
        (
            with("audit = \"best_effort\"", "replay = \"maybe\""),
            "gateway.toml:21: command[2].replay: `maybe`: is neither refuse nor answer",
        ),
        (with("[auth]\nbackend", "[auth]\nbackand"), "gateway.toml:30: auth.backand: unknown key; did you mean `backend`?"),
    ] {
        let (_, problems) = read(&text);
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(shown.iter().any(|shown| shown == problem), "{problem}\nnot in {shown:#?}");
    }
}

#[test]
fn what_a_forwarded_request_is_held_to_is_said_once_for_all_and_otherwise_for_one() {
    let more = "[http]\nmax_body_bytes = \"2KiB\"\nread_timeout = \"7s\"\n";
    let text = GOOD.replace("strip_prefix = true", "body_timeout = \"4s\"\nread_timeout = \"0s\"\ntimeout = \"9s\"");
    let (config, problems) = read(&format!("{more}{text}max_body_bytes = 5\nwrite_timeout = \"6s\"\n"));
    assert_eq!(problems, []);
    let (config, seconds) = (config.unwrap(), Duration::from_secs);
    let all = Transfer { max_body_bytes: 2048, read_timeout: seconds(7), ..Transfer::default() };
    let route = config.routes[0].transfer;
    assert!(route.read_timeout > Duration::from_hours(24 * 365), "zero is for ever");
    assert_eq!(route, Transfer { body_timeout: seconds(4), read_timeout: route.read_timeout, ..all });
    assert_eq!(config.routes[0].timeout, seconds(9));
    assert_eq!(config.auth.unwrap().transfer, Transfer { max_body_bytes: 5, write_timeout: seconds(6), ..all });
}

#[test]
fn a_wrong_backend_is_one_problem_alone() {
    let (config, problems) = read(&GOOD.replace("127.0.0.1:9000", "nowhere"));
    assert!(config.is_none());
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn a_backend_is_checked_when_its_section_is_there_and_has_defaults_that_suit() {
    let backend = |keys: &str| read(&GOOD.replacen("timeout = \"3s\"", keys, 1)).0.unwrap().backends.remove(0);
    let plain = backend("");
    assert_eq!((plain.health_check, plain.connect_timeout, plain.path.as_str()), (None, Duration::from_secs(1), "/"));
    assert_eq!((plain.circuit.failure_percent, plain.circuit.min_requests, plain.circuit.probes), (50, 20, 3));
    assert_eq!((plain.circuit.window, plain.circuit.open_time), (Duration::from_secs(10), Duration::from_secs(5)));
    assert_eq!((plain.ejection.consecutive_failures, plain.ejection.max_percent), (5, 50));
    assert_eq!((plain.ejection.base_time, plain.ejection.max_time), (Duration::from_secs(10), Duration::from_mins(5)));
    assert_eq!((plain.retries.percent, plain.retries.min_per_second), (20, 3));
    let checked = backend("[backend.health_check]\nservice = \"orders\"").health_check.unwrap();
    assert_eq!((checked.interval, checked.timeout, checked.service.as_str()), (Duration::from_secs(5), Duration::from_secs(1), "orders"));
    assert_eq!((checked.healthy_threshold, checked.unhealthy_threshold, checked.path.as_str()), (2, 3, "/"));
    assert!(backend("health_check = {}").health_check.is_some());
    let several = GOOD.replacen("address = \"127.0.0.1:9000\"", "addresses = [\"127.0.0.1:9000\", \"unix:/run/orders.sock\"]", 1);
    assert_eq!(read(&several).0.unwrap().backends[0].addresses.len(), 2);
}

#[test]
fn the_sample_s_backends_are_accepted_with_every_key_uncommented() {
    let sample = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/gateway.toml")).unwrap();
    let (_, after) = sample.split_once("# A service of yours.").unwrap();
    let (ours, _) = after.split_once("# Commands of this type go to this backend.").unwrap();
    let text: Vec<_> = ours.lines().map(|line| line.strip_prefix('#').filter(|text| !text.starts_with(' ')).unwrap_or(line)).collect();
    let (config, problems) = read(&text.join("\n"));
    assert_eq!(problems, []);
    let config = config.unwrap();
    let defaults = |i: usize| Backend { protocol: config.backends[0].protocol, health_check: None, ..config.backends[i].clone() };
    let plain = read(&GOOD.replacen("timeout = \"3s\"", "", 1)).0.unwrap().backends.remove(0);
    let shown = Backend { name: plain.name.clone(), addresses: plain.addresses.clone(), ..defaults(0) };
    assert_eq!(shown, Backend { health_check: None, ..plain }, "what it shows are the defaults");
}

#[test]
fn nothing_configured_is_a_gateway_without_routes() {
    let (config, problems) = read("");
    assert_eq!(problems, []);
    let config = config.unwrap();
    assert!(config.commands.is_empty() && config.routes.is_empty() && config.auth.is_none());
}
