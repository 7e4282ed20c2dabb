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
    std::fs::write(&key, Signer::from_seed(&[7; 32]).to_pkcs8_pem().unwrap().as_bytes()).unwrap();
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
    assert_eq!(
        config.routes,
        [Route { prefix: "/shop".into(), backend: 1, strip_prefix: true, audit: Audit::Required, priority: Priority::Normal }]
    );
    assert_eq!(config.auth, Some(1));
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
            with("backend = \"orders\"", "backend = \"shop\""),
            "gateway.toml:15: command[1].backend: `shop` speaks http, and grpc is needed here",
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
        (with("/shop/", "/health"), "gateway.toml:24: route[1].prefix: `/health` is answered by the gateway itself"),
        (with("\"best_effort\"", "\"maybe\""), "gateway.toml:21: command[2].audit: `maybe`: is neither required nor best_effort"),
        (with("[auth]\nbackend", "[auth]\nbackand"), "gateway.toml:30: auth.backand: unknown key; did you mean `backend`?"),
    ] {
        let (_, problems) = read(&text);
        let shown: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(shown.iter().any(|shown| shown == problem), "{problem}\nnot in {shown:#?}");
    }
}

#[test]
fn a_wrong_backend_is_one_problem_alone() {
    let (config, problems) = read(&GOOD.replace("127.0.0.1:9000", "nowhere"));
    assert!(config.is_none());
    assert_eq!(problems.len(), 1, "{problems:?}");
}

#[test]
fn nothing_configured_is_a_gateway_without_routes() {
    let (config, problems) = read("");
    assert_eq!(problems, []);
    let config = config.unwrap();
    assert!(config.commands.is_empty() && config.routes.is_empty() && config.auth.is_none());
}
