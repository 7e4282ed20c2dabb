//! The connection that everybody shares, replaced whenever it is of no more use.
//!
//! One attempt to connect at a time; whoever needs the connection meanwhile waits for that one, not longer than its own command may take, and only a part of
//! that once the server is known to be away. An attempt belongs to nobody, so that it goes on when its waiters have given up. A connection is given up
//! when the other side closed it, when a command timed out on it while nothing else was answered either (a server that hangs, a route that is gone), and when it answers
//! `READONLY` or `NOAUTH`: behind the same name there may be another master, and with another password another answer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    RedisError,
    dial::{Connection, dial},
};
use crate::config::RedisConfig;

/// Between two attempts, when the first failed at once.
const PAUSE: Duration = Duration::from_millis(50);
/// A connection that is younger is not replaced because of what the server says on it: it would say so again.
const YOUNG: Duration = Duration::from_millis(500);
/// The part of a command's time that is spent on waiting for a server which is known to be away.
const SHARE: u32 = 4;

type Attempt = watch::Receiver<Option<Result<Arc<Live>, RedisError>>>;

/// See the module's head.
pub(super) struct Link {
    config: Arc<RedisConfig>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    attempt: Option<Attempt>,
    /// Connections that there have been.
    number: u64,
    /// Why there is none; since the last one was lost.
    trouble: Option<RedisError>,
    not_before: Option<Instant>,
}

/// One connection, as long as it is the one that is shared.
pub(super) struct Live {
    pub(super) connection: Connection,
    pub(super) number: u64,
    born: Instant,
    /// When something was answered on it last, in microseconds after its birth.
    heard: AtomicU64,
}

impl Live {
    fn new(connection: Connection, number: u64) -> Self {
        Self { connection, number, born: Instant::now(), heard: AtomicU64::new(0) }
    }

    fn age(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn hear(&self) {
        self.heard.fetch_max(self.age(), Ordering::Relaxed);
    }
}

impl Link {
    pub(super) fn new(config: Arc<RedisConfig>) -> Arc<Self> {
        Arc::new(Self { config, state: Mutex::default() })
    }

    /// The number of the connection that is shared now, or was last.
    pub(super) fn number(&self) -> u64 {
        self.state().number
    }

    /// Whether there is a connection, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        self.state().live.as_ref().is_some_and(|live| !live.connection.is_closed())
    }

    /// Runs commands on the shared connection, within the configured time. What the server certainly did not carry out, because it said so of everything on
    /// this connection, is tried once more on the next when `again` allows it.
    pub(super) async fn run<T, F>(self: &Arc<Self>, again: bool, act: impl Fn(Connection) -> F) -> Result<T, RedisError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let bound = self.config.command_timeout;
        let deadline = Instant::now() + bound;
        let first = self.run_once(&act, deadline, bound).await;
        match first {
            Err((error, true)) if again && error.is_worth_another_connection() => {
                self.run_once(&act, deadline, bound).await.map_err(|(error, _)| error)
            }
            other => other.map_err(|(error, _)| error),
        }
    }

    /// The answer, or the error and whether the next command will have another connection.
    async fn run_once<T, F>(
        self: &Arc<Self>,
        act: &impl Fn(Connection) -> F,
        deadline: Instant,
        bound: Duration,
    ) -> Result<T, (RedisError, bool)>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let live = self.live(deadline, bound).await.map_err(|error| (error, true))?;
        let begun = live.age();
        let Ok(answer) = timeout_at(deadline, act(live.connection.clone())).await else {
            let error = RedisError::Timeout(bound);
            let silent = live.heard.load(Ordering::Relaxed) <= begun;
            if silent {
                self.give_up(&live, Some(&error));
            }
            return Err((error, silent));
        };
        match answer {
            Err(error) if !error.is_heard() => {
                self.give_up(&live, Some(&error));
                Err((error, true))
            }
            Err(error) => {
                live.hear();
                let renew = error.is_worth_another_connection() && live.born.elapsed() >= YOUNG;
                if renew {
                    self.give_up(&live, None);
                }
                Err((error, renew))
            }
            Ok(answer) => {
                live.hear();
                Ok(answer)
            }
        }
    }

    /// Takes a connection that was made elsewhere.
    pub(super) fn adopt(&self, connection: Connection) {
        let mut state = self.state();
        state.number += 1;
        state.live = Some(Arc::new(Live::new(connection, state.number)));
    }

    async fn live(self: &Arc<Self>, deadline: Instant, bound: Duration) -> Result<Arc<Live>, RedisError> {
        let (mut attempt, trouble) = {
            let mut state = self.state();
            if let Some(live) = state.live.take_if(|live| live.connection.is_closed()) {
                tracing::debug!(redis.connection = live.number, "the connection to Redis was closed");
            }
            if let Some(live) = &state.live {
                return Ok(Arc::clone(live));
            }
            let attempt = match &state.attempt {
                Some(attempt) => attempt.clone(),
                None => self.begin(&mut state),
            };
            (attempt, state.trouble.clone())
        };
        let patience = if trouble.is_some() { deadline.min(Instant::now() + bound / SHARE) } else { deadline };
        let settled = timeout_at(patience, attempt.wait_for(Option::is_some)).await.map(|settled| settled.map(|settled| settled.clone()));
        match settled {
            Ok(Ok(settled)) => settled.unwrap_or(Err(RedisError::Timeout(bound))),
            // The attempt's task was dropped with its runtime, or panicked. Whoever comes next begins another.
            Ok(Err(_)) => {
                self.state().attempt.take_if(|of| of.same_channel(&attempt));
                Err(RedisError::Unexpected("a connection"))
            }
            Err(_) => Err(trouble.unwrap_or(RedisError::Timeout(bound))),
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State) -> Attempt {
        let (sender, attempt) = watch::channel(None);
        state.attempt = Some(attempt.clone());
        let (this, not_before) = (Arc::clone(self), state.not_before);
        #[expect(
            clippy::disallowed_methods,
            reason = "an attempt belongs to all who wait for it, and ends by itself within the time for connecting"
        )]
        let _ends_by_itself = tokio::spawn(async move {
            if let Some(not_before) = not_before {
                sleep_until(not_before).await;
            }
            let dialled = dial(&this.config).await;
            // Nobody may be waiting any more.
            let _given_up = sender.send(Some(this.settle(dialled)));
        });
        attempt
    }

    fn settle(&self, dialled: Result<Connection, RedisError>) -> Result<Arc<Live>, RedisError> {
        let mut state = self.state();
        state.attempt = None;
        match dialled {
            Ok(connection) => {
                state.number += 1;
                let live = Arc::new(Live::new(connection, state.number));
                state.live = Some(Arc::clone(&live));
                state.not_before = None;
                if state.trouble.take().is_some() {
                    tracing::info!(redis.addr = %self.config.addr, "Redis is back");
                }
                Ok(live)
            }
            Err(error) => {
                state.not_before = Some(Instant::now() + PAUSE);
                self.note(&mut state, &error);
                Err(error)
            }
        }
    }

    /// Shares that connection no longer. `trouble` is what was wrong with it, when that is likely to be so still.
    fn give_up(&self, live: &Live, trouble: Option<&RedisError>) {
        let mut state = self.state();
        if state.live.take_if(|shared| shared.number == live.number).is_some()
            && let Some(error) = trouble
        {
            self.note(&mut state, error);
        }
    }

    fn note(&self, state: &mut State, error: &RedisError) {
        if state.trouble.is_none() {
            tracing::warn!(redis.addr = %self.config.addr, %error, "Redis is away");
        }
        state.trouble = Some(error.clone());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config as _, Reader, Shared, Source};

    #[tokio::test]
    async fn an_attempt_that_ended_without_an_outcome_is_followed_by_another() {
        let env = [("GATEWAY_REDIS_MASTER_ADDR", "unix:/nowhere/redis.sock"), ("GATEWAY_REDIS_PASSWORD", "x")];
        let config = Shared::read(&mut Reader::new(Source::of("", &env))).unwrap().redis;
        let link = Link::new(Arc::new(config));
        // As a task leaves it that panicked.
        link.state().attempt = Some(watch::channel(None).1);
        let ask = || link.run(true, |_| async { Ok(()) });
        assert!(matches!(ask().await, Err(RedisError::Unexpected(_))));
        assert!(matches!(ask().await, Err(RedisError::Lost(_))), "somebody tried");
    }
}
