//! One key of a section: what kind of value it is, and what beats it.

use std::{
    collections::BTreeMap,
    fmt, fs,
    ops::RangeBounds,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::Section;
use crate::config::{Secret, document::Node};

/// One key being read: `section.key("db").env("GATEWAY_REDIS_DB").or(0)`.
#[derive(Debug)]
pub struct Key<'s, 'a> {
    section: &'s mut Section<'a>,
    name: &'static str,
    variable: Option<&'static str>,
}

impl<'s, 'a> Key<'s, 'a> {
    pub(super) const fn new(section: &'s mut Section<'a>, name: &'static str) -> Self {
        Self { section, name, variable: None }
    }

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
