//! Redis, pushers on it, and clients that trust nothing they read.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bytes::Bytes;
use gatehouse_chassis::{
    Process,
    config::{Config as _, Reader, Shared, Source},
    ipc,
    sockets::Inherited,
};
use gatehouse_proto::{
    gateway::v1::{GatewayEvent, ServerTime, server_time::Resume},
    ids::StreamId,
    internal::v1::{AttachRequest, push_client::PushClient},
    keys::{PublicKey, Signer, sha256},
    session::{SessionSnapshot, Status as SessionStatus},
    signing,
};
use gatehouse_pusher::Config;
use gatehouse_testkit::RedisServer;
use prost::Message as _;
use tempfile::TempDir;
use tonic::{Status, Streaming};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
const STREAM: &str = "gateway:client_events";

/// What every test has.
pub struct Bench {
    pub redis: RedisServer,
    dir: TempDir,
    pushers: AtomicU32,
}

impl Bench {
    /// A Redis with sessions `a1` and `a2` of user `a`, and `b1` of user `b`.
    pub fn start() -> Self {
        let this = Self { redis: RedisServer::start(), dir: TempDir::new().unwrap(), pushers: AtomicU32::new(0) };
        gatehouse_testkit::write_private(&this.key_path(), &signer().to_pkcs8_pem().unwrap());
        this.write_sessions();
        this
    }

    pub fn write_sessions(&self) {
        for id in ["a1", "a2", "b1"] {
            self.write_session(id, SessionStatus::Active);
        }
    }

    /// Starts a pusher with that configuration and waits until it is ready.
    pub async fn pusher(&self, config: &str) -> Pusher {
        let instance = self.pushers.fetch_add(1, Ordering::Relaxed);
        let socket = self.socket(&format!("pusher-{instance}.sock"));
        let local = OwnedFd::from(UnixListener::bind(&socket).unwrap());
        self.pusher_on(config, instance, socket, [("local", local)]).await
    }

    pub async fn pusher_on<const N: usize>(
        &self,
        config: &str,
        instance: u32,
        socket: PathBuf,
        sockets: [(&'static str, OwnedFd); N],
    ) -> Pusher {
        let (addr, dir, key) = (self.redis.addr(), self.dir.path().display().to_string(), self.key_path());
        let env = [
            ("GATEWAY_REDIS_MASTER_ADDR", addr.as_str()),
            ("GATEWAY_REDIS_PASSWORD", self.redis.password()),
            ("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH", key.to_str().unwrap()),
            ("GATEWAY_STATE_DIR", &dir),
            ("GATEWAY_RUNTIME_DIR", &dir),
        ];
        let mut reader = Reader::new(Source::of(config, &env));
        let (shared, config) = (Shared::read(&mut reader).unwrap(), Config::read(&mut reader).unwrap());
        assert_eq!(reader.into_problems(), []);
        let process = Process::new("pusher", instance, shared, Inherited::of(sockets));
        let served = process.clone();
        process.spawn("serve", async move { gatehouse_pusher::serve(served, config).await.unwrap() });
        let channel = ipc::channel(socket);
        within("the pusher is ready", async { while !ipc::is_serving(&channel, "", PATIENCE).await {} }).await;
        Pusher { process, channel }
    }

    /// Publishes as a foreign client does.
    pub fn publish(&self, user: &str, payload: impl AsRef<[u8]>) -> StreamId {
        self.add(&[(b"user_id", user.as_bytes()), (b"event_type", b"t"), (b"payload_bytes", payload.as_ref())])
    }

    pub fn publish_to(&self, user: &str, device: &str, payload: &str) -> StreamId {
        let device = device.as_bytes();
        self.add(&[
            (b"user_id", user.as_bytes()),
            (b"device_session_id", device),
            (b"event_type", b"t"),
            (b"payload_bytes", payload.as_bytes()),
        ])
    }

    pub fn add(&self, fields: &[(&[u8], &[u8])]) -> StreamId {
        let mut command = vec![&b"XADD"[..], STREAM.as_bytes(), b"*"];
        command.extend(fields.iter().flat_map(|(name, value)| [*name, *value]));
        self.redis.run(&command).parse().unwrap()
    }

    /// Writes a snapshot to the key and to the stream, as whoever owns sessions does.
    pub fn write_session(&self, id: &str, status: SessionStatus) {
        let snapshot = SessionSnapshot {
            device_session_id: id.into(),
            user_id: id[..1].into(),
            public_key: device().public_key().to_base64(),
            status,
            updated_at_ms: gatehouse_sessions::now_ms(),
            revoked_at_ms: None,
        };
        self.redis.run(&["SET", &format!("gateway:session:{id}"), &snapshot.to_json()]);
        let mut command = vec!["XADD".to_owned(), "gateway:session_events".into(), "*".into()];
        command.extend(snapshot.to_fields().into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
        self.redis.run(&command);
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key_path(&self) -> PathBuf {
        self.dir.path().join("signer.pem")
    }
}

/// The gateway's key.
pub fn signer() -> Signer {
    Signer::from_seed(&[9; 32])
}

/// Every device's key.
pub fn device() -> Signer {
    Signer::from_seed(&[7; 32])
}

/// A pusher in this process; drained when dropped.
pub struct Pusher {
    pub process: Process,
    pub channel: ipc::Channel,
}

impl Pusher {
    /// Opens a stream, as the edge does.
    pub async fn attach(&self, device: &str, cursor: Option<StreamId>) -> Client {
        self.try_attach(device, cursor.map_or_else(String::new, |cursor| cursor.to_string()), false).await.unwrap()
    }

    pub async fn try_attach(&self, device: &str, cursor: String, continuation: bool) -> Result<Client, Status> {
        let last = cursor.parse().ok();
        let user_id = device[..1].to_owned();
        let request = AttachRequest { user_id: user_id.clone(), device_session_id: device.into(), cursor, continuation };
        let mut client = PushClient::new(self.channel.clone());
        let stream = within("a stream is opened or refused", client.attach(request)).await?.into_inner();
        Ok(Client { stream, user_id, last, greeted: continuation, key: signer().public_key() })
    }

    /// The value of a metric; 0 when it has none.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.process.metrics().text();
        let sample = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
        sample.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until a metric has that value.
    pub async fn until(&self, name: &str, wanted: f64) {
        within(name, async {
            while (self.metric(name) - wanted).abs() > f64::EPSILON {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Waits until it has read that entry.
    pub async fn has_read(&self, bench: &Bench) {
        // A stream that begins now begins behind it.
        let last = bench.publish("nobody", "");
        within("the pusher reads on", async {
            loop {
                let mut client = self.attach("b1", None).await;
                if client.server_time().await.0 >= last {
                    break;
                }
            }
        })
        .await;
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        self.process.shutdown().abort();
    }
}

/// A client that checks every event: signature, hash, user, and that ids ascend.
pub struct Client {
    stream: Streaming<Bytes>,
    user_id: String,
    last: Option<StreamId>,
    greeted: bool,
    key: PublicKey,
}

impl Client {
    async fn message(&mut self) -> Result<Option<GatewayEvent>, Status> {
        let Some(bytes) = within("the stream goes on", self.stream.message()).await? else { return Ok(None) };
        let event = GatewayEvent::decode(bytes).unwrap();
        let id: StreamId = event.event_id.parse().unwrap();
        if std::mem::replace(&mut self.greeted, true) {
            assert!(self.last.is_none_or(|last| id > last), "{id} comes after {:?}", self.last);
        } else {
            assert_eq!(event.event_type, "gateway.server_time");
            assert!(self.last.is_none_or(|last| id >= last), "{id} comes after {:?}", self.last);
        }
        self.last = Some(id);
        assert_eq!(event.user_id, self.user_id);
        assert_eq!(event.payload_hash[..], sha256(&event.payload_bytes));
        assert_eq!(event.signer_key_id, self.key.key_id());
        assert!(event.signature_path.is_empty() && self.key.verifies(&signing::event(&event), &event.signature));
        Ok(Some(event))
    }

    /// The next event, whatever it is.
    pub async fn any(&mut self) -> GatewayEvent {
        self.message().await.unwrap().expect("the stream has ended without a status")
    }

    /// The first event: where the stream begins, and how.
    pub async fn server_time(&mut self) -> (StreamId, Resume) {
        let event = self.any().await;
        assert_eq!(event.event_type, "gateway.server_time");
        let payload = ServerTime::decode(event.payload_bytes).unwrap();
        (event.event_id.parse().unwrap(), payload.resume())
    }

    /// The next event that is not the gateway's own: its id and its payload.
    pub async fn next(&mut self) -> (StreamId, String) {
        loop {
            let event = self.any().await;
            if event.event_type == "t" {
                return (event.event_id.parse().unwrap(), String::from_utf8_lossy(&event.payload_bytes).into_owned());
            }
        }
    }

    /// The payload of the next event that is not the gateway's own, or the verdict.
    pub async fn try_next(&mut self) -> Result<String, Status> {
        loop {
            let event = self.message().await?.expect("the stream has ended without a status");
            if event.event_type == "t" {
                return Ok(String::from_utf8_lossy(&event.payload_bytes).into_owned());
            }
        }
    }

    /// The payloads of the next events.
    pub async fn payloads(&mut self, count: usize) -> Vec<String> {
        let mut payloads = Vec::with_capacity(count);
        for _ in 0..count {
            payloads.push(self.next().await.1);
        }
        payloads
    }

    /// The last id that it holds.
    pub fn cursor(&self) -> Option<StreamId> {
        self.last
    }

    /// Reads to the end: how many events were left, and the verdict.
    pub async fn end(&mut self) -> (usize, Status) {
        let mut left = 0;
        loop {
            match self.message().await {
                Ok(Some(event)) => left += usize::from(event.event_type == "t"),
                Ok(None) => panic!("the stream has ended without a status"),
                Err(status) => return (left, status),
            }
        }
    }
}

/// The cursor in a verdict's trailers. That there is a delay is checked, too.
pub fn trailers(status: &Status) -> StreamId {
    trailers_within(status, 500..1500)
}

pub fn trailers_within(status: &Status, delays: std::ops::Range<u64>) -> StreamId {
    let text = |name| status.metadata().get(name).unwrap_or_else(|| panic!("{name} in {status:?}")).to_str().unwrap().to_owned();
    let delay: u64 = text("gateway-retry-after-ms").parse().unwrap();
    assert!(delays.contains(&delay), "{delay}");
    text("gateway-cursor").parse().unwrap()
}

/// Waits for it, and says what was waited for when it does not come.
pub async fn within<T>(what: &str, it: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, it).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}
