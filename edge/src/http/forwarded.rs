//! What of a head belongs to one hop alone, and what a proxy adds to it (RFC 9110 §7.6).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use gatehouse_sessions::door::ip;

/// Headers of the hop, whether `Connection` names them or not. `Expect` is answered here; `Trailer` promises what HTTP/1 drops without `TE`.
const OF_THE_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Takes away what belongs to the hop that the head came by, what `Connection` names included.
pub(crate) fn strip_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&OF_THE_HOP) {
        headers.remove(name);
    }
}

/// Makes the head of a client's request that of a request to a backend.
///
/// `X-Forwarded-For` is continued; `-Proto` and `-Host` say what this hop saw, and the two other headers by which backends learn who asks are taken
/// away: a client does not choose them. `Host` becomes the backend's own.
pub(crate) fn to_backend(headers: &mut HeaderMap, peer: Option<SocketAddr>, asked: Option<&str>, authority: &str) {
    strip_hop(headers);
    for name in [header::PROXY_AUTHORIZATION, header::EXPECT, header::FORWARDED, HeaderName::from_static("x-real-ip")] {
        headers.remove(name);
    }
    join_cookies(headers);
    let before = headers.get_all(X_FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<_> = before.map(str::to_owned).chain(peer.map(ip)).collect();
    let asked = asked.or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok())).map(str::to_owned);
    set(headers, X_FORWARDED_FOR, Some(&chain.join(", ")).filter(|chain| !chain.is_empty()).map(String::as_str));
    set(headers, X_FORWARDED_HOST, asked.as_deref());
    set(headers, X_FORWARDED_PROTO, Some("http"));
    set(headers, header::HOST, Some(authority));
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
            ("x-kept", "1"),
        ]);
        strip_hop(&mut headers);
        assert_eq!(headers, map(&[("x-kept", "1")]));
    }

    #[test]
    fn a_backend_learns_who_asks_from_us_alone() {
        let mut headers = map(&[
            ("host", "shop.example"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.example"),
            ("x-real-ip", "127.0.0.1"),
            ("forwarded", "for=127.0.0.1"),
            ("expect", "100-continue"),
            ("connection", "x-forwarded-for"),
        ]);
        headers.insert("cookie", HeaderValue::from_static("a=1"));
        headers.append("cookie", HeaderValue::from_static("b=2"));
        to_backend(&mut headers, Some("[::ffff:203.0.113.9]:5".parse().unwrap()), None, "shop:80");
        let wanted = map(&[
            ("host", "shop:80"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop.example"),
            ("cookie", "a=1; b=2"),
        ]);
        assert_eq!(headers, wanted);
        to_backend(&mut headers, Some("192.0.2.7:5".parse().unwrap()), Some("asked.example"), "shop:80");
        assert_eq!(headers["x-forwarded-for"], "203.0.113.9, 192.0.2.7");
        assert_eq!(headers["x-forwarded-host"], "asked.example");
    }
}
