//! Clients with event streams, and the writer of what they are to get: each user's events are numbered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gatehouse_proto::gateway::v1::server_time::Resume;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};

use super::Seen;
use crate::{Device, EventStream, GatewayKey, Resp, suite::publish};

/// How many events each user has been sent.
#[derive(Debug, Default)]
pub(super) struct Written {
    open: AtomicBool,
    events: AtomicUsize,
    closed: AtomicBool,
}

impl Written {
    /// Every stream has begun: writing may, too.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
    }

    /// No more are written.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    fn is_complete(&self, received: usize) -> bool {
        self.closed.load(Ordering::SeqCst) && received == self.events.load(Ordering::SeqCst)
    }
}

/// Publishes number after number to every user.
pub(super) async fn write(mut redis: Resp, users: Vec<String>, written: Arc<Written>, stopped: watch::Receiver<bool>) {
    let users = Arc::new(users);
    while !*stopped.borrow() {
        if written.open.load(Ordering::SeqCst) {
            let (users, number) = (Arc::clone(&users), written.events.load(Ordering::SeqCst));
            let publishing = move || {
                for user in users.iter() {
                    publish(&mut redis, user, None, "numbered", number.to_string().as_bytes());
                }
                redis
            };
            redis = spawn_blocking(publishing).await.unwrap();
            written.events.fetch_add(1, Ordering::SeqCst);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) struct Listener {
    pub(super) socket: &'static str,
    pub(super) channel: Channel,
    pub(super) key: GatewayKey,
    pub(super) device: Device,
    pub(super) seen: Arc<Seen>,
}

impl Listener {
    /// Listens until everything that was written has come, each event once and in order. Told to come back, it does, with the cursor that it was told.
    pub(super) async fn listen(self, written: Arc<Written>) {
        let (mut cursor, mut next) = (String::new(), 0);
        while !written.is_complete(next) {
            let mut stream = match EventStream::open(self.channel.clone(), &self.key, &self.device, &cursor).await {
                Ok(stream) => stream,
                Err(status) => {
                    self.turned_away(&status);
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            self.seen.count("streams opened");
            let resume = if cursor.is_empty() { Resume::NotRequested } else { Resume::Complete };
            if stream.bootstrap.resume() != resume {
                self.seen.count(format!("failed: stream begins with {:?}", stream.bootstrap.resume()));
            }
            let ended = self.receive(&mut stream, &written, &mut next).await;
            cursor.clone_from(&stream.cursor);
            let Some(status) = ended else { return };
            self.seen.count(format!("streams on {} told to come back", self.socket));
            let trailer = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
            let told = (status.code(), status.message(), trailer("gateway-cursor"));
            let retry_after = trailer("gateway-retry-after-ms").and_then(|ms| ms.parse::<u64>().ok());
            if told != (Code::Unavailable, "gateway is shutting down", Some(cursor.as_str())) || retry_after.is_none() {
                self.seen.count(format!("failed: stream ended with {status:?} at {cursor}"));
            }
            // A scenario has less time than a client: a tenth of what it was told.
            sleep(Duration::from_millis(retry_after.unwrap_or_default() / 10)).await;
        }
    }

    /// How the stream ended; nothing when all that was written has come.
    async fn receive(&self, stream: &mut EventStream, written: &Written, next: &mut usize) -> Option<Status> {
        while !written.is_complete(*next) {
            match timeout(Duration::from_millis(100), stream.next_without_bound()).await {
                // Time to look whether that was all.
                Err(_) => {}
                Ok(Ok(event)) => {
                    if event.payload_bytes != next.to_string().as_bytes() {
                        let got = String::from_utf8_lossy(&event.payload_bytes).into_owned();
                        self.seen.count(format!("failed: event {got} where {next} was due"));
                    }
                    *next += 1;
                    self.seen.count("events");
                }
                Ok(Err(status)) => return Some(status),
            }
        }
        None
    }

    /// A stream that was not opened: the gateway may say that it stops, and a connection that it closed is no verdict of its.
    fn turned_away(&self, status: &Status) {
        let stopping = (status.code(), status.message()) == (Code::Unavailable, "gateway is shutting down");
        let not_sent = status.code() == Code::Cancelled;
        if stopping || not_sent {
            self.seen.count("streams to be asked for again");
        } else {
            self.seen.count(format!("failed: stream not opened: {status:?}"));
        }
    }
}
