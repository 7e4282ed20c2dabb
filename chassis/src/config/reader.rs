//! Pulls values out of a [`Source`], keeping every problem with its place.

use std::{
    collections::BTreeMap,
    fmt, fs,
    ops::RangeBounds,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{
    Secret, Source,
    document::{self, Node, Table},
};

/// Every section of the file, whoever owns it: a misspelled section is refused by all.
const SECTIONS: [&str; 18] = [
    "suite",
    "listen",
    "redis",
    "database",
    "shutdown",
    "log",
    "sentry",
    "supervisor",
    "signer",
    "sessions",
    "limits",
    "push",
    "auditor",
    "spool",
    "auth",
    "backend",
    "command",
    "route",
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
        Key { section: self, name, variable: None }
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

/// One key being read: `section.key("db").env("GATEWAY_REDIS_DB").or(0)`.
#[derive(Debug)]
pub struct Key<'s, 'a> {
    section: &'s mut Section<'a>,
    name: &'static str,
    variable: Option<&'static str>,
}

impl Key<'_, '_> {
    /// The variable that beats the file. Set to nothing it counts as unset.
    #[must_use]
    pub const fn env(mut self, variable: &'static str) -> Self {
        self.variable = Some(variable);
        self
    }

    /// The value, if there is one and it is right.
    pub fn optional<T: FromStr<Err: fmt::Display>>(mut self) -> Option<T> {
        let (place, text) = self.text()?;
        self.parse(place, &text)
    }

    /// The value, or a default when there is none or it is wrong.
    pub fn or<T: FromStr<Err: fmt::Display>>(self, default: T) -> T {
        self.optional().unwrap_or(default)
    }

    /// The value; a problem when there is none.
    pub fn required<T: FromStr<Err: fmt::Display>>(mut self) -> Option<T> {
        if let Some((place, text)) = self.text() {
            return self.parse(place, &text);
        }
        let (place, message) = self.absence();
        self.section.reader.problem(place, message);
        None
    }

    /// A number within bounds, or a default.
    pub fn within<T>(self, default: T, range: impl RangeBounds<T> + fmt::Debug) -> T
    where
        T: FromStr<Err: fmt::Display> + PartialOrd,
    {
        self.optional_within(range).unwrap_or(default)
    }

    /// A number within bounds, if there is one and it is right.
    pub fn optional_within<T>(mut self, range: impl RangeBounds<T> + fmt::Debug) -> Option<T>
    where
        T: FromStr<Err: fmt::Display> + PartialOrd,
    {
        let (place, text) = self.text()?;
        let value = self.parse::<T>(place.clone(), &text)?;
        if !range.contains(&value) {
            self.section.reader.problem(place, format!("{text} is outside {range:?}"));
            return None;
        }
        Some(value)
    }

    /// A length of time: `500ms`, `5s`, `1m 30s`. Negative ones are refused.
    pub fn duration(mut self, default: Duration) -> Duration {
        let Some((place, text)) = self.text() else { return default };
        let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
        parsed.unwrap_or_else(|| {
            self.section.reader.problem(place, format!("`{text}` is no length of time; write 500ms, 5s or 1m 30s"));
            default
        })
    }

    /// A list: an array in the file, comma-separated in the environment.
    pub fn list<T: FromStr<Err: fmt::Display>>(mut self) -> Vec<T> {
        let (place, items) = match (self.variable_text(), self.section.table.entries.get(self.name)) {
            (Some((place, text)), _) => (place, text.split(',').map(|item| item.trim().to_owned()).collect()),
            (None, Some(Node::List { items, line })) => (self.file_place(*line), items.clone()),
            (None, Some(_)) => {
                let (place, message) = (self.any_place(), "is a list: write [\"…\", \"…\"]");
                self.section.reader.problem(place, message);
                return Vec::new();
            }
            (None, None) => return Vec::new(),
        };
        items.iter().filter(|item| !item.is_empty()).filter_map(|item| self.parse(place.clone(), item)).collect()
    }

    /// A secret: given itself, or as the path of a file (`<key>_file`, `<VARIABLE>_FILE`), or as a systemd credential of the name
    /// `credential`. A trailing newline of a file is not part of it. Never printed.
    pub fn secret(mut self, file_key: &'static str, credential: &str) -> Option<Secret> {
        self.section.asked.push(file_key);
        if let Some((_, text)) = self.text() {
            return Some(Secret::new(text));
        }
        let file_variable = self.variable.map(|name| format!("{name}_FILE"));
        let named = file_variable.and_then(|name| Some((name.clone(), PathBuf::from(self.section.reader.variable(&name)?))));
        let from_file = |entries: &BTreeMap<String, Node>| match entries.get(file_key) {
            Some(Node::Scalar { line, text }) => Some((*line, PathBuf::from(text))),
            _ => None,
        };
        let in_file = from_file(&self.section.table.entries)
            .map(|(line, path)| (self.section.reader.place(line, &format!("{}.{file_key}", self.section.name)), path));
        let passed =
            self.section.reader.variable("CREDENTIALS_DIRECTORY").map(|dir| Path::new(dir).join(credential)).filter(|path| path.exists());
        let (place, path) = named.or(in_file).or_else(|| passed.map(|path| (format!("credential {credential}"), path)))?;
        match fs::read_to_string(&path) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                self.section.reader.problem(place, format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }

    fn variable_text(&self) -> Option<(String, String)> {
        let name = self.variable?;
        self.section.reader.variable(name).map(|value| (name.to_owned(), value.to_owned()))
    }

    fn text(&mut self) -> Option<(String, String)> {
        if let Some(found) = self.variable_text() {
            return Some(found);
        }
        match self.section.table.entries.get(self.name)? {
            Node::Scalar { line, text } => Some((self.file_place(*line), text.clone())),
            other => {
                let place = self.file_place(other.line());
                self.section.reader.problem(place, "is a single value, not a list or a section");
                None
            }
        }
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, place: String, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.section.reader.problem(place, format!("`{text}`: {error}"));
                None
            }
        }
    }

    fn absence(&self) -> (String, String) {
        let key = format!("{}.{}", self.section.name, self.name);
        match self.variable {
            Some(variable) => (variable.to_owned(), format!("is required (in the file: {key})")),
            None => (self.any_place(), "is required".to_owned()),
        }
    }

    fn any_place(&self) -> String {
        let line = self.section.table.entries.get(self.name).map_or(self.section.table.line, Node::line);
        self.file_place(line)
    }

    fn file_place(&self, line: usize) -> String {
        self.section.reader.place(line, &format!("{}.{}", self.section.name, self.name))
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
