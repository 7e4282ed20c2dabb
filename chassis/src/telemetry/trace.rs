//! Traces: who called whom, and how long each took. W3C trace context comes in and goes out; spans of ours go to a collector when `[tracing]` names one.
//!
//! ```text
//! traceparent ─▶ Tracer::begin ─▶ Trace ─┬─▶ outgoing traceparent
//!                                        └─▶ Span (dropped) ─▶ bounded queue ─▶ exporter ─▶ collector (OTLP)
//! ```
//!
//! Nobody who serves a request waits for a collector: a span that finds the queue full is dropped and counted. Without a collector a trace passes
//! through as it came, and no span is made.

mod collector;
mod context;
mod export;
mod otlp;
mod sampler;
mod span;

use std::sync::{Arc, OnceLock};

use http::HeaderMap;

use crate::Process;
pub use context::Context;
use context::{new_span_id, state};
use export::Feed;
use sampler::Sampler;
pub use span::{Span, Value};

/// Begins traces; one for the process, clones share it.
#[derive(Clone, Debug)]
pub struct Tracer(Option<Arc<Recording>>);

#[derive(Debug)]
struct Recording {
    feed: Feed,
    sampler: Sampler,
}

impl Tracer {
    /// As `[tracing]` says, with an exporter that ends, with what it has, when the last clone and the last trace are dropped.
    #[must_use]
    pub fn open(process: &Process) -> Self {
        let config = &process.shared().tracing;
        let recording = |collector| Recording { feed: export::start(process, collector, config), sampler: Sampler::new(config) };
        Self(config.collector.as_ref().map(|collector| Arc::new(recording(collector))))
    }

    /// What a request brought: `traceparent` from its envelope, if that has one, else from its headers, where `tracestate` is as well. A malformed one is replaced
    /// by a trace that begins here.
    #[must_use]
    pub fn begin(&self, envelope: &str, headers: &HeaderMap) -> Trace {
        let mut in_headers = headers.get_all("traceparent").iter();
        let header = in_headers.next();
        let (brought, believed) = if envelope.is_empty() {
            // Two of them contradict each other.
            let alone = header.filter(|_| in_headers.next().is_none()).and_then(|header| header.to_str().ok());
            (header.is_some(), alone.and_then(Context::parse))
        } else {
            (true, Context::parse(envelope))
        };
        // The list belongs to the parent that stands beside it.
        let beside = envelope.is_empty() || header.is_some_and(|header| header.as_bytes() == envelope.as_bytes());
        let state = believed.filter(|_| beside).and_then(|_| state(headers.get_all("tracestate").iter().map(http::HeaderValue::as_bytes)));
        let standing = match (&self.0, believed) {
            (None, None) if !brought => None,
            // Who records nothing passes it on as it is.
            (None, given) => {
                let context = given.unwrap_or_else(|| Context::begin(false));
                Some(Standing { context, parent: None, outgoing: context.span_id, state, feed: None })
            }
            (Some(recording), given) => Some(recording.standing(given, state)),
        };
        Trace(Some(Arc::new(Inner { standing, asked: OnceLock::new() })))
    }
}

impl Recording {
    /// The parent decides whether a trace is recorded, and where there is none the sampler; in both cases no more than so many a second, for anybody may be a parent.
    fn standing(&self, parent: Option<Context>, state: Option<String>) -> Standing {
        let context = parent.map_or_else(|| self.sampler.begin(), |parent| parent.at(new_span_id()));
        let is_recorded = context.is_sampled() && (parent.is_none() || self.sampler.admits());
        let feed = is_recorded.then(|| self.feed.clone());
        let outgoing = if feed.is_some() { new_span_id() } else { context.span_id };
        Standing { context, parent: parent.map(|parent| parent.span_id), outgoing, state, feed }
    }
}

/// The trace of one request, and what is noted of it on the way; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    standing: Option<Standing>,
    asked: OnceLock<String>,
}

#[derive(Debug)]
struct Standing {
    /// At the span of this process.
    context: Context,
    parent: Option<[u8; 8]>,
    /// The span of the call to whoever is asked on behalf of this request.
    outgoing: [u8; 8],
    state: Option<String>,
    /// Where spans go, if the trace is recorded here.
    feed: Option<Feed>,
}

impl Trace {
    /// The trace's id as 32 digits, where there is a trace.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        self.standing().map(|standing| standing.context.trace_id())
    }

    /// `traceparent` for whoever is asked on behalf of this request.
    #[must_use]
    pub fn outgoing(&self) -> Option<String> {
        self.standing().map(|standing| standing.context.at(standing.outgoing).to_string())
    }

    /// `tracestate` to go with it.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.standing()?.state.as_deref()
    }

    /// Puts both into the head of a request, in the place of what is there.
    pub fn inject(&self, headers: &mut HeaderMap) {
        for (name, value) in [("traceparent", self.outgoing()), ("tracestate", self.state().map(str::to_owned))] {
            headers.remove(name);
            if let Some(value) = value.and_then(|value| http::HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        }
    }

    /// The whole of the request, as this process served it. At most one for each trace.
    pub fn serve(&self, name: &str) -> Span {
        self.span(|standing| (standing.parent, standing.context.span_id), span::Kind::Server, name)
    }

    /// A part of the work.
    pub fn step(&self, name: &'static str) -> Span {
        self.span(|standing| (Some(standing.context.span_id), new_span_id()), span::Kind::Internal, name)
    }

    /// The call to whoever is asked; [`Trace::asked`] tells who it was. At most one for each trace.
    pub fn call(&self, backend: &str) -> Span {
        // The first is the one that the request was for.
        let _noted = self.0.as_ref().map(|inner| inner.asked.set(backend.to_owned()));
        let mut span = self.span(|standing| (Some(standing.context.span_id), standing.outgoing), span::Kind::Client, "downstream");
        span.set("gatehouse.backend", backend);
        span
    }

    /// Who was asked on behalf of this request.
    #[must_use]
    pub fn asked(&self) -> Option<&str> {
        self.0.as_ref()?.asked.get().map(String::as_str)
    }

    fn standing(&self) -> Option<&Standing> {
        self.0.as_ref()?.standing.as_ref()
    }

    fn span(&self, ids: impl FnOnce(&Standing) -> (Option<[u8; 8]>, [u8; 8]), kind: span::Kind, name: &str) -> Span {
        let recorded = self.standing().and_then(|standing| Some((standing, standing.feed.as_ref()?)));
        let Some((standing, feed)) = recorded else { return Span::default() };
        let (parent, id) = ids(standing);
        let state = standing.state.clone().unwrap_or_default();
        Span::begin(feed.clone(), standing.context.at(id), parent, state, kind, name)
    }
}

#[cfg(test)]
mod tests;
