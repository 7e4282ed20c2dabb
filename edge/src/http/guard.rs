//! Refuses what hyper lets pass and what another server may read differently: a request that two servers disagree on is how one user's request is
//! smuggled into another's connection, or past a route.
//!
//! A length beside a transfer coding cannot be seen here: hyper goes by the coding and drops the length, so that no backend sees it either.

use axum::extract::Request;
use http::{Version, header};

use super::errors::Problem;

/// Whether the request is one that every server reads alike.
pub(crate) fn check(request: &Request) -> Result<(), Problem> {
    host(request)?;
    path(request.uri().path())
}

/// RFC 9112 §3.2: one `Host` in HTTP/1.1, at most one elsewhere, and none that contradicts the target.
fn host(request: &Request) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Problem::BadRequest("more than one Host header"));
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(Problem::BadRequest("the Host header is missing"));
    }
    match (host, request.uri().authority()) {
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(Problem::BadRequest("the Host header contradicts the target"))
        }
        _ => Ok(()),
    }
}

/// Segments that climb and control characters, in clear or as escapes: routes are matched before a backend decodes.
fn path(path: &str) -> Result<(), Problem> {
    let decoded = decode(path.as_bytes());
    if decoded.iter().any(u8::is_ascii_control) {
        return Err(Problem::BadRequest("a control character in the path"));
    }
    if decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| matches!(segment, b"." | b"..")) {
        return Err(Problem::BadRequest("a dot segment in the path"));
    }
    Ok(())
}

/// Resolves escapes once; what is no escape stays.
fn decode(path: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16)).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, digit(after.first()), digit(after.get(1))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(high << 4 | low);
                rest = &after[2..];
            }
            _ => decoded.push(byte),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn verdict(uri: &str, version: Version, headers: &[(&'static str, &'static str)]) -> Option<&'static str> {
        let mut request = Request::builder().uri(uri).version(version).body(Body::empty()).unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        match check(&request) {
            Ok(()) => None,
            Err(Problem::BadRequest(why)) => Some(why),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn hosts_that_disagree_are_refused() {
        let host = ("host", "a:1");
        let (one, old, two) = (Version::HTTP_11, Version::HTTP_10, Version::HTTP_2);
        for (uri, version, headers, why) in [
            ("/", one, &[host][..], None),
            ("/", one, &[], Some("the Host header is missing")),
            ("/", old, &[], None),
            ("/", one, &[host, host], Some("more than one Host header")),
            ("http://a:1/", one, &[host], None),
            ("http://A:1/", one, &[host], None),
            ("http://b:1/", one, &[host], Some("the Host header contradicts the target")),
            ("http://a:1/", two, &[], None),
        ] {
            assert_eq!(verdict(uri, version, headers), why, "{uri} {headers:?}");
        }
    }

    #[test]
    fn paths_that_climb_or_hide_something_are_refused() {
        for good in ["/", "/a/b", "/a%20b", "/a%2Fb", "/...", "/a/..b", "/%", "/%2", "/%zz", "/a/", "//a", "/%C3%A9"] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in ["/..", "/a/../b", "/a/..%2fb", "/a/%2e%2E/b", "/.%2e/", "/a%5c..%5cb", "/./a", "/a%2f..", "/a\\..\\b"] {
            assert_eq!(path(bad), Err(Problem::BadRequest("a dot segment in the path")), "{bad}");
        }
        for bad in ["/a%00", "/%0d%0aa", "/%7f"] {
            assert_eq!(path(bad), Err(Problem::BadRequest("a control character in the path")), "{bad}");
        }
    }
}
