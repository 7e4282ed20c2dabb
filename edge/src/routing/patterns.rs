//! Finds what belongs to a name: the entry of that very name, else the one with the longest prefix of it.

use std::collections::HashMap;

/// Exact names, and prefixes by the asterisk at their end.
#[derive(Clone, Debug)]
pub(super) struct Patterns<T> {
    exact: HashMap<String, T>,
    prefixes: HashMap<String, T>,
    /// Of prefixes, the longest first: there are few lengths, however many prefixes there are.
    lengths: Vec<usize>,
}

impl<T> Patterns<T> {
    pub(super) fn new(entries: impl IntoIterator<Item = (String, T)>) -> Self {
        let (mut exact, mut prefixes) = (HashMap::new(), HashMap::new());
        for (pattern, value) in entries {
            match pattern.strip_suffix('*') {
                Some(prefix) => prefixes.insert(prefix.to_owned(), value),
                None => exact.insert(pattern, value),
            };
        }
        let mut lengths: Vec<_> = prefixes.keys().map(String::len).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        lengths.dedup();
        Self { exact, prefixes, lengths }
    }

    pub(super) fn find(&self, name: &str) -> Option<&T> {
        let by_prefix = || self.lengths.iter().find_map(|&length| self.prefixes.get(name.get(..length)?));
        self.exact.get(name).or_else(by_prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exact_beats_prefix_and_the_longest_prefix_wins() {
        let patterns = ["orders.create", "orders.*", "orders.c*", "o*", "é.*", "x*"].map(|pattern| (pattern.to_owned(), pattern));
        let patterns = Patterns::new(patterns);
        for (name, found) in [
            ("orders.create", Some("orders.create")),
            ("orders.created", Some("orders.c*")),
            ("orders.c", Some("orders.c*")),
            ("orders.list", Some("orders.*")),
            ("orders.", Some("orders.*")),
            ("orders", Some("o*")),
            ("é.1", Some("é.*")),
            ("é", None),
            ("xé", Some("x*")),
            ("Orders.create", None),
            ("", None),
            ("*", None),
        ] {
            assert_eq!(patterns.find(name).copied(), found, "{name}");
        }
        assert_eq!(Patterns::new([("*".to_owned(), 1)]).find(""), Some(&1), "an asterisk alone takes all that is left");
        assert_eq!(Patterns::<u8>::new([]).find("a"), None);
    }

    proptest! {
        #[test]
        fn it_finds_what_looking_at_each_would_find(patterns in prop::collection::hash_set("[ab]{0,4}\\*?", 0..12), name in "[ab]{0,6}") {
            let fits = |pattern: &&String| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => **pattern == name,
            };
            let best = patterns.iter().filter(fits).max_by_key(|pattern| (!pattern.ends_with('*'), pattern.len()));
            let table = Patterns::new(patterns.iter().map(|pattern| (pattern.clone(), pattern)));
            prop_assert_eq!(table.find(&name).copied(), best);
        }
    }
}
