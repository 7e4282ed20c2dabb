//! The verdict table from outside, and what an answer promises.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse},
    keys::sha256,
    session::Status as Stored,
    signing,
    status::code_name,
};
use gatehouse_sessions::now_ms;
use gatehouse_testkit::RedisServer;
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tonic::{Code, Request, Status};

use crate::{
    bench::{Bench, dir},
    fakes::{downstream, echo, routed_to},
};

pub(crate) async fn execute(bench: &Bench, command: ExecuteCommandRequest) -> Result<ExecuteCommandResponse, Status> {
    bench.client().execute_command(command).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_verifies_and_its_record_is_in_the_stream_before_it() {
    let (seen, mut calls) = mpsc::unbounded_channel();
    let server = downstream(move |request| {
        let traceparent = request.metadata().get("traceparent").map(|value| value.to_str().unwrap().to_owned());
        seen.send((traceparent, request.get_ref().clone())).unwrap();
        Box::pin(async { Ok(ExecuteResponse { result_code: String::new(), payload_bytes: Bytes::from_static(b"done") }) })
    });
    let bench = Bench::start(&routed_to(server.address(), "")).await;
    let mut command = bench.command("orders.create", "r-1", b"{}");
    command.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into();
    let answer = execute(&bench, command.clone()).await.unwrap();
    let record = bench.record("r-1").await;

    assert_eq!((answer.protocol_version.as_str(), answer.request_id.as_str(), answer.result_code.as_str()), ("v1", "r-1", "ok"));
    assert_eq!((&answer.payload_bytes[..], &answer.payload_hash[..]), (&b"done"[..], &sha256(b"done")[..]));
    assert_eq!(answer.signer_key_id, bench.gateway.key_id());
    assert!(bench.gateway.public_key().verifies(&signing::response("ds-1", &answer), &answer.signature));
    assert!(now_ms() - answer.timestamp_ms < 60_000);

    let (traceparent, call) = calls.recv().await.unwrap();
    assert_eq!(traceparent.as_deref(), Some(command.traceparent.as_str()));
    assert_eq!((call.traceparent, call.user_id, call.device_session_id), (command.traceparent, "u-1".into(), "ds-1".into()));
    assert_eq!((call.message_type, call.request_id, call.timestamp_ms), ("orders.create".into(), "r-1".into(), command.timestamp_ms));

    assert_eq!((record.action_type.as_str(), record.action.as_str(), record.status.as_str()), ("command", "orders.create", "success"));
    assert_eq!((record.user_id.as_deref(), record.device_session_id.as_deref()), (Some("u-1"), Some("ds-1")));
    assert_eq!((record.resource.as_deref(), record.resource_type.as_deref()), (Some("orders"), Some("backend")));
    assert_eq!((record.rbac_decision.as_deref(), record.grpc_code.as_deref()), (Some("allow"), Some("OK")));
    assert_eq!(record.ip_address.as_deref(), Some("127.0.0.1"));
    assert!(record.user_agent.unwrap().starts_with("bench/1"));
    assert!(record.latency_ms.is_some());
    assert_eq!(bench.metric("grpc_requests_total", &[("method", "ExecuteCommand"), ("code", "OK")]), 1);
    assert_eq!(bench.metric("downstream_requests_total", &[("backend", "orders"), ("outcome", "ok")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_the_verdict_table_has_its_status_and_its_record() {
    type Spoil = fn(&Bench, &mut ExecuteCommandRequest);
    let server = echo();
    let mut bench = Bench::start(&routed_to(server.address(), "")).await;
    bench.write_session("ds-revoked", Stored::Revoked);
    let rows: [(Spoil, Code, &str, &str); 11] = [
        (|_, c| c.message_type.clear(), Code::InvalidArgument, "message_type is missing", "malformed"),
        (|_, c| c.request_id = "x".repeat(129), Code::InvalidArgument, "request_id is too long", "malformed"),
        (|_, c| c.signature = vec![0; 63].into(), Code::InvalidArgument, "signature has the wrong length", "malformed"),
        (|_, c| c.protocol_version = "v2".into(), Code::InvalidArgument, "unsupported protocol_version", "version"),
        (|_, c| c.payload_bytes = b"x"[..].into(), Code::InvalidArgument, "payload_hash does not match payload_bytes", "payload_hash"),
        (|_, c| c.timestamp_ms -= 301_000, Code::FailedPrecondition, "request timestamp is outside the freshness window", "stale"),
        (|_, c| c.device_session_id = "ds-2".into(), Code::Unauthenticated, "unknown device session", "unknown_session"),
        (|_, c| c.device_session_id = "ds-revoked".into(), Code::FailedPrecondition, "device session is revoked", "revoked"),
        (|_, c| c.signature = vec![1; 64].into(), Code::Unauthenticated, "invalid request signature", "signature"),
        (
            |bench, c| {
                c.message_type = "nobody.knows".into();
                bench.sign(c);
            },
            Code::Unimplemented,
            "message_type is not routed",
            "not_routed",
        ),
        (|_, _| {}, Code::Ok, "", "orders"),
    ];
    let mut told = Vec::new();
    for (i, (spoil, code, message, resource)) in rows.into_iter().enumerate() {
        let mut command = bench.command("orders.create", &format!("r-{i}"), b"{}");
        spoil(&bench, &mut command);
        let answer = execute(&bench, command).await;
        let status = answer.err().unwrap_or_else(|| Status::ok(""));
        assert_eq!((status.code(), status.message()), (code, message));
        assert_eq!(status.metadata().contains_key("gateway-server-time-ms"), message.contains("freshness"));
        told.push((resource, code_name(code)));
    }
    let replayed = execute(&bench, bench.command("orders.create", "r-10", b"{}")).await.unwrap_err();
    assert_eq!((replayed.code(), replayed.message()), (Code::FailedPrecondition, "request replay detected"));
    told.push(("replay", "FAILED_PRECONDITION"));
    assert_eq!(bench.metric("auth_failures_total", &[("reason", "malformed")]), 3);

    bench.drain();
    bench.ended().await;
    let records = bench.records().await;
    for (resource, code) in &told {
        let of_it = records.iter().filter(|record| record.resource.as_deref() == Some(resource));
        let (mut count, session) = (0, ["orders", "not_routed", "replay"].contains(resource).then_some("ds-1"));
        for record in of_it {
            let (status, decision) = if *resource == "orders" { ("success", "allow") } else { ("denied", "deny") };
            assert_eq!((record.status.as_str(), record.rbac_decision.as_deref()), (status, Some(decision)), "{record:?}");
            assert_eq!((record.grpc_code.as_deref(), record.device_session_id.as_deref()), (Some(*code), session), "{record:?}");
            assert_eq!((record.action_type.as_str(), record.ip_address.as_deref()), ("command", Some("127.0.0.1")));
            count += record.event_count as usize;
        }
        assert_eq!(count, told.iter().filter(|(other, _)| other == resource).count(), "{resource}: each once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_route_everything_is_not_routed() {
    let bench = Bench::start("").await;
    let status = execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "message_type is not routed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_rate_a_client_is_told_when_to_come_back() {
    let server = echo();
    let bench = Bench::start(&routed_to(server.address(), "[[limit]]\nname = \"s\"\nper = \"session\"\nrate = \"1/h\"\nburst = 2")).await;
    let mut refused = Vec::new();
    for i in 0..4 {
        refused.extend(execute(&bench, bench.command("orders.create", &format!("r-{i}"), b"")).await.err());
    }
    let status = refused.first().expect("two of four are over the rate");
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "rate limit exceeded"));
    assert!(status.metadata().contains_key("retry-after-ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_nothing_is_carried_out() {
    let (called, mut calls) = mpsc::unbounded_channel::<()>();
    let server = downstream(move |_| {
        called.send(()).unwrap();
        Box::pin(async { Ok(ExecuteResponse::default()) })
    });
    let mut bench = Bench::start(&routed_to(server.address(), "")).await;
    // The session is cached, so that the replay reservation is what cannot be decided.
    execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap();
    calls.recv().await.unwrap();
    bench.redis.kill9();
    let status = execute(&bench, bench.command("orders.create", "r-2", b"")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "session store is unavailable"));
    assert!(calls.try_recv().is_err());
    bench.redis.restart();
    let record = bench.record_soon("r-2").await;
    assert_eq!((record.status.as_str(), record.grpc_code.as_deref()), ("error", Some("UNAVAILABLE")), "from the spool");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_24_identical_commands_one_wins() {
    let server = echo();
    let mut bench = Bench::start(&routed_to(server.address(), "")).await;
    let command = bench.command("orders.create", "r-1", b"{}");
    let mut calls = JoinSet::new();
    for _ in 0..24 {
        let (mut client, command) = (bench.client(), command.clone());
        calls.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    }
    let (won, lost): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 23));
    for status in lost.into_iter().filter_map(Result::err) {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "request replay detected"));
    }
    bench.drain();
    bench.ended().await;
    let records = bench.records().await;
    let counted = |status| records.iter().filter(|record| record.status == status).map(|record| record.event_count).sum::<u32>();
    assert_eq!((counted("success"), counted("denied")), (1, 23));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_take_the_record_along() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let server = downstream(move |_| {
        entered.send(()).unwrap();
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let _open = gate.acquire().await.unwrap();
            Ok(ExecuteResponse::default())
        })
    });
    let bench = Bench::start(&routed_to(server.address(), "")).await;
    let mut client = bench.client();
    let command = bench.command("orders.create", "r-1", b"{}");
    let mut call = JoinSet::new();
    call.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    entries.recv().await.unwrap();
    call.shutdown().await;
    crate::bench::until("the disconnect is counted", async || {
        (bench.metric("grpc_requests_total", &[("method", "ExecuteCommand"), ("code", "CANCELLED")]) > 0).then_some(())
    })
    .await;
    opened.add_permits(1);
    let record = bench.record_soon("r-1").await;
    assert_eq!((record.status.as_str(), record.grpc_code.as_deref()), ("success", Some("OK")), "it was carried out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_while_its_request_id_is_used_up_does_not_take_the_command_along() {
    let server = echo();
    let more = "[redis]\ncommand_timeout = \"1m\"";
    let bench = Bench::start_on(RedisServer::start(), dir(), &routed_to(server.address(), more)).await;
    execute(&bench, bench.command("orders.create", "r-1", b"{}")).await.unwrap();
    bench.redis.pause();
    let (mut client, command) = (bench.client(), bench.command("orders.create", "r-2", b"{}"));
    let mut call = JoinSet::new();
    call.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    crate::bench::until("it is being worked at", async || (bench.metric("admission_in_flight", &[]) > 0).then_some(())).await;
    call.shutdown().await;
    crate::bench::until("the disconnect is counted", async || {
        (bench.metric("grpc_requests_total", &[("method", "ExecuteCommand"), ("code", "CANCELLED")]) > 0).then_some(())
    })
    .await;
    bench.redis.resume();
    assert_eq!(bench.record_soon("r-2").await.status, "success", "it was carried out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_downstream_is_unavailable_and_a_new_one_is_found() {
    let server = echo();
    let address = server.address();
    let bench = Bench::start(&routed_to(address, "")).await;
    execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap();
    drop(server);
    let status = crate::bench::until("the connection is noticed to be gone", async || {
        let id = format!("r-{}", now_ms());
        let status = execute(&bench, bench.command("orders.create", &id, b"")).await.err()?;
        assert_eq!(bench.record(&id).await.status, "error");
        Some(status)
    })
    .await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "downstream is unavailable"));
    assert!(bench.metric("downstream_requests_total", &[("outcome", "unavailable")]) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_downstream_times_out_by_the_route_or_by_the_client() {
    let server = downstream(|_| Box::pin(std::future::pending()));
    let bench = Bench::start(&routed_to(server.address(), "timeout = \"100ms\"")).await;
    let status = execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "downstream timed out"));
    assert_eq!(bench.record("r-1").await.grpc_code.as_deref(), Some("DEADLINE_EXCEEDED"));

    let bench = Bench::start(&routed_to(server.address(), "timeout = \"1h\"")).await;
    let mut request = Request::new(bench.command("orders.create", "r-2", b""));
    request.set_timeout(Duration::from_secs(5));
    let status = bench.client().execute_command(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}: the client's own clock may be first");
    assert_eq!(bench.record_soon("r-2").await.grpc_code.as_deref(), Some("DEADLINE_EXCEEDED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_downstream_refuses_is_passed_on() {
    let server = downstream(|request| {
        let code = Code::from_i32(request.get_ref().payload_bytes[0].into());
        Box::pin(async move { Err(Status::with_details(code, "the stock is empty", Bytes::from_static(b"d"))) })
    });
    let bench = Bench::start(&routed_to(server.address(), "")).await;
    for (code, status, name) in [
        (Code::FailedPrecondition, "error", "FAILED_PRECONDITION"),
        (Code::PermissionDenied, "denied", "PERMISSION_DENIED"),
        (Code::NotFound, "error", "NOT_FOUND"),
    ] {
        let payload = [u8::try_from(code as i32).unwrap()];
        let refused = execute(&bench, bench.command("orders.create", name, &payload)).await.unwrap_err();
        assert_eq!((refused.code(), refused.message(), refused.details()), (code, "the stock is empty", &b"d"[..]));
        let record = bench.record(name).await;
        assert_eq!(
            (record.status.as_str(), record.grpc_code.as_deref(), record.rbac_decision.as_deref()),
            (status, Some(name), Some("allow"))
        );
    }
    assert_eq!(bench.metric("downstream_requests_total", &[("outcome", "refused")]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_outlasts_the_budget_is_told_so_and_recorded() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let server = downstream(move |_| {
        entered.send(()).unwrap();
        Box::pin(std::future::pending())
    });
    let mut bench = Bench::start(&routed_to(server.address(), "timeout = \"5m\"\n[shutdown]\nedge = \"400ms\"")).await;
    let (mut client, mut left) = (bench.client(), JoinSet::new());
    let (command, abandoned) = (bench.command("orders.create", "r-1", b""), bench.command("orders.create", "r-2", b""));
    let mut other = bench.client();
    left.spawn(async move { other.execute_command(abandoned).await.map(|_| ()) });
    entries.recv().await.unwrap();
    left.shutdown().await;
    let (answer, ()) = tokio::join!(client.execute_command(command), async {
        entries.recv().await.unwrap();
        bench.drain();
    });
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "gateway is shutting down"));
    bench.ended().await;
    for id in ["r-1", "r-2"] {
        let record = bench.record(id).await;
        assert_eq!((record.status.as_str(), record.grpc_code.as_deref()), ("error", Some("UNAVAILABLE")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_finishes_commands_and_takes_no_new_ones() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let server = downstream(move |_| {
        entered.send(()).unwrap();
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let _open = gate.acquire().await.unwrap();
            Ok(ExecuteResponse::default())
        })
    });
    let mut bench = Bench::start(&routed_to(server.address(), "")).await;
    let mut client = bench.client();
    let command = bench.command("orders.create", "r-1", b"{}");
    let mut call = JoinSet::new();
    call.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    entries.recv().await.unwrap();
    bench.drain();
    opened.add_permits(1);
    call.join_next().await.unwrap().unwrap().expect("a command in flight is finished");
    bench.ended().await;
    assert_eq!(bench.record("r-1").await.status, "success");
}
