//! One gRPC backend: `CommandHandler.Execute` over a channel that connects when first used, and again whenever the other side went away.
//!
//! What a client is told of a failure: whatever lies between the gateway and the downstream (no connection, a reset, `UNAVAILABLE`) is the contract's
//! `downstream is unavailable`; whatever took too long, by the gateway's clock or by the downstream's (`DEADLINE_EXCEEDED`), is `downstream timed out`.
//! Every other status is the downstream's own answer and is passed on with code, message and details, `UNAUTHENTICATED` and `PERMISSION_DENIED` included: the
//! gateway cannot know better what they mean. Metadata is not passed on, so that no downstream speaks in the gateway's own trailers.

use std::{
    error::Error as _,
    time::{Duration, Instant},
};

use gatehouse_chassis::{ipc, metrics::Metrics};
use gatehouse_proto::{
    downstream::v1::{ExecuteRequest, ExecuteResponse, command_handler_client::CommandHandlerClient},
    gateway::v1::ExecuteCommandRequest,
    limits::MAX_MESSAGE_BYTES,
};
use gatehouse_sessions::{Session, verdict};
use prometheus::IntCounterVec;
use tonic::{Code, Request, Status, metadata::MetadataValue, transport::Endpoint};

use crate::config::{Address, Backend};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A downstream that hangs rather than dies is noticed by its silence.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// `downstream_requests_total{backend,outcome}`.
#[derive(Clone, Debug)]
pub(crate) struct Outcomes(IntCounterVec);

impl Outcomes {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let help =
            "Commands that were sent to a backend: answered, refused by it, unavailable, timed out, abandoned at the end of a drain.";
        Self(metrics.counters("downstream_requests_total", help, &["backend", "outcome"]))
    }
}

/// A backend that carries out commands; clones share its connection.
#[derive(Clone, Debug)]
pub(crate) struct Downstream {
    name: std::sync::Arc<str>,
    client: CommandHandlerClient<ipc::Channel>,
    outcomes: Outcomes,
}

impl Downstream {
    pub(crate) fn new(backend: &Backend, outcomes: &Outcomes) -> Self {
        let client = CommandHandlerClient::new(channel(&backend.address)).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Self { name: backend.name.as_str().into(), client, outcomes: outcomes.clone() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The downstream's answer, or the status for the client.
    pub(crate) async fn execute(
        &self,
        command: &ExecuteCommandRequest,
        session: &Session,
        limit: Duration,
    ) -> Result<ExecuteResponse, Status> {
        let mut request = Request::new(ExecuteRequest {
            message_type: command.message_type.clone(),
            request_id: command.request_id.clone(),
            user_id: session.user_id().to_owned(),
            device_session_id: session.device_session_id().to_owned(),
            timestamp_ms: command.timestamp_ms,
            payload_bytes: command.payload_bytes.clone(),
            traceparent: command.traceparent.clone(),
        });
        request.set_timeout(limit);
        if let Ok(traceparent) = MetadataValue::try_from(&command.traceparent)
            && !traceparent.is_empty()
        {
            request.metadata_mut().insert("traceparent", traceparent);
        }
        let (begun, mut client) = (Instant::now(), self.client.clone());
        let answer = match tokio::time::timeout(limit, client.execute(request)).await {
            Ok(answer) => answer.map_err(|status| verdict_on(&status, begun.elapsed() >= limit)),
            Err(_) => Err(verdict::downstream_timed_out()),
        };
        self.count(&answer);
        answer.map(tonic::Response::into_inner)
    }

    /// Gives up on it, for the process ends. What has become of the command is not known here.
    pub(crate) fn abandon(&self) -> Status {
        self.outcomes.0.with_label_values(&[&*self.name, "abandoned"]).inc();
        verdict::shutting_down()
    }

    fn count<T>(&self, answer: &Result<T, Status>) {
        let outcome = match answer.as_ref().map_err(Status::code) {
            Ok(_) => "ok",
            Err(Code::Unavailable) => "unavailable",
            Err(Code::DeadlineExceeded) => "timed_out",
            Err(_) => "refused",
        };
        self.outcomes.0.with_label_values(&[&*self.name, outcome]).inc();
    }
}

fn channel(address: &Address) -> ipc::Channel {
    let authority = match address {
        Address::Unix(path) => return ipc::channel(path.clone()),
        Address::Tcp(authority) => authority.clone(),
    };
    let uri = http::Uri::builder().scheme("http").authority(authority).path_and_query("/").build().unwrap_or_default();
    Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(Some(KEEP_ALIVE))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_lazy()
        .into()
}

/// See the module's head. A status with a source was made here, of a connection's failure; one without came over the wire.
fn verdict_on(status: &Status, late: bool) -> Status {
    match status.code() {
        Code::DeadlineExceeded => verdict::downstream_timed_out(),
        // The channel keeps the same time limit as we do, and may be first.
        Code::Cancelled if late => verdict::downstream_timed_out(),
        Code::Unavailable => verdict::downstream_unavailable(),
        _ if status.source().is_some() => {
            tracing::debug!(%status, "the connection to the downstream failed");
            verdict::downstream_unavailable()
        }
        code => Status::with_details(code, status.message(), status.details().to_vec().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_is_unavailable_and_what_the_downstream_says_is_passed_on() {
        let transport = || Status::from_error(Box::new(std::io::Error::other("reset")));
        for (given, late, code, message) in [
            (Status::unavailable("I am full"), false, Code::Unavailable, "downstream is unavailable"),
            (transport(), false, Code::Unavailable, "downstream is unavailable"),
            (Status::deadline_exceeded("mine"), false, Code::DeadlineExceeded, "downstream timed out"),
            (Status::cancelled("Timeout expired"), true, Code::DeadlineExceeded, "downstream timed out"),
            (Status::cancelled("by me"), false, Code::Cancelled, "by me"),
            (Status::unauthenticated("who?"), false, Code::Unauthenticated, "who?"),
            (Status::permission_denied("no"), false, Code::PermissionDenied, "no"),
            (Status::internal("oops"), false, Code::Internal, "oops"),
        ] {
            let shown = verdict_on(&given, late);
            assert_eq!((shown.code(), shown.message()), (code, message));
        }
    }

    #[test]
    fn a_downstream_cannot_speak_in_our_trailers() {
        let mut given = Status::with_details(Code::Aborted, "m", bytes::Bytes::from_static(b"d"));
        given.metadata_mut().insert("gateway-cursor", "1-1".parse().unwrap());
        let shown = verdict_on(&given, false);
        assert!(shown.metadata().is_empty());
        assert_eq!(shown.details(), b"d");
    }
}
