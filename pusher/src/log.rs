//! The last events in memory, in the order of the stream, indexed by user. Streams read from here: live, behind, and when they resume.
//!
//! Bounded in bytes; the oldest go first. It knows from where on it is complete, so that nobody takes "not here" for "there was none".

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use gatehouse_proto::ids::StreamId;

use crate::entry::Entry;

/// See the module's head.
#[derive(Debug)]
pub struct Log {
    limit: usize,
    bytes: usize,
    order: VecDeque<Arc<Entry>>,
    users: HashMap<String, VecDeque<Arc<Entry>>>,
    complete_after: StreamId,
}

impl Log {
    /// Holds at most `limit` bytes of what comes after `position`.
    #[must_use]
    pub fn new(limit: usize, position: StreamId) -> Self {
        Self { limit, bytes: 0, order: VecDeque::new(), users: HashMap::new(), complete_after: position }
    }

    /// Adds an entry. Ids ascend; one that does not is left out.
    pub fn append(&mut self, entry: Arc<Entry>) {
        if self.order.back().map_or(self.complete_after, |last| last.id) >= entry.id {
            return;
        }
        self.bytes += entry.weight();
        match self.users.get_mut(&entry.event.user_id) {
            Some(entries) => entries.push_back(Arc::clone(&entry)),
            None => {
                self.users.insert(entry.event.user_id.clone(), VecDeque::from([Arc::clone(&entry)]));
            }
        }
        self.order.push_back(entry);
        while self.bytes > self.limit && self.evict() {}
    }

    /// Whether every entry after `cursor` that was ever appended is here.
    #[must_use]
    pub fn covers(&self, cursor: StreamId) -> bool {
        cursor >= self.complete_after
    }

    /// The entries of one user after `cursor`, oldest first.
    pub fn after(&self, user_id: &str, cursor: StreamId) -> impl Iterator<Item = &Arc<Entry>> {
        let entries = self.users.get(user_id);
        let start = entries.map_or(0, |entries| entries.partition_point(|entry| entry.id <= cursor));
        entries.into_iter().flat_map(move |entries| entries.range(start..))
    }

    /// Forgets everything. From `position` on it is complete again.
    pub fn clear(&mut self, position: StreamId) {
        *self = Self::new(self.limit, position);
    }

    /// Entries that are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The memory they take, near enough.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    fn evict(&mut self) -> bool {
        let Some(oldest) = self.order.pop_front() else { return false };
        self.bytes = self.bytes.saturating_sub(oldest.weight());
        self.complete_after = oldest.id;
        // The oldest of all is the oldest of its user.
        let emptied = self.users.get_mut(&oldest.event.user_id).is_some_and(|entries| {
            entries.pop_front();
            entries.is_empty()
        });
        if emptied {
            self.users.remove(&oldest.event.user_id);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::entry::tests::event;

    fn id(ms: u64) -> StreamId {
        StreamId { ms, seq: 0 }
    }

    proptest! {
        #[test]
        fn a_covered_cursor_finds_exactly_what_was_appended_after_it(
            appended in vec((0_u64..3, 0_usize..4, 0_usize..2000), 0..60), limit in 2000_usize..20_000, cursor in 0_u64..130, user in 0_usize..4,
        ) {
            let (mut log, mut model, mut at) = (Log::new(limit, id(5)), Vec::new(), 5);
            for (step, user, payload) in appended {
                at += step;
                let entry = Arc::new(Entry::new(id(at), event(&user.to_string(), None, payload)));
                log.append(Arc::clone(&entry));
                if model.last().is_none_or(|last: &Arc<Entry>| last.id < entry.id) && at > 5 {
                    model.push(entry);
                }
                prop_assert!(log.bytes() <= limit);
            }
            prop_assert_eq!(log.bytes(), log.order.iter().map(|entry| entry.weight()).sum::<usize>());
            prop_assert_eq!(log.len(), log.users.values().map(VecDeque::len).sum::<usize>());
            let found: Vec<_> = log.after(&user.to_string(), id(cursor)).map(|entry| entry.id).collect();
            let wanted: Vec<_> =
                model.iter().filter(|entry| entry.event.user_id == user.to_string() && entry.id > id(cursor)).map(|entry| entry.id).collect();
            if log.covers(id(cursor)) {
                prop_assert_eq!(found, wanted);
            } else {
                prop_assert!(wanted.ends_with(&found));
            }
        }
    }

    #[test]
    fn it_is_complete_from_where_reading_began_and_after_a_wipe_from_there() {
        let mut log = Log::new(1 << 20, id(10));
        log.append(Arc::new(Entry::new(id(11), event("u", None, 1))));
        assert!(log.covers(id(10)) && !log.covers(id(9)));
        log.clear(id(11));
        assert!(log.is_empty() && log.covers(id(11)) && !log.covers(id(10)));
    }

    #[test]
    fn an_entry_larger_than_the_log_leaves_it_empty_and_honest() {
        let mut log = Log::new(1000, id(0));
        log.append(Arc::new(Entry::new(id(1), event("u", None, 5000))));
        assert!(log.is_empty() && log.bytes() == 0 && !log.covers(id(0)) && log.covers(id(1)));
    }
}
