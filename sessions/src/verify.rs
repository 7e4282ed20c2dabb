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
    Claimed, Config, Found, Refusal, Retry, Session, Sessions,
    limits::{Limits, Subject},
    now_ms,
    replay::{Asked, Reservations},
    shape,
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
    reservations: Reservations,
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
        let reservations = Reservations::new(process, redis, sessions.retention().clone(), config.freshness_window);
        Self { sessions, reservations, window: config.freshness_window, limits: Limits::none(), failures }
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
            let session = self.admit(session, &request.request_id, request.timestamp_ms, true).await?;
            match self.take(request, &session, from) {
                Ok(()) => Ok(session),
                Err(refusal) => Err(Rejected { refusal, session: Some(session) }),
            }
        };
        self.counted(decided.await)
    }

    /// The same for a command whose answer is kept: the first of its envelope is to be carried out, within `limit`, and a retry to be given what came of that.
    pub async fn claim(
        &self,
        request: &ExecuteCommandRequest,
        from: Option<IpAddr>,
        limit: Duration,
    ) -> Result<(Arc<Session>, Claimed), Rejected> {
        let decided = async {
            shape::command(request)?;
            let input = || signing::command(request);
            let session = self.authenticate(&request.device_session_id, request.timestamp_ms, input, &request.signature).await?;
            let claimed = async {
                let claimed = self.reservations.claim(request, limit).await?;
                match (self.take(request, &session, from), claimed) {
                    (Ok(()), claimed) => Ok(claimed),
                    (Err(refusal), Claimed::First(claim)) => {
                        // It reached nobody: later it may.
                        claim.release().await;
                        Err(refusal)
                    }
                    (Err(refusal), Claimed::Again(_)) => Err(refusal),
                }
            };
            match claimed.await {
                Ok(claimed) => Ok((session, claimed)),
                Err(refusal) => Err(Rejected { refusal, session: Some(session) }),
            }
        };
        self.counted(decided.await)
    }

    /// What became of the first of a command's envelope, as [`Retry::outcome`] has it; a refusal that is found meanwhile counts like any other.
    pub async fn outcome(&self, retry: Retry, patience: Duration) -> Result<Found, Refusal> {
        retry.outcome(patience).await.inspect_err(|refusal| self.count(*refusal))
    }

    /// Whose subscribe it is, reserved for being carried out once. It counts towards no rate.
    pub async fn subscribe(&self, request: &SubscribeEventsRequest) -> Result<Arc<Session>, Rejected> {
        let decided = async {
            shape::subscribe(request)?;
            let input = || signing::subscribe(request);
            let session = self.authenticate(&request.device_session_id, request.timestamp_ms, input, &request.signature).await?;
            self.admit(session, &request.request_id, request.timestamp_ms, false).await
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

    /// What its limits say of a command.
    fn take(&self, request: &ExecuteCommandRequest, session: &Session, address: Option<IpAddr>) -> Result<(), Refusal> {
        let (device_session_id, user_id) = (session.device_session_id(), session.user_id());
        let subject = Subject { device_session_id, user_id, message_type: &request.message_type, address };
        self.limits.take(&subject).map_err(Refusal::RateLimited)
    }

    async fn admit(&self, session: Arc<Session>, request_id: &str, timestamp_ms: i64, is_command: bool) -> Result<Arc<Session>, Rejected> {
        let asked = Asked { session: session.device_session_id(), timestamp_ms, is_command };
        match self.reservations.reserve(request_id, asked).await {
            Ok(()) => Ok(session),
            Err(refusal) => Err(Rejected { refusal, session: Some(session) }),
        }
    }

    fn counted<T>(&self, decided: Result<T, Rejected>) -> Result<T, Rejected> {
        decided.inspect_err(|rejected| self.count(rejected.refusal))
    }

    fn count(&self, refusal: Refusal) {
        self.failures.with_label_values(&[refusal.reason()]).inc();
    }
}
