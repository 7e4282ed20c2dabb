//! Reads one pipe, a turn at a time, so that one who speaks much does not keep the thread from the others.

use std::{
    io::{self, ErrorKind},
    os::fd::OwnedFd,
};

use tokio::{
    net::unix::pipe::Receiver,
    sync::{oneshot, watch},
    task::yield_now,
};

use super::{
    PIPE,
    sink::{Sink, TURN},
};
use crate::output::pause::Turnstile;

/// What is read with one call.
const CHUNK: usize = 16 << 10;

/// One pipe and what becomes of it.
pub(super) struct Reader {
    end: Receiver,
    sink: Sink,
    turnstile: Turnstile,
}

/// What a turn came to.
enum Turn {
    /// There may be more.
    More,
    /// Nothing is there now.
    Empty,
    /// Nobody can write any more.
    End,
}

impl Reader {
    pub(super) fn new(end: OwnedFd, sink: Sink) -> io::Result<Self> {
        let turnstile = sink.turnstile();
        Ok(Self { end: Receiver::from_owned_fd(end)?, sink, turnstile })
    }

    /// Runs until nobody can write any more; says so on `drained`, or earlier, when the process has ended and nothing of it is left.
    pub(super) async fn run(mut self, mut ended: watch::Receiver<bool>, drained: oneshot::Sender<()>) {
        let mut drained = Some(drained);
        loop {
            tokio::select! {
                ready = self.end.readable() => {
                    if ready.is_err() || matches!(turn(&mut self.sink, |chunk| self.end.try_read(chunk)), Turn::End) {
                        break;
                    }
                    tokio::select! {
                        () = self.sink.settle() => yield_now().await,
                        // A pause ends with the process.
                        _ = ended.changed(), if drained.is_some() => ended.mark_changed(),
                        () = self.turnstile.is_wanted() => {}
                    }
                }
                () = self.turnstile.is_wanted() => {
                    self.sink.put_down().await;
                    self.turnstile.rest().await;
                }
                _ = ended.changed(), if drained.is_some() => {
                    if !self.drain().await {
                        break;
                    }
                    self.sink.conclude();
                    // A grandchild speaks on; nobody waits for it.
                    let _over = drained.take().map(|drained| drained.send(()));
                }
            }
        }
        self.sink.pass().await;
        // Before whoever waits is told, which dropping `drained` does.
        drop(self.sink);
    }

    /// Everything that is there now, whatever the poller knows of it, but no more than a pipe holds; `false` at the end.
    async fn drain(&mut self) -> bool {
        for _ in 0..=PIPE / TURN {
            let turn = turn(&mut self.sink, |chunk| Ok(rustix::io::read(&self.end, chunk)?));
            self.sink.pass().await;
            match turn {
                Turn::More => yield_now().await,
                Turn::Empty => return true,
                Turn::End => return false,
            }
        }
        true
    }
}

fn turn(sink: &mut Sink, read: impl Fn(&mut [u8]) -> io::Result<usize>) -> Turn {
    let (mut chunk, mut taken) = ([0; CHUNK], 0);
    while taken < sink.appetite() {
        match read(&mut chunk) {
            Ok(0) => return Turn::End,
            Ok(length) => {
                sink.take(chunk.get(..length).unwrap_or_default());
                taken += length;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Empty,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Turn::End,
        }
    }
    Turn::More
}
