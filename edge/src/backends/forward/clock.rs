//! One request and the head of its answer: waited for as long as somebody gets on, and no longer, with the blame where it belongs.

use std::{
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use crate::config::Transfer;

/// How much later than the upload's own clock this one goes by: the upload ends itself, and the connection with it.
const GRACE: Duration = Duration::from_secs(1);

/// Whose turn it is with a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The client was asked for more, and has not sent it.
    Client,
    /// The backend has not asked for what is there.
    Backend,
    /// Nobody's: all of it was taken, or it is not wanted any more.
    Over,
}

/// How an upload gets on; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<(Turn, Instant)>>);

impl Progress {
    pub(crate) fn new(turn: Turn) -> Self {
        Self(Arc::new(Mutex::new((turn, Instant::now()))))
    }

    /// Whose turn it is, and since when.
    pub(crate) fn turn(&self) -> (Turn, Instant) {
        *self.state()
    }

    /// Since when it is that one's turn.
    pub(crate) fn pass_to(&self, turn: Turn) -> Instant {
        let mut state = self.state();
        // Each part that was taken begins a new wait; to ask the client once more does not.
        if state.0 != turn || turn == Turn::Backend {
            *state = (turn, Instant::now());
        }
        state.1
    }

    /// Whoever has his turn has it from now on.
    fn begin_anew(&self) {
        self.state().1 = Instant::now();
    }

    fn state(&self) -> MutexGuard<'_, (Turn, Instant)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    Client,
    Backend,
}

/// The limits of one request.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    upload: Progress,
    client: Duration,
    write: Duration,
    timeout: Duration,
}

impl Clock {
    /// The backend's time, `timeout`, runs from the end of the request's body on: a long upload is not its slowness.
    pub(crate) fn new(upload: Progress, timeout: Duration, limits: &Transfer) -> Self {
        Self { upload, client: limits.body_timeout.saturating_add(GRACE), write: limits.write_timeout, timeout }
    }

    fn limit(&self, turn: Turn) -> Duration {
        match turn {
            Turn::Client => self.client,
            Turn::Backend => self.write,
            Turn::Over => self.timeout,
        }
    }

    /// What comes of an attempt that begins now.
    pub(super) async fn head<T>(&self, asked: impl Future<Output = T>) -> Result<T, Late> {
        let mut asked = pin!(asked);
        self.upload.begin_anew();
        // The turn may change meanwhile, and the limit with it.
        let often = self.timeout.min(self.write).min(self.client);
        loop {
            let (turn, since) = self.upload.turn();
            let due = since + self.limit(turn);
            let until = due.min(Instant::now() + often);
            match timeout_at(until, asked.as_mut()).await {
                Ok(answer) => return Ok(answer),
                Err(_) if until == due && self.upload.turn() == (turn, since) => {
                    return Err(if turn == Turn::Client { Late::Client } else { Late::Backend });
                }
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const SHORT: Duration = Duration::from_millis(40);

    fn clock(turn: Turn) -> (Progress, Clock) {
        let limits = Transfer { body_timeout: SHORT, write_timeout: SHORT * 3, ..Transfer::default() };
        let progress = Progress::new(turn);
        (progress.clone(), Clock::new(progress, SHORT * 2, &limits))
    }

    #[tokio::test]
    async fn each_has_a_limit_of_its_own() {
        for (turn, late, limit) in
            [(Turn::Client, Late::Client, SHORT + GRACE), (Turn::Backend, Late::Backend, SHORT * 3), (Turn::Over, Late::Backend, SHORT * 2)]
        {
            let (_, clock) = clock(turn);
            let begun = Instant::now();
            assert_eq!(clock.head(pending::<()>()).await, Err(late));
            assert!(begun.elapsed() >= limit, "{turn:?}");
        }
    }

    #[tokio::test]
    async fn asking_the_client_again_gives_him_no_more_time() {
        let (progress, clock) = clock(Turn::Client);
        let asked = async {
            loop {
                sleep(SHORT / 4).await;
                progress.pass_to(Turn::Client);
            }
        };
        assert_eq!(clock.head::<()>(asked).await, Err(Late::Client));
    }

    #[tokio::test]
    async fn a_new_attempt_has_its_time() {
        let (_, clock) = clock(Turn::Over);
        sleep(SHORT * 4).await;
        assert_eq!(clock.head(std::future::ready(7)).await, Ok(7));
        let begun = Instant::now();
        assert_eq!(clock.head(pending::<()>()).await, Err(Late::Backend));
        assert!(begun.elapsed() >= SHORT * 2);
    }
}
