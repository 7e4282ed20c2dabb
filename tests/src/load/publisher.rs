//! Numbers for every user, one after the other.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{RedisDoor, Stop, tally::Tally};
use crate::Resp;

/// The type of the load's events.
pub(super) const EVENT: &str = "load.number";
/// While Redis is away it is asked again so soon.
const AGAIN: Duration = Duration::from_millis(50);

/// One event's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// The user's 0, 1, 2, …
    pub(super) nth: u64,
    /// Writes of it before: whether Redis took one of those, nobody knows, so that it may be there more than once.
    pub(super) attempts: u32,
    /// The phase in which it was written.
    pub(super) phase: usize,
    sent_micros: u64,
}

impl Number {
    fn new(nth: u64, attempts: u32, phase: usize) -> Self {
        Self { nth, attempts, phase, sent_micros: now_micros() }
    }

    fn text(self) -> String {
        let mut text = String::new();
        write!(text, "{} {} {} {}", self.nth, self.attempts, self.phase, self.sent_micros).unwrap();
        text
    }

    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(payload).ok()?.split(' ');
        let mut word = || words.next();
        let (nth, attempts) = (word()?.parse().ok()?, word()?.parse().ok()?);
        Some(Self { nth, attempts, phase: word()?.parse().ok()?, sent_micros: word()?.parse().ok()? })
    }

    pub(super) fn age(self) -> Duration {
        Duration::from_micros(now_micros().saturating_sub(self.sent_micros))
    }
}

/// The writer's thread.
#[derive(Debug)]
pub(super) struct Publisher {
    stop: Stop,
    thread: JoinHandle<Vec<u64>>,
}

impl Publisher {
    pub(super) fn start(redis: RedisDoor, users: Vec<String>, per_second: u32, tally: Arc<Tally>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let period = Duration::from_secs(1) / per_second;
        let thread = thread::Builder::new().name("publisher".into()).spawn(move || run(&redis, &users, period, &stopped, &tally));
        Self { stop, thread: thread.unwrap() }
    }

    /// How many numbers each user got.
    pub(super) fn stop(self) -> Vec<u64> {
        drop(self.stop);
        self.thread.join().expect("the publisher does not panic")
    }
}

fn run(redis: &RedisDoor, users: &[String], period: Duration, stopped: &mpsc::Receiver<()>, tally: &Tally) -> Vec<u64> {
    let mut published = vec![0; users.len()];
    let (mut client, mut attempts, mut user) = (redis.open().ok(), 0, 0);
    let mut due = Instant::now();
    loop {
        let number = Number::new(published[user], attempts, tally.phase());
        let written = client.as_mut().is_some_and(|client| publish_one(client, &users[user], number));
        let wait = if written {
            published[user] += 1;
            user = (user + 1) % users.len();
            attempts = 0;
            due += period;
            due.saturating_duration_since(Instant::now())
        } else {
            attempts += u32::from(client.is_some());
            tally.count(|phase| phase.unpublished += u64::from(client.is_some()));
            client = redis.open().ok();
            due = Instant::now();
            AGAIN
        };
        // An event that may have been written is not left behind: whether it counts would be unknown.
        if stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) && attempts == 0 {
            return published;
        }
    }
}

fn publish_one(client: &mut Resp, user: &str, number: Number) -> bool {
    let text = number.text();
    let fields: [(&[u8], &[u8]); 3] =
        [(b"user_id", user.as_bytes()), (b"event_type", EVENT.as_bytes()), (b"payload_bytes", text.as_bytes())];
    client.xadd("gateway:client_events", &fields).is_ok()
}

fn now_micros() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_as_it_was_written() {
        let number = Number::new(17, 2, 1);
        assert_eq!(Number::read(number.text().as_bytes()), Some(number));
        assert_eq!(Number::read(b"17"), None);
    }
}
