//! What is carried out only with a record, and what is recorded of those who are refused.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{Router, extract::Request};
use gatehouse_chassis::audit::record;
use gatehouse_proto::{downstream::v1::ExecuteResponse, internal::v1::AuditBatch};
use gatehouse_testkit::RedisServer;
use prost::Message as _;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tonic::Code;

use crate::{
    bench::{Bench, dir, until},
    commands::execute,
    fakes::{Server, downstream, routed_to},
    http::raw,
};

/// A backend that counts its calls.
struct Counting {
    server: Server,
    calls: Arc<AtomicUsize>,
}

impl Counting {
    fn commands() -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let called = Arc::clone(&calls);
        let server = downstream(move |_| {
            called.fetch_add(1, Ordering::SeqCst);
            Box::pin(async { Ok(ExecuteResponse::default()) })
        });
        Self { server, calls }
    }

    fn http() -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let called = Arc::clone(&calls);
        let answer = move |_: Request| {
            called.fetch_add(1, Ordering::SeqCst);
            async { "done" }
        };
        Self { server: Server::tcp(Router::new().fallback(answer)), calls }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// An edge whose trail takes nothing: its spool is full, and the stream is none, until somebody deletes it.
async fn without_a_trail(text: &str) -> Bench {
    let dir = dir();
    let batch = AuditBatch {
        records: vec![gatehouse_proto::internal::v1::AuditRecord {
            user_agent: Some("x".repeat((1 << 20) - 2048)),
            ..record("command", "filler", "success")
        }],
    }
    .encode_to_vec();
    let mut framed = u32::try_from(batch.len()).unwrap().to_le_bytes().to_vec();
    framed.extend(crc32fast::hash(&batch).to_le_bytes());
    framed.extend(batch);
    let path = dir.path().join("state/spool/edge-0.spool");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, framed).unwrap();
    let redis = RedisServer::start();
    redis.run(&["SET", "gateway:audit", "x"]);
    Bench::start_on(redis, dir, &format!("{text}\n[spool]\nmax_bytes = {}", 1 << 20)).await
}

/// What the suite's readiness says of the trail.
async fn readiness(bench: &Bench) -> (u16, Option<String>) {
    let answer = raw(bench.http, "GET /health/ready HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n").await;
    (answer.status, answer.json()["audit"].as_str().map(str::to_owned))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_recorded_is_not_carried_out_and_once_it_can_it_is() {
    let backend = Counting::commands();
    let more = "[[command]]\nmessage_type = \"orders.list\"\nbackend = \"orders\"\naudit = \"best_effort\"\n\
                [[command]]\nmessage_type = \"orders.pay\"\nbackend = \"orders\"\naudit = \"intent\"";
    let bench = without_a_trail(&routed_to(backend.server.address(), more)).await;
    for (message_type, id) in [("orders.create", "r-1"), ("orders.pay", "r-2")] {
        let status = execute(&bench, bench.command(message_type, id, b"")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "audit trail is unavailable"));
    }
    assert_eq!(backend.calls(), 0);
    assert_eq!(bench.metric("audit_requests_refused_total", &[("action_type", "command")]), 2);
    assert_eq!(bench.metric("audit_answers_withheld_total", &[]), 0);
    assert_eq!(readiness(&bench).await.1.as_deref(), Some("takes no records"));
    execute(&bench, bench.command("orders.list", "r-3", b"")).await.expect("best effort asks for nothing");
    assert_eq!(backend.calls(), 1);

    bench.redis.run(&["DEL", "gateway:audit"]);
    let id = until("commands are carried out again", async || {
        let id = format!("again-{}", uuid::Uuid::now_v7());
        execute(&bench, bench.command("orders.create", &id, b"")).await.ok().map(|_| id)
    })
    .await;
    assert_eq!((backend.calls(), bench.record_soon(&id).await.status.as_str()), (2, "success"));
    assert_eq!(readiness(&bench).await.1, None);
    let status = execute(&bench, bench.command("orders.pay", "r-4", b"")).await.err();
    assert!(status.is_none(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_route_waits_for_the_trail_as_it_says() {
    let backend = Counting::http();
    let route = |prefix: &str, audit: &str| format!("[[route]]\nprefix = \"/{prefix}\"\nbackend = \"shop\"\naudit = \"{audit}\"\n");
    let text = format!(
        "[[backend]]\nname = \"shop\"\nprotocol = \"http\"\naddress = \"{}\"\n{}{}{}",
        backend.server.address(),
        route("required", "required"),
        route("intent", "intent"),
        route("any", "best_effort")
    );
    let get = async |bench: &Bench, path: &str, id: &str| {
        raw(bench.http, &format!("GET {path} HTTP/1.1\r\nhost: gate\r\nconnection: close\r\nx-request-id: {id}\r\n\r\n")).await
    };
    let bench = without_a_trail(&text).await;
    for path in ["/required", "/intent"] {
        let answer = get(&bench, path, "r-1").await;
        assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (503, Some("audit trail is unavailable")), "{path}");
    }
    assert_eq!((backend.calls(), get(&bench, "/any", "r-2").await.status, backend.calls()), (0, 200, 1));

    let bench = Bench::start(&text).await;
    assert_eq!(get(&bench, "/intent/x", "r-3").await.status, 200);
    let mut records = bench.records().await;
    records.retain(|record| record.request_id.as_deref() == Some("r-3"));
    let told: Vec<_> = records.iter().map(|record| (record.action.as_str(), record.resource_type.as_deref(), record.http_status)).collect();
    assert_eq!(told, [("/intent", Some("intent"), None), ("/intent", Some("backend"), Some(200))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intent_is_on_record_before_the_downstream_is_called_and_the_outcome_after() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let server = downstream(move |_| {
        entered.send(()).unwrap();
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let _open = gate.acquire().await.unwrap();
            Err(tonic::Status::failed_precondition("the stock is empty"))
        })
    });
    let bench = Bench::start(&routed_to(server.address(), "audit = \"intent\"")).await;
    let (mut client, command) = (bench.client(), bench.command("orders.create", "r-1", b""));
    let mut call = JoinSet::new();
    call.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    entries.recv().await.unwrap();
    let intent = bench.record("r-1").await;
    assert_eq!(
        (intent.action.as_str(), intent.status.as_str(), intent.rbac_decision.as_deref()),
        ("orders.create", "success", Some("allow"))
    );
    assert_eq!((intent.resource.as_deref(), intent.resource_type.as_deref()), (Some("orders"), Some("intent")));
    assert_eq!((intent.grpc_code, intent.latency_ms, intent.user_id.as_deref()), (None, None, Some("u-1")));
    opened.add_permits(1);
    call.join_next().await.unwrap().unwrap().unwrap_err();
    let records = bench.records().await;
    let outcome = records.last().unwrap();
    assert_eq!((records.len(), outcome.request_id.as_deref(), outcome.resource_type.as_deref()), (2, Some("r-1"), Some("backend")));
    assert_eq!((outcome.status.as_str(), outcome.grpc_code.as_deref()), ("error", Some("FAILED_PRECONDITION")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forgeries_is_few_records_that_count_each_of_them() {
    let backend = Counting::commands();
    let mut bench = Bench::start(&routed_to(backend.server.address(), "")).await;
    let begun = std::time::Instant::now();
    let mut client = bench.client();
    let forged = |id: &str| {
        let command = bench.command("orders.create", id, b"");
        gatehouse_proto::gateway::v1::ExecuteCommandRequest { signature: vec![1; 64].into(), ..command }
    };
    client.execute_command(forged("r-0")).await.unwrap_err();
    let first = bench.record_soon("r-0").await;
    for i in 1..300 {
        client.execute_command(forged(&format!("r-{i}"))).await.unwrap_err();
    }
    assert_eq!((first.resource.as_deref(), first.resource_type.as_deref()), (Some("signature"), Some("refusal")));
    assert_eq!((first.user_id, first.device_session_id), (None, None), "nobody has proven to be that session");
    let windows = begun.elapsed().as_secs() / 10 + 1;
    assert_eq!(bench.metric("audit_denied_total", &[]), 300);
    bench.drain();
    bench.ended().await;
    let records = bench.records().await;
    assert_eq!(records.iter().map(|record| record.event_count).sum::<u32>(), 300);
    assert!(records.len() as u64 <= windows + 2, "{} records in {windows} windows", records.len());
    let last = records.iter().max_by_key(|record| record.event_count).unwrap();
    assert_eq!((last.action.as_str(), last.ip_address.as_deref(), last.status.as_str()), ("orders.create", Some("127.0.0.1"), "denied"));
    assert_eq!((&last.request_id, backend.calls()), (&None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_call_themselves_is_kept_short_and_visible() {
    let mut bench = Bench::start("").await;
    let mut command = bench.command("orders.create", "r-1", b"");
    command.request_id = "\u{1b}[2J\0".repeat(100_000);
    execute(&bench, command).await.unwrap_err();
    bench.drain();
    bench.ended().await;
    let record = bench.records().await.pop().unwrap();
    let request_id = record.request_id.unwrap();
    assert!(request_id.len() <= 128 && request_id.starts_with("\\u{1b}[2J\\u{0}") && request_id.is_ascii(), "{request_id}");
}
