//! The HTTP endpoints of CONTRACT.md §4, on the public and on the admin listener.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use ::http::Method;
use std::os::unix::fs::PermissionsExt as _;

use gatehouse_tests::{
    Device, Downstream, HttpBackend, Suite, Trail, audit,
    http::{self, Answer, get},
    servers, wait,
};
use tokio::sync::OnceCell;

struct World {
    suite: Suite,
    backend: HttpBackend,
    _downstream: Downstream,
}

impl World {
    async fn shared() -> &'static Self {
        static WORLD: OnceCell<World> = OnceCell::const_new();
        WORLD.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let (backend, downstream) = (HttpBackend::start(), Downstream::start());
        let suite = Suite::builder()
            .http_backend("shop", &backend, &["/shop/"])
            .toml("[[route]]\nprefix = \"/bare/\"\nbackend = \"shop\"\nstrip_prefix = true")
            .toml("[[route]]\nprefix = \"/audited/\"\nbackend = \"shop\"\naudit = \"required\"")
            .downstream("orders", &downstream, &["demo.echo"])
            .set("auth", "backend", "shop")
            .start()
            .await;
        Self { suite, backend, _downstream: downstream }
    }
}

/// One that has neither routes nor an auth upstream.
async fn bare() -> &'static Suite {
    static SUITE: OnceCell<Suite> = OnceCell::const_new();
    SUITE.get_or_init(|| Suite::builder().start()).await
}

fn check_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], code, "{}", answer.body);
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", answer.body);
    assert_eq!(error["request_id"].as_str(), answer.header("x-request-id"), "{}", answer.body);
    check_request_id(answer);
}

fn check_request_id(answer: &Answer) {
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{:?}", answer.head);
}

#[tokio::test]
async fn health_is_answered_by_every_name() {
    let public = bare().await.address("http");
    for path in ["/healthz", "/health", "/api/v1/health"] {
        let answer = get(public, path).await;
        assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"status": "ok"})), "{path}");
        check_request_id(&answer);
    }
    assert_eq!(get(public, "/readyz").await.status, 200);
    let ready = serde_json::json!({"status": "ready", "database": "connected", "redis": "connected", "pusher": "ready"});
    for path in ["/health/ready", "/api/v1/health/ready"] {
        let answer =
            wait::eventually("the suite is ready", async || Some(get(public, path).await).filter(|answer| answer.status == 200)).await;
        assert_eq!(answer.json(), ready, "{path}");
    }
}

#[tokio::test]
async fn what_is_missing_is_named_while_the_process_is_alive() {
    let mut redis = servers::redis().await;
    let suite = Suite::builder().redis(&redis).start().await;
    let public = suite.address("http");
    redis.kill9();
    let answer =
        wait::eventually("not ready", async || Some(get(public, "/health/ready").await).filter(|answer| answer.status == 503)).await;
    let body = answer.json();
    assert_eq!(body["status"], "not_ready");
    assert_ne!(body["redis"], "connected", "{body}");
    assert_eq!((get(public, "/healthz").await.status, get(public, "/readyz").await.status), (200, 200));
    redis.restart();
    wait::eventually("ready again", async || (get(public, "/health/ready").await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn without_an_auth_upstream_auth_is_unavailable() {
    let public = bare().await.address("http");
    for path in ["/api/v1/public/auth/login", "/api/v1/public/auth/"] {
        check_error(&get(public, path).await, 503, "service_unavailable");
    }
}

#[tokio::test]
async fn the_auth_upstream_gets_what_is_below_its_path() {
    let World { suite, backend, .. } = World::shared().await;
    let public = suite.address("http");
    let target = "/api/v1/public/auth/login?next=%2Fhome";
    let answer = http::send(public, http::request(Method::POST, public, target, &[("content-type", "text/plain")], "who am I")).await;
    assert_eq!((answer.status, answer.json()["body"].as_str()), (200, Some("who am I")));
    assert_eq!(backend.arrived(target).len(), 1);
    check_request_id(&answer);
}

#[tokio::test]
async fn what_is_nowhere_is_not_found_in_the_error_shape() {
    for suite in [bare().await, &World::shared().await.suite] {
        for path in ["/", "/nowhere", "/shopping", "/api/v1/nothing", "/api/v1/public/other"] {
            check_error(&get(suite.address("http"), path).await, 404, "not_found");
        }
    }
}

#[tokio::test]
async fn routes_are_forwarded_by_their_prefix() {
    let World { suite, backend, .. } = World::shared().await;
    let public = suite.address("http");
    for (method, target) in [
        (Method::GET, "/shop/things?a=1&b=%20"),
        (Method::POST, "/shop/things/"),
        (Method::PUT, "/shop/%C3%A9/x"),
        (Method::DELETE, "/shop/"),
        (Method::PATCH, "/shop/p"),
    ] {
        let headers = [("x-own", "kept"), ("connection", "x-hop"), ("x-hop", "dropped")];
        let answer = http::send(public, http::request(method.clone(), public, target, &headers, "body")).await;
        assert_eq!((answer.status, answer.header("x-backend")), (200, Some("tests")), "{}", answer.body);
        assert_eq!(answer.json(), serde_json::json!({"method": method.as_str(), "target": target, "body": "body"}));
        check_request_id(&answer);
        let arrived = backend.arrived(target).pop().unwrap();
        assert_eq!(arrived.headers.get("x-own").unwrap(), "kept");
        assert_eq!(arrived.headers.get("x-hop"), None, "hop-by-hop headers end here");
        assert_eq!(arrived.headers.get("x-request-id").and_then(|id| id.to_str().ok()), answer.header("x-request-id"));
    }
    let answer = get(public, "/bare/things?c=1").await;
    assert_eq!((answer.status, answer.json()["target"].as_str()), (200, Some("/things?c=1")));
}

#[tokio::test]
async fn a_request_id_of_the_client_is_kept_when_it_is_one() {
    let public = bare().await.address("http");
    let answer = http::send(public, http::request(Method::GET, public, "/nowhere", &[("x-request-id", "mine-42")], "")).await;
    check_error(&answer, 404, "not_found");
    let long = "x".repeat(5000);
    let answer = http::send(public, http::request(Method::GET, public, "/nowhere", &[("x-request-id", &long)], "")).await;
    check_error(&answer, 404, "not_found");
    assert!(answer.header("x-request-id").unwrap().len() <= 128, "an id of any length is not taken over");
}

#[tokio::test]
async fn bodies_of_any_size_and_framing_pass_through() {
    let World { suite, backend, .. } = World::shared().await;
    let public = suite.address("http");
    let large: &'static str = Box::leak("x".repeat(5 << 20).into_boxed_str());
    let answer = http::send(public, http::request(Method::POST, public, "/shop/large", &[], large)).await;
    assert_eq!((answer.status, answer.json()["body"].as_str().map(str::len)), (200, Some(5 << 20)));
    let chunked =
        "POST /shop/chunked HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = http::exchange(public, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("abcde"), "{answer}");
    let answer = http::exchange(public, b"HEAD /shop/head HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "a head alone: {answer}");
    assert_eq!(backend.arrived("/shop/head")[0].method, Method::HEAD);
    let two = "GET /shop/a HTTP/1.1\r\nhost: x\r\n\r\nGET /shop/b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = http::exchange(public, two.as_bytes()).await;
    let places = ["/shop/a", "/shop/b"].map(|target| answer.find(&format!("\"target\":\"{target}\"")));
    assert!(places[0] < places[1] && places[0].is_some(), "both, in order: {answer}");
}

#[tokio::test]
async fn what_an_audited_route_did_stands_in_the_trail() {
    let World { suite, .. } = World::shared().await;
    let public = suite.address("http");
    let answer = http::send(public, http::request(Method::PUT, public, "/audited/thing?secret=1", &[("user-agent", "tests/1")], "")).await;
    let row = Trail::record(suite, answer.header("x-request-id").unwrap()).await;
    let record = audit::record(&row);
    assert_eq!((record.action_type.as_str(), record.status.as_str(), record.http_status), ("http", "success", Some(200)));
    assert_eq!((record.ip_address.as_deref(), record.user_agent.as_deref()), (Some("127.0.0.1"), Some("tests/1")));
    assert!(!format!("{record:?}").contains("secret"), "no query in the trail: {record:?}");
}

#[tokio::test]
async fn health_and_reflection_are_served_beside_the_gateway() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
    };
    let suite = bare().await;
    for service in ["", "gateway.v1.Gateway"] {
        let check = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(suite.channel()).check(check).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let unknown = HealthCheckRequest { service: "nobody.Knows".into() };
    assert_eq!(HealthClient::new(suite.channel()).check(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    let list = ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) };
    let mut answers =
        ServerReflectionClient::new(suite.channel()).server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"gateway.v1.Gateway".to_owned()), "{names:?}");
    assert!(names.iter().all(|name| !name.contains("internal")), "{names:?}");
}

#[tokio::test]
async fn a_backend_that_is_away_is_a_bad_gateway_or_unavailable() {
    let away = format!("127.0.0.1:{}", servers::free_port());
    let builder = Suite::builder().toml(&format!("[[backend]]\nname = \"away\"\nprotocol = \"http\"\naddress = \"{away}\""));
    let suite = builder.toml("[[route]]\nprefix = \"/away/\"\nbackend = \"away\"").start().await;
    let answer = get(suite.address("http"), "/away/x").await;
    assert!(matches!(answer.status, 502 | 503), "{} {}", answer.status, answer.body);
    check_error(&answer, answer.status, answer.json()["error"]["code"].as_str().unwrap());
}

#[tokio::test]
async fn one_scrape_sees_every_process() {
    let World { suite, .. } = World::shared().await;
    let device = Device::registered(&mut suite.embedded_redis());
    suite.execute(&device.command("demo.echo", "x")).await.unwrap();
    let _stream = suite.subscribe(&device, "").await.unwrap();
    get(suite.address("http"), "/shop/x").await;
    let samples = suite.metrics().await;
    for sample in &samples.0 {
        assert!(sample.labels.contains_key("component"), "{sample:?}");
        assert!(sample.labels.contains_key("instance") || sample.name.starts_with("component_"), "{sample:?}");
    }
    for (component, instance) in [("edge", "0"), ("pusher", "0"), ("pusher", "1"), ("auditor", "0"), ("admin", "0"), ("supervisor", "0")] {
        let labels = [("component", component), ("instance", instance)];
        assert!(samples.sum("process_resident_memory_bytes", &labels) > 0.0, "memory of {component}-{instance}");
    }
    for name in [
        "http_requests_total",
        "http_request_duration_seconds",
        "grpc_requests_total",
        "grpc_request_duration_seconds",
        "sessions_active",
        "push_streams",
        "audit_events_total",
        "audit_lag_seconds",
        "component_up",
        "component_start_seconds",
        "process_cpu_seconds_total",
    ] {
        assert!(samples.has(name), "{name}");
    }
    for component in ["edge", "pusher", "auditor", "admin"] {
        assert!(samples.sum("component_up", &[("component", component)]) >= 1.0, "{component} is up");
    }
    assert!(samples.sum("grpc_requests_total", &[("code", "OK")]) >= 1.0);
    assert!(samples.sum("push_streams", &[]) >= 1.0);
}

#[tokio::test]
async fn the_operator_api_asks_for_the_bearer_token() {
    let suite = bare().await;
    let (admin, path) = (suite.address("admin"), "/api/v1/audit");
    check_error(&get(admin, path).await, 401, "unauthorized");
    for wrong in ["", "wrong", &format!("{}x", suite.admin_token())] {
        check_error(&http::get_with_token(admin, path, wrong).await, 401, "unauthorized");
    }
    let listed = http::get_with_token(admin, path, &suite.admin_token()).await;
    assert_eq!(listed.status, 200, "{}", listed.body);
    check_request_id(&listed);
    let mode = std::fs::metadata(suite.state_dir().join("admin.token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the token is its owner's alone");
    check_error(&http::get_with_token(admin, "/api/v1/nowhere", &suite.admin_token()).await, 404, "not_found");
    let openapi = get(admin, "/api/v1/openapi.json").await;
    assert!(openapi.status == 200 && openapi.json()["paths"][path].is_object(), "{}", openapi.body);
}
