//! What a child printed, line by line.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::{Arc, Mutex},
    thread,
};

use crate::wait;

/// Lines as they come; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Collects until the other end is closed.
    pub fn collect(from: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = lines.clone();
        thread::spawn(move || {
            let mut reader = BufReader::new(from);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                shared.0.lock().unwrap().push(text);
                line.clear();
            }
        });
        lines
    }

    /// All so far.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// All so far as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// The first line that holds all of `parts`, once there is one.
    pub async fn with(&self, parts: &[&str]) -> String {
        let found = async || self.all().into_iter().find(|line| parts.iter().all(|part| line.contains(part)));
        wait::eventually(&format!("a line with {parts:?}"), found).await
    }
}
