//! What must hold of the parsers of heads and addresses, whatever the bytes; called by `fuzz/` and by the test below.
#![allow(clippy::missing_panics_doc, reason = "to panic is how these functions say that something is wrong")]

use std::time::Duration;

use axum::{body::Body, extract::Request};
use http::{HeaderMap, HeaderValue, header};

use crate::{config::Address, gateway::deadline, http::guard};

/// A `grpc-timeout` is a bounded length of time or none.
pub fn grpc_timeout(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let limit = deadline::of(&HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), value)]));
    assert!(limit.is_none_or(|limit| limit <= Duration::from_hours(99_999_999)));
}

/// The head of a request: a target, and a `Host` behind a line feed. What is let through has neither a dot segment nor a control character.
pub fn http_head(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (target, host) = (parts.next().unwrap_or_default(), parts.next());
    let Ok(mut request) = Request::builder().uri(target).body(Body::empty()) else { return };
    if let Some(host) = host.and_then(|host| HeaderValue::from_bytes(host).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    if guard::check(&request).is_ok() {
        let path = request.uri().path();
        assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
        let escaped = path.to_ascii_lowercase();
        assert!(["%00", "%0a", "%0d", "/../", "/%2e%2e/"].iter().all(|bad| !escaped.contains(bad)), "{path}");
    }
}

/// The address of a backend reads back as it was written.
pub fn address(bytes: &[u8]) {
    let Some(address) = str::from_utf8(bytes).ok().and_then(|text| text.parse::<Address>().ok()) else { return };
    assert_eq!(address.to_string().parse::<Address>().as_ref(), Ok(&address));
    assert!(HeaderValue::from_str(address.authority()).is_ok());
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(
            bytes in vec(any::<u8>(), 0..120),
            timeout in "[0-9]{0,9}[HMSmunx]?",
            target in "(http://[a-z]{1,3})?(/[.a%2eE50fF\\\\]{0,6}){0,4}(\n[a-z:]{0,5})?",
            name in "(http://|unix:)?[a-z/.:@\\[\\]0-9-]{0,20}(:[0-9]{1,5})?/?",
        ) {
            for text in [&bytes[..], timeout.as_bytes(), target.as_bytes(), name.as_bytes()] {
                for parse in [grpc_timeout, http_head, address] {
                    parse(text);
                }
            }
        }
    }
}
