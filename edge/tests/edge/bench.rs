//! An edge with everything around it.

use std::{
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::Path,
    time::Duration,
};

use gatehouse_chassis::{
    Process,
    config::{Config as _, Origin, Reader, Shared, Source},
    ipc,
    redis::Redis,
    sockets::Inherited,
};
use gatehouse_edge::Config;
use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, SubscribeEventsRequest, gateway_client::GatewayClient},
    ids::StreamId,
    internal::v1::{AuditBatch, AuditRecord, EdgeVerdict, ReloadRequest, edge_client::EdgeClient},
    keys::{Signer, sha256},
    session::{SessionSnapshot, Status},
    signing,
};
use gatehouse_sessions::now_ms;
use gatehouse_testkit::RedisServer;
use prost::Message as _;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;

const LAST: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

pub(crate) struct Bench {
    pub(crate) redis: RedisServer,
    pub(crate) process: Process,
    pub(crate) grpc: SocketAddr,
    pub(crate) http: SocketAddr,
    pub(crate) dir: TempDir,
    pub(crate) device: Signer,
    pub(crate) gateway: Signer,
    client: Redis,
    running: JoinSet<anyhow::Result<()>>,
}

/// Another edge on the same Redis.
pub(crate) struct Beside {
    grpc: SocketAddr,
    process: Process,
    _dir: TempDir,
    _running: JoinSet<anyhow::Result<()>>,
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.process.shutdown().abort();
    }
}

impl Beside {
    pub(crate) fn client(&self) -> GatewayClient<Channel> {
        GatewayClient::new(channel(self.grpc))
    }
}

fn channel(grpc: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{grpc}")).unwrap().user_agent("bench/1").unwrap().connect_lazy()
}

/// Where local sockets and state will be, for what must be there before the edge is.
pub(crate) fn dir() -> TempDir {
    tempfile::Builder::new().prefix("gh-edge-").tempdir_in("/tmp").unwrap()
}

impl Bench {
    /// An edge with that configuration, and one active session, `ds-1` of `u-1`.
    pub(crate) async fn start(text: &str) -> Self {
        Self::start_in(dir(), text).await
    }

    pub(crate) async fn start_in(dir: TempDir, text: &str) -> Self {
        Self::start_on(RedisServer::start(), dir, text).await
    }

    pub(crate) async fn start_on(redis: RedisServer, dir: TempDir, text: &str) -> Self {
        let gateway = Signer::from_seed(&[9; 32]);
        let (process, grpc, http, client, running) = Self::open(&redis, &dir, text).await;
        let device = Signer::from_seed(&[7; 32]);
        let this = Self { redis, process, grpc, http, dir, device, gateway, client, running };
        this.write_session("ds-1", Status::Active);
        serves(this.channel()).await;
        this
    }

    /// Another edge on the same Redis, with a directory of its own.
    pub(crate) async fn beside(&self, text: &str) -> Beside {
        let dir = dir();
        let (process, grpc, _, _, running) = Self::open(&self.redis, &dir, text).await;
        serves(channel(grpc)).await;
        Beside { grpc, process, _dir: dir, _running: running }
    }

    /// Ends it as a kill would, as far as that can be done in-process: nothing is finished.
    pub(crate) async fn kill(&mut self) {
        self.process.shutdown().abort();
        self.running.shutdown().await;
    }

    async fn open(redis: &RedisServer, dir: &TempDir, text: &str) -> (Process, SocketAddr, SocketAddr, Redis, JoinSet<anyhow::Result<()>>) {
        let gateway = Signer::from_seed(&[9; 32]);
        let key = dir.path().join("signer.pem");
        gatehouse_testkit::write_private(&key, &gateway.to_pkcs8_pem().unwrap());
        let addr = redis.addr();
        let path = |path: &Path| path.to_str().unwrap().to_owned();
        let (state, runtime) = (path(&dir.path().join("state")), path(dir.path()));
        let env = [
            ("GATEWAY_REDIS_MASTER_ADDR", addr.as_str()),
            ("GATEWAY_REDIS_PASSWORD", redis.password()),
            // Unless the test has keys of its own.
            ("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", if text.contains("[signer]") { "" } else { key.to_str().unwrap() }),
            ("GATEWAY_STATE_DIR", &state),
            ("GATEWAY_RUNTIME_DIR", &runtime),
        ];
        let config = dir.path().join("gateway.toml");
        std::fs::write(&config, text).unwrap();
        let source = Source { path: config.clone(), ..Source::of(text, &env) };
        let origin = Origin { path: Some(config), first: source.clone() };
        let mut reader = Reader::new(source);
        let (shared, config) = (Shared::read(&mut reader), Config::read(&mut reader));
        assert_eq!(reader.into_problems(), []);
        let (mut shared, config) = (shared.unwrap(), config.unwrap());
        if !text.contains("command_timeout") {
            // Longer than a busy machine stands still.
            (shared.redis.command_timeout, shared.redis.connect_timeout) = (Duration::from_secs(5), Duration::from_secs(10));
        }
        let client = Redis::connect(&shared.redis).await.unwrap();
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (grpc, http) = (bind(), bind());
        let addresses = (grpc.local_addr().unwrap(), http.local_addr().unwrap());
        let socket = dir.path().join("edge.sock");
        // Of the edge before.
        let _absent = std::fs::remove_file(&socket);
        let local = OwnedFd::from(UnixListener::bind(socket).unwrap());
        let lent = Inherited::of([("grpc", OwnedFd::from(grpc)), ("http", OwnedFd::from(http)), ("local", local)]);
        let process = Process::new("edge", 0, shared, lent).with_origin(origin);
        let mut running = JoinSet::new();
        running.spawn(gatehouse_edge::serve(process.clone(), config));
        (process, addresses.0, addresses.1, client, running)
    }

    pub(crate) fn write_session(&self, id: &str, status: Status) {
        let public_key = self.device.public_key().to_base64();
        let snapshot = SessionSnapshot {
            device_session_id: id.into(),
            user_id: "u-1".into(),
            public_key,
            status,
            updated_at_ms: 1,
            revoked_at_ms: None,
        };
        self.redis.run(&["SET", &format!("gateway:session:{id}"), &snapshot.to_json()]);
    }

    /// A connection of a client's own.
    pub(crate) fn channel(&self) -> Channel {
        channel(self.grpc)
    }

    pub(crate) fn client(&self) -> GatewayClient<Channel> {
        GatewayClient::new(self.channel())
    }

    /// What the supervisor speaks to.
    pub(crate) fn edge(&self) -> EdgeClient<ipc::Channel> {
        EdgeClient::new(ipc::channel(self.dir.path().join("edge.sock")))
    }

    /// Another file, and a reload.
    pub(crate) async fn reload(&self, text: &str) -> EdgeVerdict {
        std::fs::write(self.dir.path().join("gateway.toml"), text).unwrap();
        self.edge().reload(ReloadRequest {}).await.unwrap().into_inner()
    }

    /// Ends it; what it stood on, for the next one.
    pub(crate) async fn end(mut self) -> (RedisServer, TempDir) {
        self.drain();
        self.ended().await;
        (self.redis, self.dir)
    }

    /// A well-formed command, signed.
    pub(crate) fn command(&self, message_type: &str, request_id: &str, payload: &[u8]) -> ExecuteCommandRequest {
        let mut command = ExecuteCommandRequest {
            protocol_version: "v1".into(),
            device_session_id: "ds-1".into(),
            message_type: message_type.into(),
            request_id: request_id.into(),
            timestamp_ms: now_ms(),
            payload_bytes: payload.to_vec().into(),
            payload_hash: sha256(payload).to_vec().into(),
            ..Default::default()
        };
        self.sign(&mut command);
        command
    }

    pub(crate) fn sign(&self, command: &mut ExecuteCommandRequest) {
        command.signature = self.device.sign(&signing::command(command)).to_vec().into();
    }

    pub(crate) fn subscribe(&self, request_id: &str, last_event_id: &str) -> SubscribeEventsRequest {
        let mut subscribe = SubscribeEventsRequest {
            protocol_version: "v1".into(),
            device_session_id: "ds-1".into(),
            request_id: request_id.into(),
            timestamp_ms: now_ms(),
            last_event_id: last_event_id.into(),
            ..Default::default()
        };
        subscribe.signature = self.device.sign(&signing::subscribe(&subscribe)).to_vec().into();
        subscribe
    }

    /// Every audit record that is in the stream now.
    pub(crate) async fn records(&self) -> Vec<AuditRecord> {
        // The first command after a restart of Redis finds the old connection broken.
        let read = async || self.client.range("gateway:audit", StreamId::ZERO, LAST, 10_000).await.ok();
        let entries = until("Redis answers", read).await;
        let records = |entry: &gatehouse_chassis::redis::Entry| {
            let field = entry.fields().find(|(name, _)| *name == b"records").unwrap().1;
            AuditBatch::decode(field).unwrap().records
        };
        entries.iter().flat_map(records).collect()
    }

    /// The record of that request, which must be there now.
    pub(crate) async fn record(&self, request_id: &str) -> AuditRecord {
        let mut found = self.records().await;
        found.retain(|record| record.request_id.as_deref() == Some(request_id));
        assert_eq!(found.len(), 1, "records of {request_id}");
        found.remove(0)
    }

    /// The record of that request, once it is there.
    pub(crate) async fn record_soon(&self, request_id: &str) -> AuditRecord {
        until("the record is in the stream", async || {
            self.records().await.into_iter().find(|record| record.request_id.as_deref() == Some(request_id))
        })
        .await
    }

    /// A sample's value; 0 when it is not there.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let text = self.process.metrics().text();
        let matches = |line: &&str| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'))
                && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
        };
        text.lines().filter(matches).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    pub(crate) fn drain(&self) {
        self.process.shutdown().drain();
    }

    /// Waits until `serve` and everything it spawned has ended.
    pub(crate) async fn ended(&mut self) {
        self.running.join_next().await.unwrap().unwrap().unwrap();
        tokio::time::timeout(Duration::from_mins(1), self.process.shutdown().finished()).await.expect("the drain ends");
        tokio::time::timeout(Duration::from_mins(1), self.process.shutdown().sinks_finished()).await.expect("the trail is written");
    }
}

async fn serves(channel: Channel) {
    let serving = tonic_health::pb::health_client::HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    serving.expect("the edge serves");
}

/// Asks until there is something.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), asked).await.unwrap_or_else(|_| panic!("never: {what}"))
}
