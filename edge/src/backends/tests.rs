//! Backends before fakes that do what a test says, frame by frame.

mod calls;
mod endpoints;
mod fake;
mod lifetimes;

use std::{sync::Arc, time::Duration};

use gatehouse_chassis::{
    Shutdown,
    config::{Reader, Source},
    metrics::Metrics,
};
use gatehouse_proto::{
    downstream::v1::ExecuteResponse,
    gateway::v1::ExecuteCommandRequest,
    session::{SessionSnapshot, Status as Stored},
};
use gatehouse_sessions::Session;

use super::{Backend, Backends, Call, Deadline, Failure};

/// Long enough on any machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Backends by a configuration, and the metrics they write.
struct House {
    backends: Backends,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl House {
    fn of(text: &str) -> Self {
        let (shutdown, metrics) = (Shutdown::default(), Metrics::new("edge", 0));
        Self { backends: Backends::open(&shutdown, &metrics, &read(text)), metrics, shutdown }
    }

    /// One gRPC backend, `orders`, with these addresses and keys.
    fn grpc(addresses: &[String], keys: &str) -> Self {
        Self::of(&grpc(addresses, keys))
    }

    fn orders(&self) -> Arc<Backend> {
        self.backends.get("orders").unwrap()
    }

    async fn execute(&self) -> Result<ExecuteResponse, Failure> {
        execute(&self.orders(), b"payload", false, PATIENCE, None).await
    }

    async fn execute_idempotent(&self) -> Result<ExecuteResponse, Failure> {
        execute(&self.orders(), b"payload", true, PATIENCE, None).await
    }

    fn metric(&self, name: &str, label: &str) -> u64 {
        let text = self.metrics.text();
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && line.contains(&format!("\"{label}\"")));
        lines.next().map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}

fn grpc(addresses: &[String], keys: &str) -> String {
    // Longer than a busy machine stands still.
    let patient = if keys.contains("connect_timeout") { "" } else { "connect_timeout = \"30s\"\n" };
    format!("[[backend]]\nname = \"orders\"\nprotocol = \"grpc\"\naddresses = {addresses:?}\n{patient}{keys}\n")
}

fn read(text: &str) -> Vec<crate::config::Backend> {
    let mut reader = Reader::new(Source::of(text, &[]));
    let backends = crate::config::Backend::read_all(&mut reader);
    assert_eq!(reader.into_problems(), []);
    backends
}

/// A command of that payload.
async fn execute(
    backend: &Arc<Backend>,
    payload: &[u8],
    idempotent: bool,
    timeout: Duration,
    patience: Option<Duration>,
) -> Result<ExecuteResponse, Failure> {
    let (command, session) = (command(payload), session());
    let call = Call { command: &command, session: &session, path: None, idempotent, tracestate: None };
    backend.execute(&call, Deadline::new(timeout, patience)).await
}

fn command(payload: &[u8]) -> ExecuteCommandRequest {
    ExecuteCommandRequest {
        message_type: "orders.create".into(),
        request_id: "r-1".into(),
        timestamp_ms: 1_795_257_586_776,
        payload_bytes: payload.to_vec().into(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
        ..Default::default()
    }
}

fn session() -> Session {
    let snapshot = SessionSnapshot {
        device_session_id: "ds-1".into(),
        user_id: "u-1".into(),
        public_key: gatehouse_proto::keys::Signer::from_seed(&[7; 32]).public_key().to_base64(),
        status: Stored::Active,
        updated_at_ms: 1,
        revoked_at_ms: None,
    };
    Session::read(snapshot).unwrap()
}

/// Asks until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| panic!("never: {what}"));
}
