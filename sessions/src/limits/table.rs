//! The buckets of one limit: so many keys and no more.
//!
//! A bucket that is full again is as good as none, and forgotten when the hand comes by that goes round the slots, a few at each newcomer and more by a timer. When every
//! bucket is in use and none may be added, further keys share one: they are limited together, rather than not at all.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// Slots that the hand looks at for each newcomer, and for one that finds no place.
const AT_EACH: usize = 2;
const AT_A_FULL_TABLE: usize = 16;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Table {
    capacity: usize,
    places: HashMap<Arc<str>, usize>,
    slots: Vec<Slot>,
    hand: usize,
    rest: Bucket,
    /// Whose admissions others have not been told of, in the order in which they are to be.
    due: VecDeque<Key>,
}

/// A key of the table; none is that of the bucket that the rest share.
pub(super) type Key = Option<Arc<str>>;

#[derive(Debug)]
struct Slot {
    key: Arc<str>,
    bucket: Bucket,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    full_at: u64,
    /// Tokens that were taken and that others have not been told of.
    untold: u32,
    is_due: bool,
    /// They are being told.
    is_told: bool,
}

/// Where a key's bucket is, until the table is used otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A bucket of its own.
    Own(usize),
    /// The bucket that the rest share.
    Rest,
}

/// What others are to be told of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) tokens: u32,
    pub(super) full_at: u64,
}

impl Table {
    pub(super) fn new(capacity: usize) -> Self {
        let (places, slots, due) = (HashMap::new(), Vec::new(), VecDeque::new());
        Self { capacity, places, slots, hand: 0, rest: Bucket::default(), due }
    }

    /// How many keys have a bucket of their own.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The key's bucket, which is made if it is new and there is room.
    pub(super) fn find(&mut self, key: &str, now: u64) -> Place {
        if let Some(&at) = self.places.get(key) {
            return Place::Own(at);
        }
        self.forget(now, if self.slots.len() < self.capacity { AT_EACH } else { AT_A_FULL_TABLE });
        if self.slots.len() >= self.capacity {
            return Place::Rest;
        }
        let (key, at) = (Arc::<str>::from(key), self.slots.len());
        self.places.insert(Arc::clone(&key), at);
        self.slots.push(Slot { key, bucket: Bucket::default() });
        Place::Own(at)
    }

    /// When that bucket will be full.
    pub(super) fn full_at(&self, place: Place) -> u64 {
        match place {
            Place::Own(at) => self.slots[at].bucket.full_at,
            Place::Rest => self.rest.full_at,
        }
    }

    /// A token was taken. Others are told how many when `tokens` says so, and when the bucket will be full in any case, if they are told at all.
    pub(super) fn admit(&mut self, place: Place, full_at: u64, tell: Option<u32>) {
        let (bucket, key) = match place {
            Place::Own(at) => {
                let Slot { key, bucket } = &mut self.slots[at];
                (bucket, Some(&*key))
            }
            Place::Rest => (&mut self.rest, None),
        };
        bucket.full_at = full_at;
        let Some(tokens) = tell else { return };
        bucket.untold = bucket.untold.saturating_add(tokens);
        if !std::mem::replace(&mut bucket.is_due, true) {
            self.due.push_back(key.cloned());
        }
    }

    /// The next keys that others are to be told of, those that have waited longest. They stay until [`Table::learn`] or [`Table::untold`].
    pub(super) fn take_due(&mut self, most: usize) -> Vec<Due> {
        let keys: Vec<_> = self.due.drain(..most.min(self.due.len())).collect();
        let told = |key: Key| {
            let bucket = self.bucket_mut(&key)?;
            (bucket.is_due, bucket.is_told) = (false, true);
            let (tokens, full_at) = (std::mem::take(&mut bucket.untold), bucket.full_at);
            Some(Due { key, tokens, full_at })
        };
        keys.into_iter().filter_map(told).collect()
    }

    /// Others were told, and this is when they all think that the bucket will be full; `interval` for each token that was taken meanwhile.
    pub(super) fn learn(&mut self, key: &Key, full_at: u64, tokens: impl FnOnce(u64) -> u64) {
        let Some(bucket) = self.bucket_mut(key) else { return };
        bucket.is_told = false;
        bucket.full_at = bucket.full_at.max(full_at.saturating_add(tokens(u64::from(bucket.untold))));
    }

    /// Others may not have heard of these; they are next. How many tokens it was, nobody knows any more, but when the bucket will be full stands.
    pub(super) fn untold(&mut self, dues: Vec<Due>) {
        for Due { key, .. } in dues.into_iter().rev() {
            let Some(bucket) = self.bucket_mut(&key) else { continue };
            bucket.is_told = false;
            if !std::mem::replace(&mut bucket.is_due, true) {
                self.due.push_front(key);
            }
        }
    }

    /// Looks at some slots and forgets the keys whose buckets are full.
    pub(super) fn forget(&mut self, now: u64, most: usize) {
        for _ in 0..most.min(self.slots.len()) {
            if self.hand >= self.slots.len() {
                self.hand = 0;
            }
            let Some(slot) = self.slots.get(self.hand) else { return };
            if slot.bucket.is_idle(now) { self.remove(self.hand) } else { self.hand += 1 }
        }
    }

    /// Gives memory back after a flood of keys.
    pub(super) fn shrink(&mut self) {
        if self.slots.len() < self.slots.capacity() / 4 {
            let room = self.slots.len() * 2;
            self.slots.shrink_to(room);
            self.places.shrink_to(room);
            self.due.shrink_to(room);
        }
    }

    fn remove(&mut self, at: usize) {
        let gone = self.slots.swap_remove(at);
        self.places.remove(&gone.key);
        if let Some(place) = self.slots.get(at).and_then(|moved| self.places.get_mut(&moved.key)) {
            *place = at;
        }
    }

    fn bucket_mut(&mut self, key: &Key) -> Option<&mut Bucket> {
        match key {
            Some(key) => Some(&mut self.slots.get_mut(*self.places.get(key)?)?.bucket),
            None => Some(&mut self.rest),
        }
    }
}

impl Bucket {
    const fn is_idle(&self, now: u64) -> bool {
        self.full_at <= now && !self.is_due && !self.is_told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(table: &mut Table, key: &str, now: u64, full_at: u64, tell: Option<u32>) -> Place {
        let place = table.find(key, now);
        table.admit(place, full_at, tell);
        place
    }

    fn keys(dues: &[Due]) -> Vec<&str> {
        dues.iter().map(|due| due.key.as_deref().unwrap_or("the rest")).collect()
    }

    #[test]
    fn keys_beyond_the_cap_share_one_bucket_until_others_are_idle() {
        let mut table = Table::new(2);
        admit(&mut table, "a", 0, 10, None);
        admit(&mut table, "b", 0, 20, None);
        assert_eq!(admit(&mut table, "c", 0, 30, None), Place::Rest);
        let shared = table.find("d", 0);
        assert_eq!((shared, table.full_at(shared)), (Place::Rest, 30), "the same as c's");
        assert_eq!(table.len(), 2);
        let own = table.find("d", 10);
        assert_eq!((own, table.full_at(own)), (Place::Own(1), 0), "a is full again and makes room");
        let b = table.find("b", 10);
        assert_eq!(table.full_at(b), 20, "who was moved is found");
    }

    #[test]
    fn idle_keys_are_forgotten_wherever_they_stand() {
        let mut table = Table::new(1000);
        for i in 0..100_u64 {
            admit(&mut table, &i.to_string(), 0, 50 + i % 3, None);
        }
        // Twice, for the hand does not begin at the first.
        (0..2).for_each(|_| table.forget(50, 100));
        assert_eq!(table.len(), 66);
        for i in (0..100_u64).filter(|i| i % 3 != 0) {
            let place = table.find(&i.to_string(), 50);
            assert_eq!(table.full_at(place), 50 + i % 3);
        }
        (0..2).for_each(|_| table.forget(52, 1000));
        assert_eq!((table.len(), table.places.len()), (0, 0));
        table.shrink();
        assert!(table.slots.capacity() < 100);
    }

    #[test]
    fn keys_are_told_of_in_turn_and_none_is_told_twice() {
        let mut table = Table::new(2);
        for (key, times) in [("a", 3), ("b", 1), ("c", 2)] {
            for _ in 0..times {
                admit(&mut table, key, 0, 10, Some(1));
            }
        }
        let first = table.take_due(2);
        assert_eq!((keys(&first), first[0].tokens, first[1].tokens), (vec!["a", "b"], 3, 1));
        admit(&mut table, "a", 0, 11, Some(1));
        let second = table.take_due(10);
        assert_eq!((keys(&second), second[0].tokens, second[1].tokens), (vec!["the rest", "a"], 2, 1), "behind those that wait");
        assert_eq!(table.take_due(10), []);
    }

    #[test]
    fn what_others_know_counts_with_what_was_taken_meanwhile() {
        let mut table = Table::new(2);
        admit(&mut table, "a", 0, 10, Some(1));
        table.take_due(1);
        admit(&mut table, "a", 0, 20, Some(1));
        table.learn(&Some(Arc::from("a")), 100, |tokens| tokens * 10);
        let place = table.find("a", 0);
        assert_eq!(table.full_at(place), 110);
        table.learn(&Some(Arc::from("a")), 5, |tokens| tokens * 10);
        assert_eq!(table.full_at(place), 110, "what is known is not unlearnt");
    }

    #[test]
    fn a_key_is_kept_while_others_are_being_told() {
        let mut table = Table::new(2);
        admit(&mut table, "a", 0, 10, Some(1));
        let dues = table.take_due(1);
        table.forget(100, 10);
        assert_eq!(table.len(), 1, "the answer may say that others used it up");
        table.untold(dues);
        table.forget(100, 10);
        assert_eq!(table.len(), 1);
        let again = table.take_due(1);
        assert_eq!((keys(&again), again[0].tokens, again[0].full_at), (vec!["a"], 0, 10), "once more, without a count");
        table.learn(&Some(Arc::from("a")), 0, |_| 0);
        table.forget(100, 10);
        assert_eq!(table.len(), 0);
    }
}
