//! Records of refusals: everybody who is refused is in the trail, and nobody can fill it by being refused.
//!
//! The first refusal of a kind is recorded at once. What is like it (the same cause, the same session or address) within the next ten seconds is one record
//! together at their end, with how many they were (`event_count`) and whatever they have in common. Kinds are bounded in number; beyond that, refusals are told apart by
//! their cause alone. No answer waits for any of it; what is counted when the process ends is recorded then.

mod groups;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use gatehouse_proto::{audit, internal::v1::AuditRecord};
use prometheus::{IntCounter, IntGauge};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::Recorder;
use crate::Process;
use groups::{Groups, Key};

/// How long refusals of one kind are gathered.
const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are told apart by more than their cause.
const KINDS: usize = 128;

/// Who was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who<'a> {
    /// A device session that has proven to be itself.
    Session(&'a str),
    /// A stranger, from there. Of an IPv6 address the network (/64) counts: one customer has as many addresses as he likes.
    Address(Option<IpAddr>),
}

/// Takes refusals; clones share the groups. What is counted is recorded when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Denied {
    groups: Arc<Mutex<Groups>>,
    wake: mpsc::Sender<()>,
    refusals: IntCounter,
}

impl Denied {
    /// Starts the task that writes the records.
    #[must_use]
    pub fn open(process: &Process, recorder: Recorder) -> Self {
        let metrics = process.metrics();
        let refusals =
            metrics.counter("audit_denied_total", "Refusals that were handed to the trail, each counted in a record's event_count.");
        let groups = Arc::new(Mutex::new(Groups::new(WINDOW, KINDS)));
        let (wake, woken) = mpsc::channel(1);
        let scribe = Scribe {
            groups: Arc::clone(&groups),
            recorder,
            records: metrics.counter("audit_denied_records_total", "Records that these refusals became."),
            kinds: metrics.gauge("audit_denied_groups", "Kinds of refusals of the last ten seconds, by cause and session or address."),
        };
        process.shutdown().spawn_sink("audit-denied", scribe.run(woken));
        Self { groups, wake, refusals }
    }

    /// Takes one refusal for that cause, a bounded word. It becomes the record's resource.
    pub fn note(&self, cause: &'static str, who: Who<'_>, mut record: AuditRecord) {
        record.resource = Some(cause.to_owned());
        record.resource_type = Some("refusal".to_owned());
        audit::bound(&mut record);
        self.refusals.inc();
        if lock(&self.groups).note(Key::new(cause, &record.action_type, who), record, Instant::now()) {
            // When there is a word for it already, that one will do.
            let _woken = self.wake.try_send(());
        }
    }
}

struct Scribe {
    groups: Arc<Mutex<Groups>>,
    recorder: Recorder,
    records: IntCounter,
    kinds: IntGauge,
}

impl Scribe {
    async fn run(self, mut woken: mpsc::Receiver<()>) {
        loop {
            let next = lock(&self.groups).next();
            tokio::select! {
                word = woken.recv() => if word.is_none() { break },
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            // A trail that takes nothing is asked again when the window is over.
            if self.recorder.takes_records() {
                let due = lock(&self.groups).take_due(Instant::now());
                self.write(due).await;
            } else {
                lock(&self.groups).put_off(Instant::now());
            }
            self.kinds.set(i64::try_from(lock(&self.groups).len()).unwrap_or(i64::MAX));
        }
        let left = lock(&self.groups).take_all();
        self.write(left).await;
    }

    async fn write(&self, due: Vec<(Key, AuditRecord)>) {
        let written = join_all(due.iter().map(|(_, record)| self.recorder.write_bounded(record.clone()))).await;
        for ((key, record), written) in due.into_iter().zip(written) {
            match written {
                Ok(()) => self.records.inc(),
                Err(_) => lock(&self.groups).put_back(key, record, Instant::now()),
            }
        }
    }
}

fn lock(groups: &Mutex<Groups>) -> MutexGuard<'_, Groups> {
    groups.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network that an address is counted by.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address @ IpAddr::V4(_) => address,
    }
}
