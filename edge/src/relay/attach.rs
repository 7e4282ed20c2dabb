//! Attaching a stream to the best pusher that takes it.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use gatehouse_chassis::{config::Shared, ipc, members::Members, metrics::Metrics};
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

/// The pushers that take streams now.
#[derive(Debug)]
pub(crate) struct Pushers {
    members: Members,
    shared: Arc<Shared>,
    channels: Mutex<BTreeMap<u32, ipc::Channel>>,
    metrics: RelayMetrics,
}

/// A pusher that a stream had, until a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) instance: u32,
    /// It said that it drains, as opposed to breaking off.
    pub(super) drained: bool,
}

/// A stream that a pusher serves.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) instance: u32,
    pub(super) events: Streaming<Bytes>,
}

impl Pushers {
    pub(crate) fn new(shared: Arc<Shared>, members: Members, metrics: RelayMetrics) -> Self {
        Self { members, shared, channels: Mutex::default(), metrics }
    }

    /// Their channels, for asking how they are.
    pub(crate) fn channels(&self) -> Vec<ipc::Channel> {
        self.members.instances("pusher").into_iter().map(|instance| self.channel(instance)).collect()
    }

    /// Attaches to the first pusher that takes the stream, in the user's order. UNAVAILABLE when none could be had; any other status is a pusher's
    /// decision on this stream.
    pub(super) async fn attach(&self, request: &AttachRequest, lost: Option<Lost>) -> Result<Attached, Status> {
        // For a moment there may be none, as when the only one is being replaced after a crash.
        let _none = tokio::time::timeout(BOUND, self.members.any("pusher")).await;
        let mut order = ranked(&request.user_id, self.members.instances("pusher"));
        self.forget_others(&order);
        // The successor of one that drained is there already, if a supervisor replaces it: its users stay with it. Anything else is tried last.
        let last = lost.filter(|lost| !(lost.drained && self.members.are_told())).map(|lost| lost.instance);
        order.sort_by_key(|&instance| Some(instance) == last);
        let mut undecided = None;
        for instance in order {
            let tried = tokio::select! {
                biased;
                // Its socket may stay for a moment, and nobody would answer there.
                () = self.members.gone("pusher", instance) => {
                    tracing::debug!(pusher = instance, "pusher removed");
                    continue;
                }
                tried = self.try_one(instance, request.clone()) => tried,
            };
            match tried {
                Ok(events) => {
                    let outcome = if request.continuation { "moved" } else { "attached" };
                    self.metrics.count(outcome);
                    tracing::debug!(pusher = instance, outcome, "stream attached");
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

    fn channel(&self, instance: u32) -> ipc::Channel {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = || -> PathBuf { self.shared.local_socket("pusher", instance) };
        channels.entry(instance).or_insert_with(|| ipc::channel(socket())).clone()
    }

    /// The connections to those that are no members any more end with their last streams.
    fn forget_others(&self, members: &[u32]) {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.len() > members.len() {
            channels.retain(|instance, _| members.contains(instance));
        }
    }

    async fn try_one(&self, instance: u32, request: AttachRequest) -> Result<Streaming<Bytes>, Status> {
        let mut client = PushClient::new(self.channel(instance));
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
