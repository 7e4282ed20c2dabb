//! Forwards requests to HTTP backends, bodies streaming both ways, and records them.

use std::{sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, response::Response};
use gatehouse_chassis::{
    connections::{Peer, Secured},
    telemetry::trace::Trace,
};
use gatehouse_sessions::door::Caller;
use http::{HeaderValue, StatusCode, Uri, Version, request::Parts, uri::PathAndQuery};
use http_body::Body as _;

use super::{
    REQUEST_ID,
    download::{CutsOf, Download, Held},
    errors::Problem,
    forwarded::{Seen, strip_hop, to_backend},
    upload::Upload,
    upstream::Upstream,
};
use crate::{
    admission::{Admission, Place, Room},
    backends::{Answer, Clock},
    closing::Closing,
    commands::to_the_end,
    config::{AUTH_PREFIX, Audit, Auth, Config, Priority, Route, Transfer},
    routing::{End, Makings},
    trail::{Act, Outcome, Trail},
};

/// The routes with their backends.
#[derive(Debug)]
pub(crate) struct Proxy {
    routes: Vec<Option<Arc<Forward>>>,
    auth: Option<Arc<Forward>>,
    closing: Closing,
}

#[derive(Debug)]
struct Forward {
    prefix: String,
    strip_prefix: bool,
    audit: Audit,
    priority: Priority,
    /// An operator took it out of service.
    disabled: bool,
    upstream: Upstream,
    /// What that backend may have to do at once.
    room: Room,
    admission: Admission,
    timeout: Duration,
    transfer: Transfer,
    cuts: CutsOf,
    trail: Trail,
}

impl Proxy {
    /// `end`: what stands behind a backend's number; `is_disabled`: whether the route of that name is.
    pub(crate) fn new(
        config: &Config,
        end: impl Fn(usize) -> Option<End>,
        is_disabled: impl Fn(&str) -> bool,
        Makings { admission, trail, closing, cuts }: &Makings,
    ) -> Self {
        let forward = |route: &Route| {
            let End { backend, room } = end(route.backend)?;
            let Route { strip_prefix, audit, priority, timeout, transfer, .. } = *route;
            let (prefix, upstream) = (route.prefix.clone(), Upstream::new(backend));
            let (disabled, cuts, trail, admission) = (is_disabled(&prefix), cuts.of(&upstream.name), trail.clone(), admission.clone());
            Some(Arc::new(Forward {
                prefix,
                strip_prefix,
                audit,
                priority,
                disabled,
                upstream,
                room,
                admission,
                timeout,
                transfer,
                cuts,
                trail,
            }))
        };
        let routes = config.routes.iter().map(&forward).collect();
        let auth = config.auth.and_then(|Auth { backend, timeout, transfer }| {
            let (prefix, strip_prefix, audit, priority) = (AUTH_PREFIX.to_owned(), false, Audit::BestEffort, Priority::Normal);
            forward(&Route { prefix, backend, strip_prefix, audit, priority, timeout, transfer })
        });
        Self { routes, auth, closing: closing.clone() }
    }

    /// The backend's answer; the auth backend's without a route.
    pub(crate) async fn answer(&self, route: Option<usize>, request: Request, request_id: &str) -> Result<Response, Problem> {
        let forward = match route {
            Some(route) => self.routes.get(route).cloned().flatten().ok_or(Problem::NotFound)?,
            None => self.auth.clone().ok_or(Problem::NoAuth)?,
        };
        if forward.disabled {
            let (caller, problem) = (Caller::of(request.extensions(), request.headers()), Problem::RouteDisabled);
            let act = Act { action_type: "http", action: &forward.prefix, request_id, on: None };
            forward.trail.refuse_http("route_disabled", act, &caller, problem.status());
            return Err(problem);
        }
        let place = forward.admission.enter(forward.priority, Some(&forward.room)).await?;
        let request_id = request_id.to_owned();
        let closing = self.closing.clone();
        to_the_end(self.closing.shutdown(), "forward", async move { forward.answer(request, place, &request_id, &closing).await }).await
    }
}

impl Forward {
    async fn answer(&self, request: Request, mut place: Place, request_id: &str, closing: &Closing) -> Result<Response, Problem> {
        let caller = Caller::of(request.extensions(), request.headers());
        let act = Act { action_type: "http", action: &self.prefix, request_id, on: Some((&*self.upstream.name, "backend")) };
        let _place = self.trail.begin(self.audit, "http", || act.intent(&caller, None)).await?;
        let mut calling = caller.trace.call(&self.upstream.name);
        let answer = tokio::select! {
            answer = place.outside(self.pass_on(request, request_id)) => answer,
            () = closing.last_call() => Err(Problem::ShuttingDown),
        };
        let status = answer.as_ref().map_or_else(|problem| problem.status(), Response::status);
        calling.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            calling.fail();
        }
        drop(calling);
        let record = act.http(&caller, outcome(status), status);
        caller.trace.step("audit").around(self.trail.keep(self.audit, "http", record)).await?;
        answer
    }

    async fn pass_on(&self, request: Request, request_id: &str) -> Result<Response, Problem> {
        let (mut parts, body) = request.into_parts();
        if body.size_hint().lower() > self.transfer.max_body_bytes {
            return Err(Problem::BodyTooLarge);
        }
        let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.0);
        let asked = parts.uri.authority().map(|authority| authority.as_str().to_owned());
        let scheme = if parts.extensions.get::<Secured>().is_some() { "https" } else { "http" };
        let seen = Seen { peer, asked: asked.as_deref(), scheme };
        to_backend(&mut parts.headers, seen, &self.upstream.authority);
        let uri = self.target(&parts)?;
        parts.extensions.remove::<Trace>().unwrap_or_default().inject(&mut parts.headers);
        let (upload, watch) = Upload::new(body, self.transfer);
        let mut request = Request::new(Body::new(upload));
        *request.method_mut() = parts.method;
        *request.uri_mut() = uri;
        // An HTTP/2 request is not told to be one behind; the client would refuse it.
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = parts.headers;
        if let Ok(value) = HeaderValue::from_str(request_id) {
            request.headers_mut().insert(REQUEST_ID, value);
        }
        let clock = Clock::new(watch.progress.clone(), self.timeout, &self.transfer);
        // It has no id that would be used up: whoever finds none may come again, and waits for nothing.
        let seat = self.admission.seat(self.priority, &self.room, Duration::ZERO).await?;
        let answer = self.upstream.request(request, &clock).await.map_err(|problem| watch.fault().unwrap_or(problem))?;
        let (mut parts, Answer { body, ending }) = answer.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked it to.
            return Err(Problem::BadGateway);
        }
        strip_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        let body = Download::new(body, self.transfer, watch, self.cuts.clone(), Held { ending, seat });
        Ok(Response::from_parts(parts, Body::new(body)))
    }

    fn target(&self, parts: &Parts) -> Result<Uri, Problem> {
        let path = parts.uri.path();
        let path = if self.strip_prefix { path.strip_prefix(self.prefix.trim_end_matches('/')).unwrap_or(path) } else { path };
        let path = if path.is_empty() { "/" } else { path };
        let path: PathAndQuery = match parts.uri.query() {
            Some(query) => format!("{path}?{query}").parse(),
            None => path.parse(),
        }
        .map_err(|_| Problem::BadRequest("the target cannot be read"))?;
        let uri = Uri::builder().scheme("http").authority(&*self.upstream.authority).path_and_query(path).build();
        uri.map_err(|_| Problem::BadRequest("the target cannot be read"))
    }
}

fn outcome(status: StatusCode) -> Outcome {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Outcome::DeniedBehind,
        status if status.is_client_error() || status.is_server_error() => Outcome::Error,
        _ => Outcome::Success,
    }
}
