//! What `/health/ready` says, and what it costs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, sync::Semaphore, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::{
    bench::{Bench, until},
    fakes::{Pusher, Server},
    http::{get, raw},
};

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_missing() {
    let mut bench = Bench::start("[suite]\npushers = 2").await;
    let named = json!({"status": "not_ready", "database": "disconnected", "redis": "connected", "pusher": "not_ready"});
    // On a busy machine somebody may not answer in the second that each has.
    until("it is told so", async || {
        let missing = get(&bench, "/health/ready").await;
        ((missing.status, missing.json()) == (503, named.clone())).then_some(())
    })
    .await;

    let _pusher = Pusher::start(bench.dir.path(), 1);
    let (health, service) = tonic_health::server::health_reporter();
    health.set_service_status("database", tonic_health::ServingStatus::Serving).await;
    let routes = tonic::service::Routes::new(service).into_axum_router();
    let _auditor = Server::unix(&bench.dir.path().join("auditor.sock"), routes);
    let all = json!({"status": "ready", "database": "connected", "redis": "connected", "pusher": "ready"});
    for path in ["/health/ready", "/api/v1/health/ready"] {
        until("it is told so", async || {
            let ready = get(&bench, path).await;
            ((ready.status, ready.json()) == (200, all.clone())).then_some(())
        })
        .await;
    }
    for (policy, told) in [("allkeys-lru", Some("evicts keys")), ("noeviction", Some("connected"))] {
        bench.redis.run(&["CONFIG", "SET", "maxmemory-policy", policy]);
        until("it is told so", async || {
            let report = get(&bench, "/health/ready").await;
            (report.json()["redis"].as_str() == told && (report.status == 200) == (policy == "noeviction")).then_some(())
        })
        .await;
    }
    bench.redis.kill9();
    until("it is told so", async || {
        let missing = get(&bench, "/health/ready").await;
        ((missing.status, missing.json()["redis"].as_str()) == (503, Some("disconnected"))).then_some(())
    })
    .await;
}

/// An auditor that is asked how its database is, and says so when it may.
struct Asked(Arc<AtomicU64>, Arc<Semaphore>);

#[tonic::async_trait]
impl Health for Asked {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(&self, _: tonic::Request<HealthCheckRequest>) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        let _may = self.1.acquire().await.unwrap();
        Ok(tonic::Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn watch(&self, _: tonic::Request<HealthCheckRequest>) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_for_readiness_often_asks_the_suite_no_more_for_it() {
    let bench = Bench::start("").await;
    let (asked, may) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let routes = tonic::service::Routes::new(HealthServer::new(Asked(Arc::clone(&asked), Arc::clone(&may)))).into_axum_router();
    let _auditor = Server::unix(&bench.dir.path().join("auditor.sock"), routes);
    let begun = Instant::now();
    let text = "GET /health/ready HTTP/1.1\r\nhost: gate\r\nconnection: close\r\n\r\n";
    // Half of them do not stay for the answer.
    for _ in 0..100 {
        TcpStream::connect(bench.http).await.unwrap().write_all(text.as_bytes()).await.unwrap();
    }
    let mut answers: JoinSet<_> = (0..100).map(|_| raw(bench.http, text)).collect();
    until("the first is asked", async || (asked.load(Ordering::Relaxed) > 0).then_some(())).await;
    may.add_permits(1);
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().status, 503, "there is no pusher");
    }
    // Each round begins half a second after the one before has ended.
    let most = 1 + begun.elapsed().as_millis() / 500;
    let asked = asked.load(Ordering::Relaxed);
    assert!(u128::from(asked) <= most, "{asked} times in {:?}", begun.elapsed());
}
