//! Attaching a stream to the best pusher that takes it.

use std::time::Duration;

use bytes::Bytes;
use gatehouse_chassis::{config::Shared, ipc, metrics::Metrics};
use gatehouse_proto::internal::v1::{AttachRequest, push_client::PushClient};
use gatehouse_sessions::{Refusal, verdict};
use prometheus::IntCounterVec;
use tonic::{Code, Status, Streaming};

use super::rendezvous::ranked;

/// How long one pusher may take to accept a stream. Its socket outlives it, so that one which is being restarted is a silence, not a refusal.
const BOUND: Duration = Duration::from_secs(2);

/// `relay_attaches_total{outcome}`.
#[derive(Clone, Debug)]
pub(crate) struct RelayMetrics(IntCounterVec);

impl RelayMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let help =
            "Streams attached to pushers: attached, moved (a stream that lost its pusher), failed (one pusher could not be had), refused.";
        Self(metrics.counters("relay_attaches_total", help, &["outcome"]))
    }

    fn count(&self, outcome: &str) {
        self.0.with_label_values(&[outcome]).inc();
    }
}

/// The pushers of the suite, by instance.
#[derive(Debug)]
pub(crate) struct Pushers {
    channels: Vec<Channel>,
    metrics: RelayMetrics,
}

/// A stream that a pusher serves.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) instance: u32,
    pub(super) events: Streaming<Bytes>,
}

impl Pushers {
    pub(crate) fn new(shared: &Shared, metrics: RelayMetrics) -> Self {
        let channels = (0..shared.pushers).map(|instance| ipc::channel(shared.local_socket("pusher", instance))).collect();
        Self { channels, metrics }
    }

    /// Their channels, for asking how they are.
    pub(crate) fn channels(&self) -> &[Channel] {
        &self.channels
    }

    /// Attaches to the first pusher that takes the stream, in the user's order; to the one that was just lost, last. UNAVAILABLE when none could be had;
    /// any other status is a pusher's decision on this stream.
    pub(super) async fn attach(&self, request: &AttachRequest, lost: Option<u32>) -> Result<Attached, Status> {
        let mut order = ranked(&request.user_id, u32::try_from(self.channels.len()).unwrap_or(u32::MAX));
        order.sort_by_key(|&instance| Some(instance) == lost);
        let mut undecided = None;
        for instance in order {
            match self.try_one(instance, request.clone()).await {
                Ok(events) => {
                    self.metrics.count(if request.continuation { "moved" } else { "attached" });
                    return Ok(Attached { instance, events });
                }
                Err(status) if is_loss(&status) => {
                    self.metrics.count("failed");
                    tracing::debug!(pusher = instance, %status, "pusher not had");
                    undecided = undecided.or_else(|| store_is_away(&status).then_some(status));
                }
                Err(status) => {
                    self.metrics.count("refused");
                    return Err(status);
                }
            }
        }
        Err(undecided.unwrap_or_else(|| Status::unavailable("push is unavailable")))
    }

    async fn try_one(&self, instance: u32, request: AttachRequest) -> Result<Streaming<Bytes>, Status> {
        let channel = self.channels.get(instance as usize).ok_or_else(|| Status::unavailable("no such pusher"))?;
        let mut client = PushClient::new(channel.clone());
        match tokio::time::timeout(BOUND, client.attach(request)).await {
            Ok(attached) => Ok(attached?.into_inner()),
            Err(_) => Err(Status::deadline_exceeded("the pusher did not answer")),
        }
    }
}

/// Whether a status says that this pusher cannot be had (it is gone, hangs, drains alone), as opposed to deciding on the stream.
pub(super) fn is_loss(status: &Status) -> bool {
    !verdict::ends_stream(status)
        && matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal | Code::DeadlineExceeded | Code::Aborted
        )
}

/// A pusher that is there and cannot ask Redis. Clients are told so rather than that there is no pusher.
fn store_is_away(status: &Status) -> bool {
    let away = Refusal::StoreUnavailable.status();
    status.code() == away.code() && status.message() == away.message()
}
