//! Event streams: authenticated here, served by a pusher, passed through as bytes.
//!
//! Nothing is buffered: a pusher's stream is polled when the client's is, so that a client that does not read holds up its own stream in the pusher, which
//! ends it there by its rules.

mod attach;
mod rendezvous;
mod stream;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::Stream;
use gatehouse_chassis::{backoff::spread, connections::Notice};
use gatehouse_proto::{
    gateway::v1::SubscribeEventsRequest,
    ids::StreamId,
    internal::v1::{AttachRequest, AuditRecord},
};
use gatehouse_sessions::{Verifier, door::Caller, verdict};
use tonic::{Code, Status};

use crate::{
    commands::outcome_of,
    config::Audit,
    trail::{self, Act, Outcome, Trail},
};
pub(crate) use attach::{Pushers, RelayMetrics};
use stream::Relayed;

/// When clients whose stream ended come back: between this and three times this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Opens event streams; one for the process.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) verifier: Verifier,
    pub(crate) pushers: Arc<Pushers>,
    pub(crate) trail: Trail,
}

impl Relay {
    /// The client's stream, once the trail knows that it was opened: who listens to whose events is worth a record that is there for certain, and it is one for
    /// each stream, not for each event. It ends when its connection is asked to leave.
    pub(crate) async fn subscribe(
        &self,
        request: SubscribeEventsRequest,
        caller: Caller,
        notice: Notice,
    ) -> Result<impl Stream<Item = Result<Bytes, Status>> + use<>, Status> {
        let cursor: Option<StreamId> = request.last_event_id.parse().ok();
        if notice.is_given() {
            return Err(ended(verdict::shutting_down(), cursor));
        }
        let session = match self.verifier.subscribe(&request).await {
            Ok(session) => session,
            Err(rejected) => {
                let (status, outcome) = (rejected.refusal.status(), outcome_of(rejected.refusal));
                self.trail.refuse(
                    rejected.refusal.reason(),
                    act(&request, None),
                    &caller,
                    rejected.session.as_deref(),
                    outcome,
                    status.code(),
                );
                return Err(status);
            }
        };
        // Its record is an intent by itself: there is no stream before it.
        let _place = self.trail.begin(Audit::Required, "push", AuditRecord::default).await.map_err(trail::unavailable)?;
        let wanted = AttachRequest {
            user_id: session.user_id().to_owned(),
            device_session_id: session.device_session_id().to_owned(),
            cursor: request.last_event_id.clone(),
            continuation: false,
        };
        let attached = tokio::select! {
            attached = self.pushers.attach(&wanted, None) => attached,
            () = notice.given() => return Err(ended(verdict::shutting_down(), cursor)),
        };
        let attached = match attached {
            Ok(attached) => attached,
            Err(status) => {
                let outcome = if status.code() == Code::Unavailable { Outcome::Error } else { Outcome::Denied };
                let cause = if outcome == Outcome::Error { "push_unavailable" } else { "push_refused" };
                self.trail.refuse(cause, act(&request, None), &caller, Some(&session), outcome, status.code());
                return Err(if outcome == Outcome::Error { ended(status, cursor) } else { status });
            }
        };
        let pusher = format!("pusher-{}", attached.instance);
        let record = act(&request, Some((&pusher, "pusher"))).grpc(&caller, &session, Outcome::Success, Code::Ok);
        self.trail.keep(Audit::Required, "push", record).await.map_err(trail::unavailable)?;
        Ok(Relayed::new(Arc::clone(&self.pushers), wanted, attached, notice))
    }
}

fn act<'a>(request: &'a SubscribeEventsRequest, on: Option<(&'a str, &'static str)>) -> Act<'a> {
    Act { action_type: "push", action: "subscribe", request_id: &request.request_id, on }
}

/// A status that ends a stream, with where to resume (if the client has been anywhere) and when.
fn ended(status: Status, cursor: Option<StreamId>) -> Status {
    let retry_after = spread(RETRY_AFTER);
    match cursor {
        Some(cursor) => verdict::with_cursor(status, cursor, retry_after),
        None => verdict::with_retry_after(status, retry_after),
    }
}
