//! What the servers behind us may take a path for.
//!
//! Routes are matched on the path as it came, and it is passed on as it came. A backend decodes it, may take several slashes for one or a backslash for a slash, and
//! may cut off what follows a semicolon: `/%73hop`, `//shop` and `/shop;x` are all `/shop` to somebody. A route that is switched off, or that needs its records, must
//! not be stepped round by another way to write it.

/// How often a path may be decoded by the servers behind us, one after the other.
const LAYERS: usize = 3;

/// The path decoded once, and then as often again as that may change it.
pub(super) fn layers(path: &str) -> Vec<Vec<u8>> {
    let mut layers = vec![decode(path.as_bytes())];
    while let Some(last) = layers.last().filter(|last| last.contains(&b'%')) {
        if layers.len() == LAYERS {
            break;
        }
        layers.push(decode(last));
    }
    layers
}

/// The paths that this one may be read as, in the form in which prefixes are configured: decoded, without parameters, one slash at a time.
pub(super) fn readings(path: &str) -> Vec<String> {
    if !path.contains(['%', ';', '\\']) && !path.contains("//") {
        return Vec::new();
    }
    layers(path).iter().map(|layer| plain(layer)).collect()
}

fn plain(decoded: &[u8]) -> String {
    let mut plain = Vec::with_capacity(decoded.len());
    for (i, segment) in decoded.split(|byte| matches!(byte, b'/' | b'\\')).enumerate() {
        if i > 0 && plain.last() != Some(&b'/') {
            plain.push(b'/');
        }
        plain.extend(segment.split(|&byte| byte == b';').next().unwrap_or_default());
    }
    // Prefixes are ASCII: what is no UTF-8 is part of none, whatever stands for it.
    String::from_utf8_lossy(&plain).into_owned()
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
    use super::*;

    #[test]
    fn a_path_is_read_as_backends_read_it() {
        for (path, read) in [
            ("/shop/a", &[][..]),
            ("/%73hop", &["/shop"]),
            ("//shop", &["/shop"]),
            ("/shop;x", &["/shop"]),
            ("/shop;x=1/a;b", &["/shop/a"]),
            ("/;x//shop///a/", &["/shop/a/"]),
            ("/shop%2Fx", &["/shop/x"]),
            ("/shop%3bx", &["/shop"]),
            ("/shop%5cx", &["/shop/x"]),
            ("\\shop\\x", &["/shop/x"]),
            ("/%40a", &["/@a"]),
            ("/100%", &["/100%", "/100%", "/100%"]),
            ("/%2573hop", &["/%73hop", "/shop"]),
            ("/%25252573hop", &["/%252573hop", "/%2573hop", "/%73hop"]),
            ("/%ff", &["/\u{fffd}"]),
        ] {
            assert_eq!(readings(path), read, "{path}");
        }
    }
}
