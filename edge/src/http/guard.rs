//! Refuses what hyper lets pass and what another server may read differently: a request that two servers disagree on is how one user's request is
//! smuggled into another's connection, or past a route.
//!
//! A length beside a transfer coding cannot be seen here: hyper goes by the coding, drops the length, so that no backend sees it either, and closes the
//! connection after the answer (RFC 9112 §6.1). The head's own grammar (spaces before colons, folded lines, control characters, lengths that differ) is hyper's.

use axum::extract::Request;
use http::{HeaderValue, Version, header, uri::Authority};

use super::{errors::Problem, readings::layers};

/// Whether the request is one that every server reads alike.
pub(crate) fn check(request: &Request) -> Result<(), Problem> {
    host(request)?;
    coding(request)?;
    path(request.uri().path())
}

/// RFC 9112 §3.2: one `Host` in HTTP/1.1, at most one elsewhere, none that is no host, and none that contradicts the target; which, as
/// RFC 9113 §8.3.1 has it for HTTP/2, names no user.
fn host(request: &Request) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Problem::BadRequest("more than one Host header"));
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return Err(Problem::BadRequest("the Host header is missing"));
    }
    if host.is_some_and(|host| !is_host(host)) {
        return Err(Problem::BadRequest("the Host header is not a host"));
    }
    let authority = request.uri().authority();
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(Problem::BadRequest("the target has user information"));
    }
    match (host, authority) {
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) => {
            Err(Problem::BadRequest("the Host header contradicts the target"))
        }
        _ => Ok(()),
    }
}

/// A name or an address with an optional port; or nothing, which RFC 9110 §7.2 has for targets without an authority.
fn is_host(host: &HeaderValue) -> bool {
    host.is_empty() || Authority::try_from(host.as_bytes()).is_ok_and(|host| !host.as_str().contains('@'))
}

/// hyper undoes `chunked` and nothing else: whatever stands before it would stay on the body, without a word that says so.
fn coding(request: &Request) -> Result<(), Problem> {
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::BadRequest("a transfer coding other than chunked")),
    }
}

/// A target that is no path, segments that climb, control characters and characters that hide behind a longer encoding than theirs, in clear or as escapes, once
/// or several times over: routes are matched before a backend decodes.
fn path(path: &str) -> Result<(), Problem> {
    if !path.starts_with('/') {
        return Err(Problem::BadRequest("the target is no path"));
    }
    for decoded in layers(path) {
        if decoded.iter().any(u8::is_ascii_control) {
            return Err(Problem::BadRequest("a control character in the path"));
        }
        if is_overlong(&decoded) {
            return Err(Problem::BadRequest("an overlong character in the path"));
        }
        if decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dots) {
            return Err(Problem::BadRequest("a dot segment in the path"));
        }
    }
    Ok(())
}

/// `.` and `..`, also with the parameters that some servers cut off before they look (`..;a=b`).
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
    matches!(name, b"." | b"..")
}

/// UTF-8 that is longer than it need be: lenient decoders read `%c0%ae` as a dot.
fn is_overlong(path: &[u8]) -> bool {
    path.contains(&0xc0)
        || path.contains(&0xc1)
        || path.windows(2).any(|pair| matches!(pair, [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f] | [0xf8..=0xff, _]))
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
            ("http://a:1/", two, &[("host", "b:1")], Some("the Host header contradicts the target")),
            ("http://a:1@b/", two, &[], Some("the target has user information")),
            ("http://@b/", two, &[], Some("the target has user information")),
            ("http://a@b/", one, &[("host", "b")], Some("the target has user information")),
            ("/", one, &[("host", "")], None),
            ("/", one, &[("host", "[::1]:80")], None),
            ("/", one, &[("host", "a@b")], Some("the Host header is not a host")),
            ("/", one, &[("host", "a/b")], Some("the Host header is not a host")),
            ("/", one, &[("host", "a b")], Some("the Host header is not a host")),
            ("/", one, &[("host", "a, b")], Some("the Host header is not a host")),
        ] {
            assert_eq!(verdict(uri, version, headers), why, "{uri} {headers:?}");
        }
    }

    #[test]
    fn codings_that_stay_on_the_body_are_refused() {
        let (host, why) = (("host", "a"), Some("a transfer coding other than chunked"));
        for (codings, why) in [
            (&["chunked"][..], None),
            (&["Chunked"], None),
            (&["gzip, chunked"], why),
            (&["chunked, chunked"], why),
            (&["gzip", "chunked"], why),
            (&["identity"], why),
            (&["xchunked"], why),
        ] {
            let headers: Vec<_> = codings.iter().map(|coding| ("transfer-encoding", *coding)).chain([host]).collect();
            assert_eq!(verdict("/", Version::HTTP_11, &headers), why, "{codings:?}");
        }
    }

    #[test]
    fn paths_that_climb_or_hide_something_are_refused() {
        for good in [
            "/",
            "/a/b",
            "/a%20b",
            "/a%2Fb",
            "/...",
            "/a/..b",
            "/%",
            "/%2",
            "/%zz",
            "/a/",
            "//a",
            "/%C3%A9",
            "/a%2520b",
            "/100%25",
            "/a;b=c",
            "/..a;b",
            "/%E0%A4%84",
        ] {
            assert_eq!(path(good), Ok(()), "{good}");
        }
        for bad in [
            "/..",
            "/a/../b",
            "/a/..%2fb",
            "/a/%2e%2E/b",
            "/.%2e/",
            "/a%5c..%5cb",
            "/./a",
            "/a%2f..",
            "/a\\..\\b",
            "/a/%252e%252e/b",
            "/%25252e%25252e/",
            "/a/..;/b",
            "/a/..%3bx/b",
            "/.;a",
            "/a%255c..%255cb",
        ] {
            assert_eq!(path(bad), Err(Problem::BadRequest("a dot segment in the path")), "{bad}");
        }
        for bad in ["*", "", "a/b", "\\a"] {
            assert_eq!(path(bad), Err(Problem::BadRequest("the target is no path")), "{bad}");
        }
        for bad in ["/a%00", "/%0d%0aa", "/%7f", "/a%2500", "/%250d%250a"] {
            assert_eq!(path(bad), Err(Problem::BadRequest("a control character in the path")), "{bad}");
        }
        for bad in ["/%c0%ae%c0%ae/", "/%C0%AF", "/%e0%80%ae", "/%f0%80%80%ae", "/%c1%9c", "/%25c0%25ae", "/%fc%80"] {
            assert_eq!(path(bad), Err(Problem::BadRequest("an overlong character in the path")), "{bad}");
        }
    }
}
