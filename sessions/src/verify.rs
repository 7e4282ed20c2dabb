//! Decides on one request, in the order that spends least on a bad caller and lets nobody burn another's request id: shape, version, hash,
//! freshness, session, signature, replay, rate.

use std::{net::IpAddr, sync::Arc, time::Duration};

use gatehouse_chassis::{Process, redis::Redis};
use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, SubscribeEventsRequest},
    signing,
};
use prometheus::IntCounterVec;

use crate::{
    Config, Refusal, Session, Sessions,
    limits::{Limits, Subject},
    now_ms, replay, shape,
};

/// A request that was refused.
#[derive(Clone, Debug)]
pub struct Rejected {
    /// Why.
    pub refusal: Refusal,
    /// Whose it was, when the signature held: then the refusal belongs into the trail.
    pub session: Option<Arc<Session>>,
}

impl From<Refusal> for Rejected {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, session: None }
    }
}

/// Verifies requests; clones share everything.
#[derive(Clone, Debug)]
pub struct Verifier {
    sessions: Sessions,
    redis: Redis,
    window: Duration,
    limits: Limits,
    failures: IntCounterVec,
}

impl Verifier {
    /// Registers `auth_failures_total`.
    #[must_use]
    pub fn new(sessions: Sessions, redis: Redis, config: &Config, process: &Process) -> Self {
        let failures =
            process.metrics().counters("auth_failures_total", "Requests that were refused before their route, by reason.", &["reason"]);
        Self { sessions, redis, window: config.freshness_window, limits: Limits::none(), failures }
    }

    /// Commands are limited from here on.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Whose command it is, reserved for being carried out once. `from` is the peer's address.
    pub async fn command(&self, request: &ExecuteCommandRequest, from: Option<IpAddr>) -> Result<Arc<Session>, Rejected> {
        let decided = async {
            shape::command(request)?;
            let input = || signing::command(request);
            let session = self.authenticate(&request.device_session_id, request.timestamp_ms, input, &request.signature).await?;
            let session = self.admit(session, &request.request_id).await?;
            let device_session_id = session.device_session_id();
            let subject = Subject { device_session_id, user_id: session.user_id(), message_type: &request.message_type, address: from };
            match self.limits.take(&subject) {
                Ok(()) => Ok(session),
                Err(wait) => Err(Rejected { refusal: Refusal::RateLimited(wait), session: Some(session) }),
            }
        };
        self.counted(decided.await)
    }

    /// Whose subscribe it is, reserved for being carried out once. It counts towards no rate.
    pub async fn subscribe(&self, request: &SubscribeEventsRequest) -> Result<Arc<Session>, Rejected> {
        let decided = async {
            shape::subscribe(request)?;
            let input = || signing::subscribe(request);
            let session = self.authenticate(&request.device_session_id, request.timestamp_ms, input, &request.signature).await?;
            self.admit(session, &request.request_id).await
        };
        self.counted(decided.await)
    }

    async fn authenticate(
        &self,
        id: &str,
        timestamp_ms: i64,
        input: impl FnOnce() -> Vec<u8>,
        signature: &[u8],
    ) -> Result<Arc<Session>, Refusal> {
        if u128::from(now_ms().abs_diff(timestamp_ms)) > self.window.as_millis() {
            return Err(Refusal::Stale);
        }
        let session = self.sessions.resolve(id).await?;
        if session.is_revoked() {
            return Err(Refusal::Revoked);
        }
        if session.verifies(&input(), signature) { Ok(session) } else { Err(Refusal::Signature) }
    }

    async fn admit(&self, session: Arc<Session>, request_id: &str) -> Result<Arc<Session>, Rejected> {
        match replay::reserve(&self.redis, session.device_session_id(), request_id, self.window).await {
            Ok(()) => Ok(session),
            Err(refusal) => Err(Rejected { refusal, session: Some(session) }),
        }
    }

    fn counted(&self, decided: Result<Arc<Session>, Rejected>) -> Result<Arc<Session>, Rejected> {
        if let Err(rejected) = &decided {
            self.failures.with_label_values(&[rejected.refusal.reason()]).inc();
        }
        decided
    }
}
