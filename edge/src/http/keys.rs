//! `GET /api/v1/public/keys`: what verifies that which this gateway signs and signed.

use axum::{body::Body, response::Response};
use gatehouse_chassis::keys::Ring;
use gatehouse_proto::keys::{hex, sha256};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

/// How long whoever asked may go without asking again. A key is published twice as long before it signs (`[signer] publication_delay`).
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=60");

/// All published keys, unless the client has them.
pub(super) fn answer(ring: &Ring, asked: &HeaderMap) -> Response {
    let keys = ring.published().iter().map(|key| json!({"key_id": key.key_id, "public_key": key.public_key, "active": key.active}));
    let body = json!({"keys": keys.collect::<Vec<_>>()}).to_string();
    let tag = format!("\"{}\"", hex(&sha256(body.as_bytes())[..8]));
    let known = asked.get_all(header::IF_NONE_MATCH).iter().any(|tags| matches(tags, &tag));
    let mut response = Response::new(if known { Body::empty() } else { Body::from(body) });
    *response.status_mut() = if known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, CACHE_CONTROL);
    headers.extend(HeaderValue::from_str(&tag).map(|tag| (header::ETAG, tag)));
    if !known {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}

/// `If-None-Match` (RFC 9110 §13.1.2), compared weakly.
fn matches(tags: &HeaderValue, tag: &str) -> bool {
    let tags = tags.to_str().unwrap_or_default();
    tags.split(',').map(|known| known.trim().trim_start_matches("W/")).any(|known| known == tag || known == "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_found_in_a_list_weak_or_not() {
        for (tags, found) in [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false), ("", false)] {
            assert_eq!(matches(&HeaderValue::from_static(tags), "\"a\""), found, "{tags}");
        }
    }
}
