//! The grouping of refusals. Pure: what comes in, and the time, decide what comes out.
//!
//! A group is due when its kind is first seen. Once it has been written, it gathers until its window has passed; if nothing came, it ends.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use gatehouse_proto::internal::v1::AuditRecord;
use tokio::time::Instant;

use super::{Who, network};

/// The action of records that name several.
const SEVERAL: &str = "*";

/// What refusals have in common that are one record.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    cause: &'static str,
    action_type: String,
    from: From,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum From {
    Session(String),
    Network(Option<IpAddr>),
    /// Whoever came when there were too many kinds.
    Others,
}

impl Key {
    pub(super) fn new(cause: &'static str, action_type: &str, who: Who<'_>) -> Self {
        let from = match who {
            Who::Session(id) => From::Session(id.to_owned()),
            Who::Address(address) => From::Network(address.map(network)),
        };
        Self { cause, action_type: action_type.to_owned(), from }
    }
}

#[derive(Debug)]
struct Group {
    /// What has been refused since the last record.
    record: Option<AuditRecord>,
    due: Instant,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Groups {
    window: Duration,
    kinds: usize,
    of: HashMap<Key, Group>,
}

impl Groups {
    /// At most `kinds` groups that are told apart by more than their cause.
    pub(super) fn new(window: Duration, kinds: usize) -> Self {
        Self { window, kinds, of: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Takes a refusal; whether something became due by it.
    pub(super) fn note(&mut self, key: Key, record: AuditRecord, now: Instant) -> bool {
        let is_full = self.of.len() >= self.kinds && !self.of.contains_key(&key);
        let key = if is_full { Key { from: From::Others, ..key } } else { key };
        let is_new = !self.of.contains_key(&key);
        self.add(key, record, now);
        is_new
    }

    /// Gives back what could not be written. It is due when its window has passed.
    pub(super) fn put_back(&mut self, key: Key, record: AuditRecord, now: Instant) {
        self.add(key, record, now + self.window);
    }

    fn add(&mut self, key: Key, record: AuditRecord, due: Instant) {
        let group = self.of.entry(key).or_insert(Group { record: None, due });
        match &mut group.record {
            Some(gathered) => merge(gathered, &record),
            None => group.record = Some(record),
        }
    }

    /// What is to be written now. Groups that gathered nothing in their window end.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(Key, AuditRecord)> {
        let (window, mut due) = (self.window, Vec::new());
        self.of.retain(|key, group| {
            if group.due > now {
                return true;
            }
            group.due = now + window;
            group.record.take().map(|record| due.push((key.clone(), record))).is_some()
        });
        due
    }

    /// Lets everything that is due wait for another window.
    pub(super) fn put_off(&mut self, now: Instant) {
        for group in self.of.values_mut().filter(|group| group.due <= now) {
            group.due = now + self.window;
        }
    }

    /// Everything that has not been written.
    pub(super) fn take_all(&mut self) -> Vec<(Key, AuditRecord)> {
        self.of.drain().filter_map(|(key, group)| Some((key, group.record?))).collect()
    }

    /// When the next group is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.of.values().map(|group| group.due).min()
    }
}

/// Keeps what both have in common, and the time of the first.
fn merge(gathered: &mut AuditRecord, other: &AuditRecord) {
    gathered.event_count = gathered.event_count.saturating_add(other.event_count);
    // What is given back after it could not be written is older than what was gathered meanwhile.
    gathered.ts_us = gathered.ts_us.min(other.ts_us);
    if gathered.action != other.action {
        SEVERAL.clone_into(&mut gathered.action);
    }
    let texts = [
        (&mut gathered.user_id, &other.user_id),
        (&mut gathered.user_email, &other.user_email),
        (&mut gathered.device_session_id, &other.device_session_id),
        (&mut gathered.api_token_id, &other.api_token_id),
        (&mut gathered.grpc_code, &other.grpc_code),
        (&mut gathered.ip_address, &other.ip_address),
        (&mut gathered.user_agent, &other.user_agent),
        (&mut gathered.request_id, &other.request_id),
    ];
    for (text, other) in texts {
        if text != other {
            *text = None;
        }
    }
    gathered.http_status = gathered.http_status.filter(|status| Some(*status) == other.http_status);
    // Of several there is no such thing.
    gathered.latency_ms = None;
}

#[cfg(test)]
mod tests;
