//! Forwards requests to HTTP backends, bodies streaming both ways, and records them.

use std::sync::Arc;

use axum::{body::Body, extract::Request, response::Response};
use gatehouse_chassis::connections::Peer;
use gatehouse_sessions::door::Caller;
use http::{HeaderValue, StatusCode, Uri, Version, request::Parts, uri::PathAndQuery};

use super::{
    REQUEST_ID,
    errors::Problem,
    forwarded::{strip_hop, to_backend},
    upstream::Upstream,
};
use crate::{
    backends::Backends,
    closing::Closing,
    commands::to_the_end,
    config::{AUTH_PREFIX, Audit, Backend, Config},
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
    upstream: Upstream,
    trail: Trail,
}

impl Proxy {
    pub(crate) fn new(config: &Config, backends: &Backends, trail: &Trail, closing: Closing) -> Self {
        let upstream = |backend: &Backend| backends.get(&backend.name).map(Upstream::new);
        let upstreams: Vec<_> = config.backends.iter().map(upstream).collect();
        let forward = |backend: usize, prefix: &str, strip_prefix: bool, audit: Audit| {
            let upstream = upstreams.get(backend)?.clone()?;
            Some(Arc::new(Forward { prefix: prefix.to_owned(), strip_prefix, audit, upstream, trail: trail.clone() }))
        };
        let routes = config.routes.iter().map(|route| forward(route.backend, &route.prefix, route.strip_prefix, route.audit)).collect();
        let auth = config.auth.and_then(|backend| forward(backend, AUTH_PREFIX, false, Audit::BestEffort));
        Self { routes, auth, closing }
    }

    /// The backend's answer; the auth backend's without a route.
    pub(crate) async fn answer(&self, route: Option<usize>, request: Request, request_id: &str) -> Result<Response, Problem> {
        let forward = match route {
            Some(route) => self.routes.get(route).cloned().flatten().ok_or(Problem::NotFound)?,
            None => self.auth.clone().ok_or(Problem::NoAuth)?,
        };
        let request_id = request_id.to_owned();
        let closing = self.closing.clone();
        to_the_end(self.closing.shutdown(), "forward", async move { forward.answer(request, &request_id, &closing).await }).await
    }
}

impl Forward {
    async fn answer(&self, request: Request, request_id: &str, closing: &Closing) -> Result<Response, Problem> {
        let caller = Caller::of(request.extensions(), request.headers());
        let act = Act { action_type: "http", action: &self.prefix, request_id, on: Some((&*self.upstream.name, "backend")) };
        let _place = self.trail.begin(self.audit, "http", || act.intent(&caller, None)).await?;
        let answer = tokio::select! {
            answer = self.pass_on(request, request_id) => answer,
            () = closing.last_call() => Err(Problem::ShuttingDown),
        };
        let status = answer.as_ref().map_or_else(|problem| problem.status(), Response::status);
        let record = act.http(&caller, outcome(status), status);
        self.trail.keep(self.audit, "http", record).await?;
        answer
    }

    async fn pass_on(&self, request: Request, request_id: &str) -> Result<Response, Problem> {
        let (mut parts, body) = request.into_parts();
        let peer = parts.extensions.get::<Peer>().and_then(|peer| peer.0);
        let asked = parts.uri.authority().map(|authority| authority.as_str().to_owned());
        to_backend(&mut parts.headers, peer, asked.as_deref(), &self.upstream.authority);
        let uri = self.target(&parts)?;
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = uri;
        // An HTTP/2 request is not told to be one behind; the client would refuse it.
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = parts.headers;
        if let Ok(value) = HeaderValue::from_str(request_id) {
            request.headers_mut().insert(REQUEST_ID, value);
        }
        let (mut parts, body) = self.upstream.request(request).await?.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            // Nobody asked it to.
            return Err(Problem::BadGateway);
        }
        strip_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
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
