//! An HTTP request, passed on with its body still to come: the wait for the head of the answer.
//!
//! It goes to another endpoint when nobody has seen it, as long as nothing of its body was taken; what a client sends is not kept for a second time.

pub(crate) mod clock;
mod lent;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header, request::Parts};
use hyper::body::Incoming;

use super::{
    backend::Backend,
    circuit::{Ticket, Verdict},
    endpoint::{Endpoint, Transport},
    fault::{Fault, Outcome},
    load::InFlight,
};
use clock::{Clock, Late};
use lent::Lender;

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// The backend cannot be reached, broke off, or is not to be tried now.
    Unavailable,
    /// It took too long.
    TimedOut,
    /// The client stopped sending.
    ClientStalled,
}

impl Backend {
    /// The head of the backend's answer, for which `clock` says how long it may take, and whose fault it is if it takes longer.
    pub(crate) async fn forward(self: &Arc<Self>, request: Request<Body>, clock: &Clock) -> Result<Response<Answer>, Unanswered> {
        let permit = self.admit().ok_or(Unanswered::Unavailable)?;
        let ticket = permit.ticket();
        let (parts, body) = request.into_parts();
        let mut answer = self.pass_on(&parts, &Lender::new(body), clock).await;
        let (verdict, outcome) = match &answer {
            Ok(answer) => (of_status(answer.status()), Outcome::Answered),
            Err(Unanswered::Unavailable) => (Verdict::Failure, Outcome::Unavailable),
            Err(Unanswered::TimedOut) => (Verdict::Failure, Outcome::TimedOut),
            Err(Unanswered::ClientStalled) => (Verdict::Nothing, Outcome::Abandoned),
        };
        self.settle(permit, verdict);
        self.counters.count(outcome);
        if let Ok(answer) = &mut answer
            && verdict == Verdict::Success
        {
            answer.body_mut().ending.ticket = Some(ticket);
        }
        answer
    }

    async fn pass_on(self: &Arc<Self>, parts: &Parts, body: &Lender, clock: &Clock) -> Result<Response<Answer>, Unanswered> {
        let mut tried = Vec::new();
        loop {
            let i = self.choose(&tried);
            let endpoint = &self.endpoints[i];
            tried.push(i);
            let (begun, in_flight) = (std::time::Instant::now(), endpoint.load.begin());
            let answer = wait(endpoint, parts, body, clock).await;
            let now = std::time::Instant::now();
            match answer {
                Ok(answer) => {
                    endpoint.load.observe(now - begun, now);
                    let verdict = of_status(answer.status());
                    if verdict == Verdict::Failure {
                        self.note(endpoint, verdict);
                    }
                    let (backend, endpoint) = (Arc::clone(self), Arc::clone(endpoint));
                    let ending = Ending { backend, endpoint, ticket: None, _in_flight: in_flight };
                    return Ok(answer.map(|body| Answer { body, ending }));
                }
                Err(Waited::ClientStalled) => return Err(Unanswered::ClientStalled),
                Err(Waited::TimedOut) => {
                    endpoint.load.observe(now - begun, now);
                    self.note(endpoint, Verdict::Failure);
                    return Err(Unanswered::TimedOut);
                }
                // What the client did to its body is not the backend's fault.
                Err(Waited::Failed(_)) if body.has_failed() => return Err(Unanswered::ClientStalled),
                Err(Waited::Failed(fault)) => {
                    self.note(endpoint, fault.verdict());
                    if !fault.is_untouched() || body.is_taken() || tried.len() >= self.endpoints.len() {
                        return Err(Unanswered::Unavailable);
                    }
                    self.counters.untouched.inc();
                }
            }
        }
    }
}

enum Waited {
    Failed(Fault),
    TimedOut,
    ClientStalled,
}

async fn wait(endpoint: &Endpoint, parts: &Parts, body: &Lender, clock: &Clock) -> Result<Response<Incoming>, Waited> {
    let Transport::Http(client) = &endpoint.transport else { return Err(Waited::Failed(Fault::Unreached)) };
    let mut request = Request::new(Body::new(body.lend()));
    *request.method_mut() = parts.method.clone();
    // Such a target has a path always.
    *request.uri_mut() = parts.uri.path_and_query().map(|path| endpoint.uri(path)).unwrap_or_default();
    // An HTTP/2 request is not told to be one behind; the client would refuse it.
    *request.version_mut() = http::Version::HTTP_11;
    *request.headers_mut() = parts.headers.clone();
    if let Ok(host) = HeaderValue::from_str(endpoint.address.authority()) {
        request.headers_mut().insert(header::HOST, host);
    }
    match clock.head(client.request(request)).await {
        Ok(answer) => answer.map_err(Waited::Failed),
        Err(Late::Client) => Err(Waited::ClientStalled),
        Err(Late::Backend) => Err(Waited::TimedOut),
    }
}

/// What stands between us and a backend answers so for it; other errors are the backend's own.
fn of_status(status: StatusCode) -> Verdict {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Verdict::Failure,
        _ => Verdict::Success,
    }
}

/// The body of an answer, and what is said of the backend when it is over.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Incoming,
    pub(crate) ending: Ending,
}

/// The end of an answer whose head has come. Until it is dropped its endpoint is busy. Unless the backend fails before, it was a success, also when its client leaves.
#[derive(Debug)]
pub(crate) struct Ending {
    backend: Arc<Backend>,
    endpoint: Arc<Endpoint>,
    /// Of the request, as long as it counts as a success.
    ticket: Option<Ticket>,
    _in_flight: InFlight,
}

impl Ending {
    /// The backend broke its answer off, or went silent in it. A request counts as one failure at the most.
    pub(crate) fn failed(mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.backend.take_back(ticket);
            self.backend.note(&self.endpoint, Verdict::Failure);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if self.ticket.is_some() {
            self.backend.note(&self.endpoint, Verdict::Success);
        }
    }
}
