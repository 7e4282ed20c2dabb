//! An admin process of the test's own, in the shape that `serve` gives it, with stand-ins for the other processes.

use axum::{
    Router,
    body::Body,
    http::{Request, Response},
};
use gatehouse_admin::{http, operations::Operations, scrape::Scraper, service::Service, sessions::Sessions, tokens};
use gatehouse_chassis::{
    Process, Shutdown,
    audit::Recorder,
    config::{Config as _, Reader, Shared, Source},
    connections::{self, ConnectionMetrics, Farewell},
    ipc,
    members::Members,
    redis::{Entry, Redis},
    sockets::{Inherited, Listener},
    watchdog::Pulse,
};
use gatehouse_migrations::{Database, Owner};
use gatehouse_proto::{
    ids::StreamId,
    internal::v1::{AuditBatch, AuditRecord, audit_trail_client::AuditTrailClient, supervisor_client::SupervisorClient},
};
use gatehouse_testkit::{PostgresServer, RedisServer};
use http_body_util::BodyExt as _;
use prost::Message as _;
use tempfile::TempDir;
use tower::ServiceExt as _;

pub struct House {
    pub redis: RedisServer,
    pub state: TempDir,
    pub postgres: Option<(PostgresServer, String)>,
    /// Ends what was started in this house.
    pub others: Shutdown,
}

impl Drop for House {
    fn drop(&mut self) {
        self.others.abort();
    }
}

/// Everything that `serve` makes.
pub struct Admin {
    pub process: Process,
    pub router: Router,
    pub service: Service,
    pub sessions: Sessions,
    pub redis: Redis,
    pub token: String,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.process.shutdown().abort();
    }
}

impl House {
    pub fn new() -> Self {
        Self { redis: RedisServer::start(), state: tempfile::tempdir().unwrap(), postgres: None, others: Shutdown::default() }
    }

    pub fn on_postgres() -> Self {
        let server = PostgresServer::start();
        let url = server.database();
        let mut house = Self::new();
        house.postgres = Some((server, url));
        house
    }

    pub fn env(&self) -> Vec<(&'static str, String)> {
        let dir = self.state.path().display().to_string();
        let mut env = vec![
            ("GATEWAY_REDIS_MASTER_ADDR", self.redis.addr()),
            ("GATEWAY_REDIS_PASSWORD", self.redis.password().to_owned()),
            ("GATEWAY_STATE_DIR", dir.clone()),
            ("GATEWAY_RUNTIME_DIR", dir),
        ];
        env.extend(self.postgres.iter().map(|(_, url)| ("GATEWAY_DATABASE_URL", url.clone())));
        env
    }

    pub fn shared(&self) -> Shared {
        let env = self.env();
        let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Shared::read(&mut Reader::new(Source::of("", &env))).unwrap()
    }

    pub fn database(&self) -> Database {
        Database::of(&self.shared(), Owner::Admin).unwrap()
    }

    pub async fn admin(&self) -> Admin {
        let process = Process::new("admin", 0, self.shared(), Inherited::default());
        let shared = process.shared().clone();
        let redis = Redis::connect(&shared.redis).await.unwrap();
        self.database().ready(true).await.unwrap();
        let tokens = tokens::Tokens::open(&self.database(), &shared.state_dir, process.metrics()).await.unwrap();
        let sessions = Sessions::new(redis.clone(), process.metrics().gauge("sessions_active", "Active sessions."));
        let operations = Operations {
            sessions: sessions.clone(),
            recorder: Recorder::open(&process, redis.clone()).unwrap(),
            trail: AuditTrailClient::new(ipc::channel(shared.local_socket("auditor", 0))),
            supervisor: SupervisorClient::new(ipc::channel(shared.local_socket("supervisor", 0))),
        };
        let router = http::router(&process, operations.clone(), Scraper::new(&process, Members::follow(&process).await), tokens);
        let token = std::fs::read_to_string(shared.state_dir.join(tokens::FILE)).unwrap_or_default().trim().to_owned();
        Admin { process, router, service: Service(operations), sessions, redis, token }
    }

    /// Another process of the suite, on its local socket.
    pub fn serve(&self, component: &str, instance: u32, router: Router) {
        let socket = tokio::net::UnixListener::bind(self.shared().local_socket(component, instance)).unwrap();
        let metrics = ConnectionMetrics::new(&gatehouse_chassis::metrics::Metrics::new("other", 0));
        let serve = connections::serve(
            "local",
            Listener::Unix(socket),
            router,
            metrics,
            Farewell::at_once(),
            self.others.clone(),
            Pulse::default(),
        );
        self.others.spawn("other", serve);
    }
}

impl Admin {
    /// What is in the audit stream, in order.
    pub async fn recorded(&self) -> Vec<AuditRecord> {
        let entries = self.entries("gateway:audit").await;
        entries.iter().flat_map(|entry| AuditBatch::decode(entry.fields[0].1.clone()).unwrap().records).collect()
    }

    pub async fn entries(&self, stream: &str) -> Vec<Entry> {
        self.redis.range(stream, StreamId::ZERO, StreamId { ms: u64::MAX, seq: u64::MAX }, 1000).await.unwrap()
    }

    pub async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// With the token.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", self.token));
        let request = request.header("content-type", "application/json").body(Body::from(body.to_owned())).unwrap();
        let response = self.send(request).await;
        (response.status().as_u16(), json(response).await)
    }
}

pub async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

pub async fn json(response: Response<Body>) -> serde_json::Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// A device's public key, base64 of RFC 8032's first test vector.
pub const KEY: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
