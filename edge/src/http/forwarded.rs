//! What of a head belongs to one hop alone, and what a proxy adds to it (RFC 9110 §7.6, RFC 7239).

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use gatehouse_sessions::door::ip;

/// Headers of the hop, whether `Connection` names them or not. `Expect` is answered here; `Trailer` is of the whole way, as trailers are.
const OF_THE_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// By these backends learn from us alone who asks, as what, and by which way; beside `x-forwarded-…` and `gateway-…`, which are ours as well.
const OURS: [&str; 6] = ["forwarded", "x-real-ip", "proxy-authorization", "expect", "x-request-id", "transfer-encoding"];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Takes away what belongs to the hop that the head, or the trailers, came by, what `Connection` names included.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in named.iter().chain(&OF_THE_HOP) {
        headers.remove(name);
    }
}

/// What this hop saw of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// Whoever is at the other end of the connection.
    pub(crate) peer: Option<SocketAddr>,
    /// The target's authority, where the request has one (HTTP/2, and absolute targets).
    pub(crate) asked: Option<&'a str>,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
}

/// Makes the head of a client's request that of a request to a backend.
///
/// Nothing that a client says of who it is, or of how it came, is believed: `Forwarded` and `X-Forwarded-For`, `-Proto` and `-Host` say what this hop saw, and
/// all other headers of that kind are taken away, also when they are written with the underscores that CGI takes for hyphens. `Host` becomes the backend's own.
pub(crate) fn to_backend(headers: &mut HeaderMap, seen: Seen<'_>, authority: &str) {
    let takes_trailers = tokens(headers, &header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"));
    strip(headers);
    join_cookies(headers);
    let asked = seen.asked.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok())).map(str::to_owned);
    let forwarded = forwarded(seen, asked.as_deref());
    set(headers, header::FORWARDED, Some(&forwarded));
    set(headers, X_FORWARDED_FOR, seen.peer.map(ip).as_deref());
    set(headers, X_FORWARDED_HOST, asked.as_deref());
    set(headers, X_FORWARDED_PROTO, Some(seen.scheme));
    set(headers, header::HOST, Some(authority));
    if takes_trailers {
        // Of this hop, which passes trailers on.
        set(headers, header::TE, Some("trailers"));
        set(headers, header::CONNECTION, Some("te"));
    }
    headers.append(header::VIA, HeaderValue::from_static("1.1 gatehouse"));
}

/// Takes away what a client may not say to a backend, in the head as in the trailers: what is of the hop, and what is ours.
pub(crate) fn strip(headers: &mut HeaderMap) {
    strip_hop(headers);
    let given: Vec<HeaderName> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    for name in given {
        headers.remove(name);
    }
}

fn is_ours(name: &str) -> bool {
    let name = name.replace('_', "-");
    name.starts_with("x-forwarded-") || name.starts_with("gateway-") || OURS.contains(&name.as_str())
}

/// RFC 7239 §4: addresses of IPv6 in brackets and quotes, a host with its port in quotes.
fn forwarded(seen: Seen<'_>, host: Option<&str>) -> String {
    let node = match seen.peer.map(|peer| peer.ip().to_canonical()) {
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => format!("\"[{address}]\""),
        None => "unknown".to_owned(),
    };
    let host = host.filter(|host| !host.contains(['"', '\\'])).map(|host| format!(";host=\"{host}\"")).unwrap_or_default();
    format!("for={node}{host};proto={}", seen.scheme)
}

/// The members of a header that is a list.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    // What follows a semicolon is a weight or a parameter.
    values.flat_map(|value| value.split(',')).map(|member| member.split(';').next().unwrap_or_default().trim())
}

/// HTTP/2 clients may send a cookie a header; HTTP/1 servers expect one header (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<&str>) {
    match value.and_then(|value| HeaderValue::from_str(value).ok()) {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn headers_of_the_hop_stay_on_it() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("connection", "x-too"),
            ("x-mine", "1"),
            ("x-too", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("trailer", "x-sum"),
            ("x-kept", "1"),
        ]);
        strip_hop(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-sum"), ("x-kept", "1")]));
    }

    #[test]
    fn a_backend_learns_who_asks_from_us_alone() {
        let mut headers = map(&[
            ("host", "shop.example"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.example"),
            ("x-forwarded-user", "root"),
            ("x_forwarded_for", "127.0.0.1"),
            ("x-real-ip", "127.0.0.1"),
            ("x_real-ip", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("gateway-user-id", "somebody"),
            ("gateway_user_id", "somebody"),
            ("transfer_encoding", "chunked"),
            ("expect", "100-continue"),
            ("te", "gzip;q=0.5, trailers"),
            ("via", "1.0 cache"),
            ("connection", "x-forwarded-for, te"),
            ("x_kept", "1"),
        ]);
        headers.insert("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        let seen = Seen { peer: Some("[::ffff:203.0.113.9]:5".parse().unwrap()), asked: None, scheme: "http" };
        to_backend(&mut headers, seen, "shop:80");
        let wanted = map(&[
            ("host", "shop:80"),
            ("forwarded", "for=203.0.113.9;host=\"shop.example\";proto=http"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop.example"),
            ("te", "trailers"),
            ("connection", "te"),
            ("via", "1.0 cache"),
            ("via", "1.1 gatehouse"),
            ("cookie", "a=1; b=2"),
            ("x_kept", "1"),
        ]);
        assert_eq!(headers, wanted);
        let seen = Seen { peer: Some("[2001:db8::1]:5".parse().unwrap()), asked: Some("asked.example:443"), scheme: "https" };
        to_backend(&mut headers, seen, "shop:80");
        assert_eq!(headers["forwarded"], "for=\"[2001:db8::1]\";host=\"asked.example:443\";proto=https");
        assert_eq!(
            (&headers["x-forwarded-for"], &headers["x-forwarded-host"]),
            (&"2001:db8::1".parse().unwrap(), &"asked.example:443".parse().unwrap())
        );
    }
}
