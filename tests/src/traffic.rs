//! Steady traffic while something happens to the suite: commands whose answers are remembered, events that are numbered.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gatehouse_proto::gateway::v1::gateway_client::GatewayClient;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{Device, EventStream, GatewayKey, Resp, Suite, suite::publish, wait};

/// Each of several clients sends a command so often.
const PACE: Duration = Duration::from_millis(8);
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Request ids with an answer whose signature held.
    pub answered: Vec<String>,
    /// How often each verdict came instead.
    pub refused: BTreeMap<(i32, String), usize>,
    /// Commands without any answer in time.
    pub silent: usize,
}

/// Clients that send commands until they are stopped.
#[derive(Debug)]
pub struct Commands {
    stop: watch::Sender<bool>,
    clients: JoinSet<Seen>,
    answered: Arc<AtomicUsize>,
}

impl Commands {
    /// Starts a client with a connection of its own for each device.
    #[must_use]
    pub fn start(suite: &Suite, devices: &[Device], message_type: &'static str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (mut clients, answered) = (JoinSet::new(), Arc::<AtomicUsize>::default());
        for device in devices {
            let client = GatewayClient::new(suite.channel());
            clients.spawn(send(client, suite.key.clone(), device.clone(), message_type, stopped.clone(), Arc::clone(&answered)));
        }
        Self { stop, clients, answered }
    }

    /// Waits until so many more commands have been answered.
    pub async fn go_on(&self, more: usize) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        wait::eventually("commands are answered", async || (self.answered.load(Ordering::Relaxed) >= goal).then_some(())).await;
    }

    /// Lets every client finish its command; what all of them saw.
    pub async fn stop(self) -> Seen {
        self.stop.send_replace(true);
        let mut all = Seen::default();
        for seen in self.clients.join_all().await {
            all.answered.extend(seen.answered);
            all.silent += seen.silent;
            for (verdict, count) in seen.refused {
                *all.refused.entry(verdict).or_default() += count;
            }
        }
        all
    }
}

async fn send(
    mut client: GatewayClient<tonic::transport::Channel>,
    key: GatewayKey,
    device: Device,
    message_type: &'static str,
    stopped: watch::Receiver<bool>,
    answered: Arc<AtomicUsize>,
) -> Seen {
    let mut seen = Seen::default();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stopped.borrow() {
        pace.tick().await;
        let request = device.command(message_type, "traffic");
        match timeout(PATIENCE, client.execute_command(request.clone())).await {
            Ok(Ok(response)) => {
                key.check_response(&request, response.get_ref());
                seen.answered.push(request.request_id);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(Err(status)) => {
                *seen.refused.entry((status.code() as i32, status.message().to_owned())).or_default() += 1;
            }
            Err(_) => seen.silent += 1,
        }
    }
    seen
}

/// A writer that publishes numbered events to one user until it is stopped.
#[derive(Debug)]
pub struct Events {
    stop: watch::Sender<bool>,
    writer: JoinHandle<usize>,
}

impl Events {
    /// Starts at 0. An event whose XADD failed is written again under the same number: Redis may have been away.
    #[must_use]
    pub fn start(connect: impl Fn() -> std::io::Result<Resp> + Send + Sync + 'static, user: &str) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (user, connect) = (user.to_owned(), Arc::new(connect));
        let write = async move {
            let mut pace = interval(PACE);
            let mut redis = None;
            let mut number = 0;
            while !*stopped.borrow() {
                pace.tick().await;
                let (user, connect, open) = (user.clone(), Arc::clone(&connect), redis.take());
                let write = move || {
                    let mut client = open.map_or_else(|| connect(), Ok).ok()?;
                    let payload = number.to_string();
                    let fields: [(&[u8], &[u8]); 3] =
                        [(b"user_id", user.as_bytes()), (b"event_type", b"numbered"), (b"payload_bytes", payload.as_bytes())];
                    client.xadd("gateway:client_events", &fields).ok()?;
                    Some(client)
                };
                redis = tokio::task::spawn_blocking(write).await.unwrap();
                number += usize::from(redis.is_some());
            }
            number
        };
        #[expect(clippy::disallowed_methods, reason = "joined by stop")]
        let writer = tokio::spawn(write);
        Self { stop, writer }
    }

    /// How many events were written.
    pub async fn stop(self) -> usize {
        self.stop.send_replace(true);
        self.writer.await.unwrap()
    }
}

/// Publishes one event and waits until the stream has delivered it: the proof that events are served.
pub async fn events_are_served(stream: &mut EventStream, redis: &mut Resp, user: &str) {
    let id = publish(redis, user, None, "proof", b"proof");
    loop {
        let event = stream.next().await.expect("the stream is open");
        if event.event_id == id {
            return;
        }
    }
}
