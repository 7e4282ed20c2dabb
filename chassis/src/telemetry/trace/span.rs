//! One part of a trace, recorded when it is dropped, however it came to that. What a client sent is cut to a length that a collector can bear.

use std::{
    future::Future,
    time::{Instant, SystemTime},
};

use super::{context::Context, export::Feed};

/// The longest text of one attribute.
const MAX_TEXT_BYTES: usize = 256;
/// The most attributes of one span.
const MAX_ATTRIBUTES: usize = 16;

/// What it is to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Internal,
    Server,
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// At most 256 bytes.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(cut(text, MAX_TEXT_BYTES).to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// The longest part of a text that fits, between two characters.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

/// What the exporter is given.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) context: Context,
    pub(super) parent: Option<[u8; 8]>,
    pub(super) state: String,
    pub(super) kind: Kind,
    pub(super) name: String,
    pub(super) begun: SystemTime,
    pub(super) ended: SystemTime,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) failed: bool,
}

/// A span that is still open; nothing, where its trace is not recorded.
#[derive(Debug, Default)]
#[must_use]
pub struct Span(Option<Box<Open>>);

#[derive(Debug)]
struct Open {
    record: Record,
    since: Instant,
    feed: Feed,
}

impl Span {
    pub(super) fn begin(feed: Feed, context: Context, parent: Option<[u8; 8]>, state: String, kind: Kind, name: &str) -> Self {
        let begun = SystemTime::now();
        let (name, attributes) = (cut(name, MAX_TEXT_BYTES).to_owned(), Vec::new());
        let record = Record { context, parent, state, kind, name, begun, ended: begun, attributes, failed: false };
        Self(Some(Box::new(Open { record, since: Instant::now(), feed })))
    }

    /// Whether it goes anywhere: what is costly to find out need not be found out otherwise.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Tells one thing of it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(open) = &mut self.0
            && open.record.attributes.len() < MAX_ATTRIBUTES
        {
            open.record.attributes.push((name, value.into()));
        }
    }

    /// It covers what is waited for, and no more.
    pub async fn around<T>(self, work: impl Future<Output = T>) -> T {
        let done = work.await;
        drop(self);
        done
    }

    /// It ends, with a gRPC status.
    pub fn end_with(mut self, code: tonic::Code) {
        self.set("rpc.grpc.status_code", i64::from(i32::from(code)));
        if code != tonic::Code::Ok {
            self.fail();
        }
    }

    /// It did not come out as it was meant to.
    pub fn fail(&mut self) {
        if let Some(open) = &mut self.0 {
            open.record.failed = true;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let Open { mut record, since, feed } = *open;
            // A clock that is set meanwhile does not change how long it took.
            record.ended = record.begun + since.elapsed();
            feed.give(record);
        }
    }
}
