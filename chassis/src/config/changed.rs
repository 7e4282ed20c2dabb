//! Which sections of the file say something else than before: what a process can take over while it runs is little, and what it cannot must be named.

use super::{
    Source,
    document::{Node, Table, parse},
};

/// The sections that differ, each with the line at which it stands now; 0: it is gone. Comments, order and blank lines are no difference. Of a file that is not
/// TOML nothing can be said.
#[must_use]
pub fn changed_sections(before: &Source, now: &Source) -> Vec<(String, usize)> {
    let (Ok(before), Ok(now)) = (parse(&before.text), parse(&now.text)) else { return Vec::new() };
    let mut names: Vec<_> = before.entries.keys().chain(now.entries.keys()).collect();
    names.sort();
    names.dedup();
    let differs = |name: &&String| match (before.entries.get(*name), now.entries.get(*name)) {
        (Some(before), Some(now)) => !same(before, now),
        (Some(one), None) | (None, Some(one)) => !is_empty(one),
        (None, None) => false,
    };
    let line = |name: &String| now.entries.get(name).map_or(0, Node::line);
    names.into_iter().filter(differs).map(|name| (name.clone(), line(name))).collect()
}

/// A header alone says nothing.
fn is_empty(node: &Node) -> bool {
    matches!(node, Node::Table(table) if table.entries.is_empty())
}

fn same(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (Node::Scalar { text: a, .. }, Node::Scalar { text: b, .. }) => a == b,
        (Node::List { items: a, .. }, Node::List { items: b, .. }) => a == b,
        (Node::Table(a), Node::Table(b)) => same_table(a, b),
        (Node::Tables(a), Node::Tables(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same_table(a, b)),
        _ => false,
    }
}

fn same_table(a: &Table, b: &Table) -> bool {
    a.entries.len() == b.entries.len() && a.entries.iter().all(|(name, a)| b.entries.get(name).is_some_and(|b| same(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_something_else_is_named() {
        let before = "[listen]\nhttp = \":1\"\n[log]\n[redis]\ndb = 1\n[[route]]\nprefix = \"/a\"\n[push]\nx = [1, 2]\n";
        for (now, changed) in [
            (before.to_owned(), vec![]),
            (format!("# a remark\n{}", before.replace("[log]\n", "")), vec![]),
            (before.replace(":1", ":2"), vec![("listen", 1)]),
            (before.replace("db = 1", "db = 1\nkey_prefix = \"k\""), vec![("redis", 4)]),
            (before.replace("[redis]\ndb = 1\n", ""), vec![("redis", 0)]),
            (before.replace("2]", "3]"), vec![("push", 8)]),
            (format!("{before}[[route]]\nprefix = \"/b\"\n"), vec![("route", 6)]),
            (format!("{before}["), vec![]),
        ] {
            let found = changed_sections(&Source::of(before, &[]), &Source::of(&now, &[]));
            let found: Vec<_> = found.iter().map(|(name, line)| (name.as_str(), *line)).collect();
            assert_eq!(found, changed, "{now}");
        }
    }
}
