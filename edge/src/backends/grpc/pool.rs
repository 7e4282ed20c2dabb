//! The connections to one endpoint: one, and others only while the streams of those there are in use.
//!
//! Connecting is one task for all who wait for it, so that many who come while nobody answers wait once, and together. After a failure nobody tries again until a delay
//! has passed, which grows while it goes on; meanwhile they are told at once. A connection that ends without ever having answered counts as a failure.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gatehouse_chassis::{Shutdown, backoff::Backoff};
use tokio::sync::watch;

use super::connection::{Connection, Ended, Lease, open};
use crate::{backends::fault::Fault, config::Address};

/// More are not opened, whatever the other side's limit is: its streams are then waited for.
const MAX_CONNECTIONS: usize = 16;
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// See the module's head. Clones share it.
#[derive(Clone, Debug)]
pub(in crate::backends) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: Address,
    connect_timeout: Duration,
    shutdown: Shutdown,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    connections: Vec<Connection>,
    /// Says how it went when the connecting that goes on is over.
    connecting: Option<watch::Receiver<Option<bool>>>,
    backoff: Backoff,
    not_before: Option<Instant>,
}

/// What there is for somebody who wants a place.
enum Found {
    Lease(Lease),
    Wait(watch::Receiver<Option<bool>>),
    Nothing,
}

impl Pool {
    pub(in crate::backends) fn new(address: Address, connect_timeout: Duration, shutdown: Shutdown) -> Self {
        let backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
        let state = State { connections: Vec::new(), connecting: None, backoff, not_before: None };
        Self(Arc::new(Inner { address, connect_timeout, shutdown, state: Mutex::new(state) }))
    }

    /// A place on a connection.
    pub(in crate::backends) async fn lease(&self) -> Result<Lease, Fault> {
        loop {
            match self.find() {
                Found::Lease(lease) => return Ok(lease),
                Found::Nothing => return Err(Fault::Unreached),
                Found::Wait(mut over) => {
                    let went_well = over.wait_for(Option::is_some).await.is_ok_and(|went| *went == Some(true));
                    if !went_well {
                        // Who has waited once does not wait again.
                        return self.lock().least_used().ok_or(Fault::Unreached);
                    }
                }
            }
        }
    }

    fn find(&self) -> Found {
        let mut state = self.lock();
        if let Some(lease) = state.free() {
            return Found::Lease(lease);
        }
        let is_allowed = state.connections.len() < MAX_CONNECTIONS && state.not_before.is_none_or(|at| Instant::now() >= at);
        if let Some(over) = state.connecting.clone() {
            return Found::Wait(over);
        }
        if !is_allowed {
            return state.least_used().map_or(Found::Nothing, Found::Lease);
        }
        let (sender, over) = watch::channel(None);
        state.connecting = Some(over.clone());
        // Whatever becomes of the task may need the lock at once.
        drop(state);
        self.connect(Connecting { inner: Arc::clone(&self.0), over: sender, is_over: false });
        Found::Wait(over)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Connects, and drives the connection to its end.
    fn connect(&self, connecting: Connecting) {
        self.0.shutdown.spawn_companion("backend-connection", async move {
            let opened = open(&connecting.inner.address, connecting.inner.connect_timeout).await;
            // Without the pool it ends when nobody wants it any more.
            if let Some(drive) = connecting.end(opened) {
                drive.await;
            }
        });
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connecting that goes on. Dropped before its end it has failed, and the next one may begin.
struct Connecting {
    inner: Arc<Inner>,
    over: watch::Sender<Option<bool>>,
    is_over: bool,
}

impl Connecting {
    /// What is to be driven, if it went well.
    fn end<D>(mut self, opened: io::Result<(Connection, D)>) -> Option<D> {
        let drive = match opened {
            Ok((connection, drive)) => {
                self.ends(|state| state.connections.push(connection));
                Some(drive)
            }
            Err(error) => {
                tracing::debug!(address = %self.inner.address, %error, "backend not reached");
                self.ends(State::failed);
                None
            }
        };
        // Nobody may be waiting any more.
        let _nobody = self.over.send(Some(drive.is_some()));
        drive
    }

    fn ends(&mut self, act: impl FnOnce(&mut State)) {
        let mut state = self.inner.lock();
        state.connecting = None;
        act(&mut state);
        self.is_over = true;
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        if !self.is_over {
            self.ends(State::failed);
        }
    }
}

impl State {
    /// A place on a connection that has a free stream.
    fn free(&mut self) -> Option<Lease> {
        let mut i = 0;
        while let Some(connection) = self.connections.get(i) {
            match connection.lease() {
                Ok(lease) if lease.is_within_limit() => return Some(lease),
                Ok(_) => i += 1,
                Err(Ended) => self.left(i),
            }
        }
        None
    }

    /// A place on the connection with the fewest who wait for streams.
    fn least_used(&mut self) -> Option<Lease> {
        let (i, connection) = self.connections.iter().enumerate().min_by_key(|(_, connection)| connection.in_flight())?;
        let lease = connection.lease();
        if lease.is_err() {
            self.left(i);
        }
        lease.ok()
    }

    /// A connection is of no use any more. Those who are on it hold it until they are done.
    fn left(&mut self, i: usize) {
        let connection = self.connections.swap_remove(i);
        if connection.has_answered() {
            self.backoff.reset();
            self.not_before = None;
        } else {
            self.failed();
        }
    }

    fn failed(&mut self) {
        self.not_before = Some(Instant::now() + self.backoff.next_delay());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connecting_that_is_given_up_is_over() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shutdown) = (silent.local_addr().unwrap().to_string().parse().unwrap(), Shutdown::default());
        let pool = Pool::new(address, Duration::from_hours(1), shutdown.clone());
        let mut lease = Box::pin(pool.lease());
        assert!(futures_util::poll!(&mut lease).is_pending() && pool.lock().connecting.is_some());
        shutdown.abort();
        assert!(matches!(lease.await, Err(Fault::Unreached)));
        let state = pool.lock();
        assert!(state.connecting.is_none() && state.not_before.is_some(), "the next one may try, after a while");
    }
}
