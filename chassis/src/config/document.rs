//! The file's values with their lines, copied out of the parsed document.

use std::collections::BTreeMap;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A value with its line. Scalars are kept as text: what they are to be, whoever asks for them says.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Scalar { line: usize, text: String },
    List { line: usize, items: Vec<String> },
    Table(Table),
    Tables(Vec<Table>),
}

/// A section: its keys and where they stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// Where its header stands; 0 when it is not in the file.
    pub(super) line: usize,
    pub(super) entries: BTreeMap<String, Node>,
}

/// The whole file; or the line at which it is not TOML, and why.
pub(super) fn parse(text: &str) -> Result<Table, (usize, String)> {
    match DeTable::parse(text) {
        Ok(document) => Ok(table(text, 0, document.get_ref())),
        Err(error) => Err((error.span().map_or(1, |span| line_at(text, span.start)), error.message().to_owned())),
    }
}

impl Node {
    /// Where it stands.
    pub(super) fn line(&self) -> usize {
        match self {
            Self::Scalar { line, .. } | Self::List { line, .. } => *line,
            Self::Table(table) => table.line,
            Self::Tables(tables) => tables.first().map_or(1, |table| table.line),
        }
    }
}

fn table(text: &str, start: usize, table: &DeTable<'_>) -> Table {
    let entries = table.iter().map(|(key, value)| (key.get_ref().to_string(), node(text, key.span().start, value))).collect();
    Table { line: line_at(text, start), entries }
}

fn node(text: &str, start: usize, value: &Spanned<DeValue<'_>>) -> Node {
    let line = line_at(text, start);
    match value.get_ref() {
        DeValue::Table(inner) => Node::Table(table(text, start, inner)),
        DeValue::Array(items) if !items.is_empty() && items.iter().all(|item| item.get_ref().is_table()) => {
            let tables = items.iter().filter_map(|item| Some(table(text, item.span().start, item.get_ref().as_table()?)));
            Node::Tables(tables.collect())
        }
        DeValue::Array(items) => Node::List { line, items: items.iter().map(|item| scalar(item.get_ref())).collect() },
        value => Node::Scalar { line, text: scalar(value) },
    }
}

fn scalar(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(at) => at.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => String::new(),
    }
}

fn line_at(text: &str, offset: usize) -> usize {
    text.get(..offset).map_or(1, |before| before.matches('\n').count() + 1)
}
