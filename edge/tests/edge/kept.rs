//! `replay = "answer"`: a retry is given what the first was given, and nothing is carried out twice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, gateway_client::GatewayClient},
};
use gatehouse_testkit::RedisServer;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tonic::{Code, Request, Status};

use crate::{
    bench::{Bench, dir, until},
    fakes::{Server, downstream, handler, routed_to},
};

const KEPT: &str = "replay = \"answer\"";

async fn execute(bench: &Bench, command: ExecuteCommandRequest) -> Result<ExecuteCommandResponse, Status> {
    bench.client().execute_command(command).await.map(tonic::Response::into_inner)
}

/// A backend that counts, and answers with how often it was asked.
fn counting() -> (Server, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    let server = downstream(move |request| {
        let n = counter.fetch_add(1, Ordering::SeqCst) + 1;
        let payload = request.into_inner().payload_bytes;
        Box::pin(async move {
            match &payload[..] {
                b"no" => Err(Status::with_details(Code::NotFound, format!("no such order, said {n}"), Bytes::from_static(b"d"))),
                b"large" => Ok(ExecuteResponse { result_code: String::new(), payload_bytes: vec![7; (1 << 20) + 1].into() }),
                _ => Ok(ExecuteResponse { result_code: String::new(), payload_bytes: n.to_string().into() }),
            }
        })
    });
    (server, asked)
}

/// A backend that says when it was reached, and answers when it may.
fn gated() -> (Server, mpsc::UnboundedReceiver<()>, Arc<Semaphore>) {
    let (entered, entries) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let server = downstream(move |_| {
        entered.send(()).unwrap();
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            let _open = gate.acquire().await.unwrap();
            Ok(ExecuteResponse { result_code: "done".into(), payload_bytes: Bytes::new() })
        })
    });
    (server, entries, opened)
}

/// A client that says how long it waits, and waits for longer: what it hears is the edge's word.
async fn unhurried(bench: &Bench, command: ExecuteCommandRequest, timeout: Duration) -> Result<ExecuteCommandResponse, Status> {
    let stream = TokioIo::new(TcpStream::connect(bench.grpc).await.unwrap());
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    bench.process.spawn("h2-client", async move { drop(connection.await) });
    let service = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let mut request = Request::new(command);
    request.set_timeout(timeout);
    let answer = GatewayClient::with_origin(service, http::Uri::from_static("http://gate")).execute_command(request).await;
    answer.map(tonic::Response::into_inner)
}

fn is_unknown(status: &Status) -> bool {
    status.metadata().get("gateway-outcome").is_some_and(|outcome| outcome == "unknown")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_gets_the_first_answer_byte_for_byte_and_another_envelope_is_a_replay() {
    let (server, asked) = counting();
    let bench = Bench::start(&routed_to(server.address(), KEPT)).await;
    let first = execute(&bench, bench.command("orders.create", "r-1", b"{}")).await.unwrap();
    // Signed anew, with a timestamp of its own.
    let again = execute(&bench, bench.command("orders.create", "r-1", b"{}")).await.unwrap();
    assert_eq!(first.encode_to_vec(), again.encode_to_vec());
    let other = execute(&bench, bench.command("orders.create", "r-1", b"{ }")).await.unwrap_err();
    assert_eq!((other.code(), other.message()), (Code::FailedPrecondition, "request replay detected"));
    assert_eq!(asked.load(Ordering::SeqCst), 1);

    let records = bench.records().await;
    // Refusals come in groups, later.
    let let_through = records.iter().filter(|record| record.status == "success");
    let told: Vec<_> = let_through.map(|record| record.resource_type.as_deref()).collect();
    assert_eq!(told, [Some("backend"), Some("kept answer")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backends_own_no_is_kept_too_and_what_is_too_large_is_not() {
    let (server, asked) = counting();
    let bench = Bench::start(&routed_to(server.address(), KEPT)).await;
    for _ in 0..2 {
        let said = execute(&bench, bench.command("orders.create", "r-1", b"no")).await.unwrap_err();
        assert_eq!((said.code(), said.message(), said.details()), (Code::NotFound, "no such order, said 1", &b"d"[..]));
    }
    assert_eq!(execute(&bench, bench.command("orders.create", "r-2", b"large")).await.unwrap().payload_bytes.len(), (1 << 20) + 1);
    let status = execute(&bench, bench.command("orders.create", "r-2", b"large")).await.unwrap_err();
    assert_eq!((status.code(), is_unknown(&status)), (Code::Unavailable, true), "{status}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_a_retry_is_refused_as_ever() {
    let (server, _) = counting();
    let bench = Bench::start(&routed_to(server.address(), "")).await;
    execute(&bench, bench.command("orders.create", "r-1", b"{}")).await.unwrap();
    let status = execute(&bench, bench.command("orders.create", "r-1", b"{}")).await.unwrap_err();
    assert_eq!(status.message(), "request replay detected");
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_wait_for_the_first_on_whichever_edge_it_runs_and_all_get_its_answer() {
    let (server, mut entries, gate) = gated();
    let bench = Bench::start(&routed_to(server.address(), KEPT)).await;
    let beside = bench.beside(&routed_to(server.address(), KEPT)).await;
    let command = bench.command("orders.create", "r-1", b"{}");
    let mut calls = JoinSet::new();
    for mut client in [bench.client(), bench.client(), beside.client(), beside.client()] {
        let command = command.clone();
        calls.spawn(async move { client.execute_command(command).await.map(tonic::Response::into_inner) });
    }
    entries.recv().await.unwrap();
    gate.add_permits(1);
    let (answers, others): (Vec<_>, Vec<_>) = calls.join_all().await.into_iter().partition(Result::is_ok);
    // An edge that stands still for seconds is taken for dead by those who wait; that is told, and nothing is carried out twice.
    assert!(others.iter().all(|other| other.as_ref().is_err_and(is_unknown)), "{others:?}");
    let answers: Vec<_> = answers.into_iter().flatten().map(|answer| answer.encode_to_vec()).collect();
    assert!(!answers.is_empty() && answers.iter().all(|answer| *answer == answers[0]));
    assert!(entries.try_recv().is_err(), "it was carried out once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_left_or_whose_time_was_up_finds_its_answer() {
    let (server, mut entries, gate) = gated();
    let bench = Bench::start(&routed_to(server.address(), &format!("{KEPT}\ntimeout = \"1m\""))).await;
    let (mut client, command) = (bench.client(), bench.command("orders.create", "r-1", b""));
    let mut leaving = JoinSet::new();
    leaving.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    entries.recv().await.unwrap();
    leaving.shutdown().await;

    // Its time may be up before it has come anywhere: then it is the first still.
    loop {
        let mut hasty = Request::new(bench.command("orders.create", "r-2", b""));
        hasty.set_timeout(Duration::from_millis(500));
        let status = bench.client().execute_command(hasty).await.unwrap_err();
        assert_ne!(status.code(), Code::FailedPrecondition, "{status}: who comes again waits as long as he may, and is no replay");
        if tokio::time::timeout(Duration::from_secs(1), entries.recv()).await.is_ok() {
            break;
        }
    }

    gate.add_permits(2);
    for id in ["r-1", "r-2"] {
        assert_eq!(execute(&bench, bench.command("orders.create", id, b"")).await.unwrap().result_code, "done");
    }
    assert!(entries.try_recv().is_err(), "each was carried out once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_whose_time_is_up_while_the_first_goes_on_is_told_that_it_timed_out() {
    let (server, mut entries, gate) = gated();
    let bench = Bench::start(&routed_to(server.address(), &format!("{KEPT}\ntimeout = \"5m\""))).await;
    let (mut client, command) = (bench.client(), bench.command("orders.create", "r-1", b""));
    let mut first = JoinSet::new();
    first.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    entries.recv().await.unwrap();
    let status = unhurried(&bench, bench.command("orders.create", "r-1", b""), Duration::from_millis(400)).await.unwrap_err();
    assert_eq!((status.code(), status.message(), is_unknown(&status)), (Code::DeadlineExceeded, "downstream timed out", true));
    let told = async || bench.records().await.into_iter().find(|record| record.resource_type.as_deref() == Some("kept answer"));
    let record = until("the retry is on record", told).await;
    assert_eq!((record.status.as_str(), record.grpc_code.as_deref()), ("error", Some("DEADLINE_EXCEEDED")));
    gate.add_permits(1);
    first.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap().result_code, "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_time_was_up_before_it_was_begun_is_not_begun_and_nothing_about_it_is_unknown() {
    let (server, asked) = counting();
    let bench = Bench::start(&routed_to(server.address(), &format!("{KEPT}\n[redis]\ncommand_timeout = \"600s\""))).await;
    execute(&bench, bench.command("orders.create", "warm", b"")).await.unwrap();
    bench.redis.run(&["CLIENT", "PAUSE", "600000", "WRITE"]);
    let timeout = Duration::from_millis(50);
    let late = async {
        let in_flight = async || (bench.metric("admission_in_flight", &[]) == 1).then_some(());
        until("it is being verified", in_flight).await;
        // It came before; so its time is over then.
        tokio::time::sleep(timeout * 2).await;
        bench.redis.run(&["CLIENT", "UNPAUSE"]);
    };
    let (answer, ()) = tokio::join!(unhurried(&bench, bench.command("orders.create", "r-1", b""), timeout), late);
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message(), is_unknown(&status)), (Code::DeadlineExceeded, "downstream timed out", false));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the warm one");
    assert_eq!(bench.record_soon("r-1").await.grpc_code.as_deref(), Some("DEADLINE_EXCEEDED"));
    assert_eq!(&execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap().payload_bytes[..], b"2", "its id is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_while_it_waits_for_the_first_is_counted_like_any_other_refusal() {
    let (server, mut entries, gate) = gated();
    let bench = Bench::start(&routed_to(server.address(), &format!("{KEPT}\ntimeout = \"5m\""))).await;
    let mut calls = JoinSet::new();
    let mut send = || {
        let (mut client, command) = (bench.client(), bench.command("orders.create", "r-1", b""));
        calls.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    };
    send();
    entries.recv().await.unwrap();
    send();
    // One waits for the backend and the other one for the first, in the gateway neither.
    let refused = || bench.metric("auth_failures_total", &[("reason", "replay")]);
    let waits = async || {
        let reads = bench.redis.run(&["INFO", "commandstats"]);
        let gets = reads.lines().find_map(|line| line.split_once("cmdstat_get:calls=")?.1.split(',').next()?.parse::<u32>().ok());
        gets.filter(|gets| *gets >= 20)
    };
    until("it looks again and again", waits).await;
    assert_eq!(refused(), 0);
    bench.redis.run(&["SET", "gateway:replay:ds-1:r-1", "another envelope's"]);
    let status = calls.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!((status.code(), status.message(), refused()), (Code::FailedPrecondition, "request replay detected", 1));
    gate.add_permits(1);
    calls.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reached_nobody_is_carried_out_when_it_is_tried_again() {
    let socket = dir();
    let path = socket.path().join("backend.sock");
    let bench = Bench::start(&routed_to(format!("unix:{}", path.display()), KEPT)).await;
    let status = execute(&bench, bench.command("orders.create", "r-1", b"{}")).await.unwrap_err();
    assert_eq!((status.code(), status.message(), is_unknown(&status)), (Code::Unavailable, "downstream is unavailable", false));
    let _server = Server::unix(&path, handler(|_| Box::pin(async { Ok(ExecuteResponse::default()) })));
    // The circuit may have to close first.
    until("it is carried out", async || execute(&bench, bench.command("orders.create", "r-1", b"{}")).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_said_to_be_unknown_and_never_tried_again() {
    let (server, mut entries, gate) = gated();
    let bench = Bench::start(&routed_to(server.address(), &format!("{KEPT}\ntimeout = \"500ms\""))).await;
    let mut n = 0;
    // On a busy machine time may be up before one is sent: such a one has reached nobody, and is known not to have.
    let id = until("one was sent in time", async || {
        n += 1;
        let id = format!("r-{n}");
        let status = execute(&bench, bench.command("orders.create", &id, b"")).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "downstream timed out"));
        is_unknown(&status).then_some(id)
    });
    let id = id.await;
    gate.add_permits(9);
    let status = execute(&bench, bench.command("orders.create", &id, b"")).await.unwrap_err();
    assert_eq!((status.code(), is_unknown(&status)), (Code::Unavailable, true), "{status}");
    let reached = std::iter::from_fn(|| entries.try_recv().ok()).count();
    assert!(reached <= 1, "{reached} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retry_of_a_command_whose_edge_was_killed_is_told_that_nobody_knows() {
    let (server, mut entries, _gate) = gated();
    let mut bench = Bench::start(&routed_to(server.address(), &format!("{KEPT}\ntimeout = \"5m\""))).await;
    let beside = bench.beside(&routed_to(server.address(), &format!("{KEPT}\ntimeout = \"5m\""))).await;
    let (mut client, command) = (bench.client(), bench.command("orders.create", "r-1", b""));
    let mut call = JoinSet::new();
    call.spawn(async move { client.execute_command(command).await.map(|_| ()) });
    entries.recv().await.unwrap();
    // As a kill would: nothing is finished, and nothing more is said to Redis.
    bench.kill().await;
    let status = beside.client().execute_command(bench.command("orders.create", "r-1", b"")).await.unwrap_err();
    assert_eq!((status.code(), is_unknown(&status)), (Code::Unavailable, true), "{status}");
    assert!(entries.try_recv().is_err(), "it is not carried out again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_over_the_rate_reached_nobody_and_may_come_again() {
    let (server, _) = counting();
    let bench = Bench::start(&routed_to(server.address(), &format!("{KEPT}\n[limits]\ncommands_per_second = 2\nburst = 1"))).await;
    execute(&bench, bench.command("orders.create", "r-1", b"")).await.unwrap();
    let mut refused = 0;
    until("there is room for it", async || match execute(&bench, bench.command("orders.create", "r-2", b"")).await {
        Ok(answer) => Some(answer),
        Err(status) => {
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "rate limit exceeded"));
            refused += 1;
            None
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_carried_out_while_redis_may_evict_or_after_it_lost_what_was_reserved() {
    let (server, asked) = counting();
    let bench = Bench::start_on(RedisServer::start(), dir(), &routed_to(server.address(), KEPT)).await;
    let seen = bench.command("orders.create", "r-1", b"{}");
    execute(&bench, seen.clone()).await.unwrap();
    bench.redis.run(&["FLUSHALL"]);
    bench.write_session("ds-1", gatehouse_proto::session::Status::Active);
    let status = execute(&bench, seen).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "session store is unavailable"), "it may have been carried out");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    until("a command that is younger is carried out", async || execute(&bench, bench.command("orders.create", "r-2", b"{}")).await.ok())
        .await;

    bench.redis.run(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let mut n = 0;
    let status = until("eviction is noticed", async || {
        n += 1;
        execute(&bench, bench.command("orders.create", &format!("evicted-{n}"), b"{}")).await.err()
    })
    .await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "session store is unavailable"));
    bench.redis.run(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    until("it is good again", async || {
        n += 1;
        execute(&bench, bench.command("orders.create", &format!("evicted-{n}"), b"{}")).await.ok()
    })
    .await;
}
