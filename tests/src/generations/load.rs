//! Constant traffic from clients that forgive nothing: whatever a client could notice of a replacement is counted.

mod callers;
mod http;
mod listeners;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tokio::{sync::watch, task::JoinSet};

use super::Doors;
use crate::Device;

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Seen(Mutex<BTreeMap<String, usize>>);

impl Seen {
    fn count(&self, what: impl Into<String>) {
        *self.0.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    /// How often something was seen.
    #[must_use]
    pub fn of(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    /// Everything that went wrong.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, usize> {
        self.0.lock().unwrap().iter().filter(|(what, _)| what.starts_with("failed")).map(|(what, count)| (what.clone(), *count)).collect()
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seen = self.0.lock().unwrap();
        let words: Vec<_> = seen.iter().map(|(what, count)| format!("{what} {count}")).collect();
        f.write_str(&words.join(", "))
    }
}

/// How many clients of each kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Crowd {
    /// HTTP/1.1 connections that are kept alive, each with a pace of its own.
    pub kept: usize,
    /// Clients with a new connection for each request.
    pub hasty: usize,
    /// gRPC connections, each with several callers at once.
    pub channels: usize,
    /// gRPC connections with one caller whose library sends nothing again by itself.
    pub plain: usize,
    /// Event streams through the edge, each of a user of its own.
    pub streams: usize,
    /// The same, directly to a pusher.
    pub direct: usize,
    /// HTTP/1.1 connections to the admin process that are kept alive and ask for the metrics of all.
    pub admin: usize,
}

/// Clients that go on until they are stopped.
#[derive(Debug)]
pub struct Load {
    /// What they have seen so far.
    pub seen: Arc<Seen>,
    stop: watch::Sender<bool>,
    clients: JoinSet<()>,
    listeners: JoinSet<()>,
    written: Arc<listeners::Written>,
}

impl Load {
    /// Starts them all.
    #[must_use]
    pub fn start(doors: impl Into<Doors>, crowd: Crowd) -> Self {
        let Doors { http, grpc, push, admin, key, mut redis } = doors.into();
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::<Seen>::default();
        let (mut clients, mut listeners) = (JoinSet::new(), JoinSet::new());
        for i in 0..crowd.kept {
            clients.spawn(http::keep(http, &http::SHOP, i, Arc::clone(&seen), stopped.clone()));
        }
        for i in 0..crowd.admin {
            clients.spawn(http::keep(admin, &http::METRICS, i, Arc::clone(&seen), stopped.clone()));
        }
        for _ in 0..crowd.hasty {
            clients.spawn(http::hurry(http, Arc::clone(&seen), stopped.clone()));
        }
        for i in 0..crowd.channels + crowd.plain {
            let again = i < crowd.channels;
            let channel = Doors::channel(grpc);
            for _ in 0..if again { 3 } else { 1 } {
                let device = Device::registered(&mut redis);
                clients.spawn(callers::call(channel.clone(), again, key.clone(), device, Arc::clone(&seen), stopped.clone()));
            }
        }
        let written = Arc::<listeners::Written>::default();
        let mut users = Vec::new();
        for i in 0..crowd.streams + crowd.direct {
            let device = Device::registered(&mut redis);
            let (socket, address) = if i < crowd.streams { ("grpc", grpc) } else { ("push", push) };
            users.push(device.user.clone());
            let client =
                listeners::Listener { socket, channel: Doors::channel(address), key: key.clone(), device, seen: Arc::clone(&seen) };
            listeners.spawn(client.listen(Arc::clone(&written)));
        }
        clients.spawn(listeners::write(redis, users, Arc::clone(&written), stopped));
        Self { seen, stop, clients, listeners, written }
    }

    /// Waits until every stream is open; events are written from then on.
    pub async fn opened(&self) {
        let wanted = self.listeners.len();
        crate::wait::eventually("all streams are open", async || (self.seen.of("streams opened") >= wanted).then_some(())).await;
        self.written.open();
    }

    /// Waits until every stream that was told to come back has done so: one that has not cannot be told again.
    pub async fn streams_are_back(&self) {
        crate::wait::eventually("all streams are open again", async || {
            let told = self.seen.of("streams on grpc told to come back") + self.seen.of("streams on push told to come back");
            (self.seen.of("streams opened") - told >= self.listeners.len()).then_some(())
        })
        .await;
    }

    /// Waits until so many more things of a kind were seen.
    pub async fn go_on(&self, what: &str, more: usize) {
        let goal = self.seen.of(what) + more;
        crate::wait::eventually(what, async || (self.seen.of(what) >= goal).then_some(())).await;
    }

    /// Lets every client finish what it does, and every stream deliver what was written.
    pub async fn stop(mut self) -> Arc<Seen> {
        self.stop.send_replace(true);
        crate::wait::bounded("the clients finish", async {
            while let Some(ended) = self.clients.join_next().await {
                ended.unwrap();
            }
        })
        .await;
        self.written.close();
        crate::wait::bounded("every event is delivered", async {
            while let Some(ended) = self.listeners.join_next().await {
                ended.unwrap();
            }
        })
        .await;
        self.seen
    }
}
