//! Pulls values out of a [`Source`], keeping every problem with its place.

mod key;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Source,
    document::{self, Node, Table},
};
pub use key::Key;

/// Every section of the file, whoever owns it: a misspelled section is refused by all.
const SECTIONS: [&str; 24] = [
    "suite",
    "listen",
    "connections",
    "tls",
    "redis",
    "database",
    "shutdown",
    "log",
    "sentry",
    "supervisor",
    "signer",
    "sessions",
    "limits",
    "limit",
    "push",
    "auditor",
    "spool",
    "auth",
    "overload",
    "backend",
    "command",
    "route",
    "http",
    "tracing",
];

/// Sections inside a section, `[limits.edge]`: who reads the outer one does not own them.
const SUBSECTIONS: [(&str, [&str; 5]); 1] = [("limits", ["redis", "auditor", "pusher", "edge", "admin"])];

/// Variables that once were accepted. Set at all, even to nothing, they stop the start.
const REFUSED: [(&str, &str); 2] = [
    ("GATEWAY_REDIS_TLS_ENABLED", "no longer accepted: connections to Redis never use TLS; unset it"),
    ("GATEWAY_REDIS_USERNAME", "no longer accepted: Redis is used with a password alone; unset it"),
];

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// `gateway.toml:12: redis.db`, or the name of a variable.
    pub place: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Reads sections; see the module's head.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    root: Table,
    env: BTreeMap<String, String>,
    problems: Vec<Problem>,
    is_toml: bool,
}

impl Reader {
    /// Parses the file. What is not TOML is a problem like any other.
    #[must_use]
    pub fn new(source: Source) -> Self {
        let mut reader = Self { path: source.path, root: Table::default(), env: source.env, problems: Vec::new(), is_toml: true };
        match document::parse(&source.text) {
            Ok(root) => reader.root = root,
            Err((line, why)) => {
                reader.is_toml = false;
                let place = format!("{}:{line}", reader.path.display());
                reader.problem(place, why);
            }
        }
        for (name, why) in REFUSED {
            if reader.env.contains_key(name) {
                reader.problem(name, why);
            }
        }
        let unknown: Vec<_> = reader.root.entries.iter().filter(|(name, _)| !SECTIONS.contains(&name.as_str())).collect();
        let unknown: Vec<_> =
            unknown.into_iter().map(|(name, node)| (reader.place(node.line(), name), unknown_key("section", name, &SECTIONS))).collect();
        for (place, message) in unknown {
            reader.problem(place, message);
        }
        reader.lift_subsections();
        reader
    }

    /// `[limits.edge]` becomes the section `limits.edge`.
    fn lift_subsections(&mut self) {
        for (outer, names) in SUBSECTIONS {
            let Some(Node::Table(table)) = self.root.entries.get_mut(outer) else { continue };
            let lifted: Vec<_> = names.iter().filter_map(|name| Some((format!("{outer}.{name}"), table.entries.remove(*name)?))).collect();
            self.root.entries.extend(lifted);
        }
    }

    /// Whether the file could be parsed at all. Who needs a single value from a file that others check goes on despite other problems, but not
    /// without the file.
    #[must_use]
    pub const fn is_toml(&self) -> bool {
        self.is_toml
    }

    /// The file, as the operator named it, or the default one.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a problem.
    pub fn problem(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { place: place.into(), message: message.into() });
    }

    /// Opens `[name]`; an absent section is an empty one. Call [`Section::finish`] when every key was asked for.
    pub fn section(&mut self, name: &'static str) -> Section<'_> {
        let table = match self.root.entries.remove(name) {
            None => Table::default(),
            Some(Node::Table(table)) => table,
            Some(other) => {
                let place = self.place(other.line(), name);
                self.problem(place, format!("is a section: write [{name}]"));
                Table::default()
            }
        };
        Section { reader: self, name: name.to_owned(), table, asked: Vec::new() }
    }

    /// Opens each `[[name]]` in turn. Sections are named by their place: `command[2]`.
    pub fn each<T>(&mut self, name: &'static str, mut read: impl FnMut(&mut Section<'_>) -> Option<T>) -> Vec<T> {
        let tables = match self.root.entries.remove(name) {
            None => Vec::new(),
            Some(Node::Tables(tables)) => tables,
            Some(other) => {
                let place = self.place(other.line(), name);
                self.problem(place, format!("is a list of sections: write [[{name}]]"));
                Vec::new()
            }
        };
        let mut values = Vec::new();
        for (i, table) in tables.into_iter().enumerate() {
            let mut section = Section { reader: self, name: format!("{name}[{}]", i + 1), table, asked: Vec::new() };
            values.extend(read(&mut section));
            section.finish();
        }
        values
    }

    /// Everything that was wrong, in a stable order; empty is good.
    #[must_use]
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems.dedup();
        self.problems
    }

    fn place(&self, line: usize, path: &str) -> String {
        match line {
            // The section is not in the file at all.
            0 => format!("{}: {path}", self.path.display()),
            line => format!("{}:{line}: {path}", self.path.display()),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// One section being read.
#[derive(Debug)]
pub struct Section<'a> {
    reader: &'a mut Reader,
    name: String,
    table: Table,
    asked: Vec<&'static str>,
}

impl<'a> Section<'a> {
    /// Asks for a key; what kind of value it is says the call that follows.
    pub fn key<'s>(&'s mut self, name: &'static str) -> Key<'s, 'a> {
        self.asked.push(name);
        Key::new(self, name)
    }

    /// Opens `[this.name]`; an absent one is empty. Call [`Section::finish`] on it, too.
    pub fn section<'s>(&'s mut self, name: &'static str) -> Section<'s> {
        self.asked.push(name);
        let path = format!("{}.{name}", self.name);
        let table = match self.table.entries.remove(name) {
            None => Table::default(),
            Some(Node::Table(table)) => table,
            Some(other) => {
                let place = self.reader.place(other.line(), &path);
                self.reader.problem(place, format!("is a section: write [{path}]"));
                Table::default()
            }
        };
        Section { reader: &mut *self.reader, name: path, table, asked: Vec::new() }
    }

    /// Whether it stands in the file, be it without any key.
    #[must_use]
    pub fn is_present(&self) -> bool {
        self.table.line != 0
    }

    /// Notes a problem with a key that was read, at its place in the file, for checks that span keys.
    pub fn problem(&mut self, key: &str, message: impl Into<String>) {
        let line = self.table.entries.get(key).map_or(self.table.line, Node::line);
        let place = self.reader.place(line, &format!("{}.{key}", self.name));
        self.reader.problem(place, message);
    }

    /// Refuses every key that nobody asked for.
    pub fn finish(self) {
        let Self { reader, name, table, asked } = self;
        for (key, node) in &table.entries {
            if !asked.contains(&key.as_str()) {
                let place = reader.place(node.line(), &format!("{name}.{key}"));
                let inner = SUBSECTIONS.iter().filter(|(outer, _)| *outer == name).flat_map(|(_, names)| names);
                let known: Vec<_> = asked.iter().chain(inner).copied().collect();
                reader.problem(place, unknown_key("key", key, &known));
            }
        }
    }
}

/// Says that a name is unknown, with the nearest one that is known, or all of them.
#[must_use]
pub fn unknown_key(kind: &str, name: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate)).min();
    match nearest {
        Some((distance, candidate)) if distance <= name.len().max(3) / 2 => format!("unknown {kind}; did you mean `{candidate}`?"),
        _ => format!("unknown {kind}; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests;
