//! A Redis, and sessions and a verifier on it.

use std::time::Duration;

use gatehouse_chassis::{
    Process,
    config::{Config as _, Reader, Shared, Source},
    redis::Redis,
    sockets::Inherited,
};
use gatehouse_proto::{
    gateway::v1::ExecuteCommandRequest,
    keys::{Signer, sha256},
    session::{SessionSnapshot, Status},
    signing,
};
use gatehouse_sessions::{Config, Limits, Refusal, Sessions, Verifier, now_ms};
use gatehouse_testkit::RedisServer;
use tokio::sync::mpsc;

/// Redis, and what an edge has of sessions on it.
pub struct Bench {
    pub server: RedisServer,
    pub sessions: Sessions,
    pub verifier: Verifier,
    pub revoked: mpsc::UnboundedReceiver<String>,
    pub device: Signer,
}

type Edge = (Sessions, Verifier, mpsc::UnboundedReceiver<String>);

/// What one edge has of sessions.
async fn open(server: &RedisServer, text: &str) -> anyhow::Result<Edge> {
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), Signer::from_seed(&[9; 32]).to_pkcs8_pem().unwrap().as_bytes()).unwrap();
    let addr = server.addr();
    let env = [
        ("GATEWAY_REDIS_MASTER_ADDR", addr.as_str()),
        ("GATEWAY_REDIS_PASSWORD", server.password()),
        ("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", key.path().to_str().unwrap()),
    ];
    let mut reader = Reader::new(Source::of(text, &env));
    let mut shared = Shared::read(&mut reader).unwrap();
    let config = Config::read(&mut reader).unwrap();
    assert_eq!(reader.into_problems(), []);
    if !text.contains("command_timeout") {
        // Longer than a busy machine stands still.
        (shared.redis.command_timeout, shared.redis.connect_timeout) = (Duration::from_secs(5), Duration::from_secs(10));
    }
    let redis = Redis::connect(&shared.redis).await.unwrap();
    let process = Process::new("test", 0, shared, Inherited::default());
    let (sender, revoked) = mpsc::unbounded_channel();
    // A bench has one that reads; an edge beside it has none.
    let on_revoked = move |id: &str| drop(sender.send(id.to_owned()));
    let sessions = Sessions::open(&process, redis.clone(), &config, on_revoked).await?;
    let limits = Limits::start(&process, &redis, &config);
    let verifier = Verifier::new(sessions.clone(), redis, &config, &process).with_limits(limits);
    Ok((sessions, verifier, revoked))
}

impl Bench {
    pub async fn start(text: &str) -> Self {
        Self::start_on(RedisServer::start(), text).await
    }

    pub async fn start_on(server: RedisServer, text: &str) -> Self {
        Self::try_start_on(server, text).await.unwrap()
    }

    pub async fn try_start_on(server: RedisServer, text: &str) -> anyhow::Result<Self> {
        let (sessions, verifier, revoked) = open(&server, text).await?;
        Ok(Self { server, sessions, verifier, revoked, device: Signer::from_seed(&[7; 32]) })
    }

    /// Another edge on the same Redis.
    pub async fn beside(&self) -> Verifier {
        open(&self.server, "").await.unwrap().1
    }

    /// How often Redis was asked for a key since [`Bench::count_anew`].
    pub fn gets(&self) -> u32 {
        let stats = self.server.run(&["INFO", "commandstats"]);
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }

    pub fn count_anew(&self) {
        self.server.run(&["CONFIG", "RESETSTAT"]);
    }

    /// Resolves once everything that was written to the stream before has been taken in.
    pub async fn stream_is_read(&mut self) {
        self.write_stream(&SessionSnapshot { device_session_id: "fence".into(), ..self.snapshot(Status::Revoked, now_ms()) });
        while self.revoked.recv().await.unwrap() != "fence" {}
    }

    pub fn snapshot(&self, status: Status, updated_at_ms: i64) -> SessionSnapshot {
        SessionSnapshot {
            device_session_id: "ds-1".into(),
            user_id: "u-1".into(),
            public_key: self.device.public_key().to_base64(),
            status,
            updated_at_ms,
            revoked_at_ms: None,
        }
    }

    pub fn write_key(&self, snapshot: &SessionSnapshot) {
        self.server.run(&["SET", &format!("gateway:session:{}", snapshot.device_session_id), &snapshot.to_json()]);
    }

    pub fn write_stream(&self, snapshot: &SessionSnapshot) {
        let mut command = vec!["XADD".to_owned(), "gateway:session_events".into(), "*".into()];
        command.extend(snapshot.to_fields().into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        self.server.run(&command);
    }

    pub async fn is_revoked(&self) -> bool {
        self.sessions.resolve("ds-1").await.unwrap().is_revoked()
    }

    pub fn command(&self, request_id: &str) -> ExecuteCommandRequest {
        self.command_of("ds-1", request_id)
    }

    pub fn command_of(&self, device_session_id: &str, request_id: &str) -> ExecuteCommandRequest {
        let mut request = ExecuteCommandRequest {
            protocol_version: "v1".into(),
            device_session_id: device_session_id.into(),
            message_type: "t".into(),
            request_id: request_id.into(),
            timestamp_ms: now_ms(),
            payload_hash: sha256(b"").to_vec().into(),
            ..Default::default()
        };
        request.signature = self.device.sign(&signing::command(&request)).to_vec().into();
        request
    }

    pub async fn verdict(&self, request: &ExecuteCommandRequest) -> Result<(), Refusal> {
        verdict(&self.verifier, request).await
    }
}

pub async fn verdict(edge: &Verifier, request: &ExecuteCommandRequest) -> Result<(), Refusal> {
    edge.command(request, None).await.map(|_| ()).map_err(|rejected| rejected.refusal)
}

/// Waits for it, however often it asks, and not for ever.
pub async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    let patience = Duration::from_mins(1);
    tokio::time::timeout(patience, it).await.unwrap_or_else(|_| panic!("not within {patience:?}: {what}"))
}
