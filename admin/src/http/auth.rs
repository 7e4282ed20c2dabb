//! Who has a token may go on, and is known from there on.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use gatehouse_chassis::connections::Peer;

use super::{problem::Problem, request_id::RequestId};
use crate::{operations::Actor, tokens::Tokens};

const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"gatehouse\"");

pub(super) async fn require(State(tokens): State<Tokens>, mut request: Request, next: Next) -> Response {
    let Some(token) = bearer(request.headers()).and_then(|presented| tokens.find(presented)) else {
        let refused = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "a valid API token is required: Authorization: Bearer …");
        return ([(header::WWW_AUTHENTICATE, CHALLENGE)], refused).into_response();
    };
    let extensions = request.extensions();
    let actor = Actor {
        api_token_id: Some(token.id.clone()),
        ip_address: extensions.get::<Peer>().and_then(|peer| peer.0).map(|peer| peer.ip().to_canonical().to_string()),
        user_agent: request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).map(str::to_owned),
        request_id: extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default(),
        by_http: true,
    };
    request.extensions_mut().insert(actor);
    next.run(request).await
}

/// RFC 6750 §2.1; the scheme's name has no case (RFC 9110 §11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
