//! A sign of life in Redis, while this process carries out what others may wait for; and the end of what it began to reserve and did not go on with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use gatehouse_chassis::{
    Process,
    redis::{Cmd, Redis, cmd},
};
use tokio::sync::{mpsc, watch};

use super::entry::OwnerId;

/// How often it is given, and for how long it counts.
const BEAT: Duration = Duration::from_secs(1);
const COUNTS_MS: u64 = 4000;

/// Clones share the count of what is being carried out.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    id: OwnerId,
    working: Arc<watch::Sender<usize>>,
    attempts: Arc<AtomicU64>,
    given_up: mpsc::UnboundedSender<Cmd>,
}

/// One thing that is being carried out.
#[derive(Debug)]
pub(super) struct Working(Arc<watch::Sender<usize>>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.send_modify(|working| *working -= 1);
    }
}

impl Owner {
    pub(super) fn new(process: &Process, redis: &Redis) -> Self {
        let (working, mut any) = watch::channel(0);
        // As many as there are requests at most.
        let (given_up, mut to_give_up) = mpsc::unbounded_channel::<Cmd>();
        let this = Self { id: uuid::Uuid::new_v4().into_bytes(), working: Arc::new(working), attempts: Arc::default(), given_up };
        let giving_up = redis.clone();
        process.shutdown().spawn_companion("replay-given-up", async move {
            while let Some(command) = to_give_up.recv().await {
                if let Err(error) = giving_up.run::<i64>(&command).await {
                    tracing::warn!(%error, "a reservation was not given back; its retries are told that the outcome is unknown");
                }
            }
        });
        let (beat, redis) = (sign(redis, &this.id), redis.clone());
        process.shutdown().spawn_companion("replay-owner", async move {
            while any.wait_for(|working| *working > 0).await.is_ok() {
                // Silence for a while costs a retry its answer, and it may ask again.
                if let Err(error) = redis.run::<()>(&beat).await {
                    tracing::debug!(%error, "no sign of life for those who wait for answers");
                }
                tokio::time::sleep(BEAT).await;
            }
        });
        this
    }

    pub(super) const fn id(&self) -> OwnerId {
        self.id
    }

    pub(super) fn begin(&self) -> Working {
        self.working.send_modify(|working| *working += 1);
        Working(Arc::clone(&self.working))
    }

    /// A number of its own for each attempt at a reservation.
    pub(super) fn attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }

    /// Has a command run by which a reservation is given back, for somebody who cannot wait for it.
    pub(super) fn give_up(&self, command: Cmd) {
        // Nobody receives when the process has ended.
        let _ended = self.given_up.send(command);
    }

    /// Gives the sign.
    pub(super) fn sign(&self, redis: &Redis) -> Cmd {
        sign(redis, &self.id)
    }

    /// Asks whether that one lives.
    pub(super) fn is_alive(redis: &Redis, id: &OwnerId) -> Cmd {
        cmd("EXISTS").arg(key(redis, id)).clone()
    }
}

fn sign(redis: &Redis, id: &OwnerId) -> Cmd {
    cmd("SET").arg(key(redis, id)).arg(1).arg("PX").arg(COUNTS_MS).clone()
}

fn key(redis: &Redis, id: &OwnerId) -> String {
    redis.key(&format!("replay-owner:{}", uuid::Uuid::from_bytes(*id).simple()))
}
