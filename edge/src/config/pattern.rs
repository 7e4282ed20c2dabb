//! What a `message_type` in the configuration may be: the name itself, or a prefix with one asterisk at its end.

use gatehouse_proto::limits::MAX_ID_BYTES;

/// What is wrong with it, if something is.
pub(super) fn problem(pattern: &str) -> Option<&'static str> {
    if pattern.is_empty() || pattern.len() > MAX_ID_BYTES {
        Some("is empty or longer than 128 bytes")
    } else if pattern.strip_suffix('*').unwrap_or(pattern).contains('*') {
        Some("may have one asterisk, at its end: `orders.*`")
    } else if pattern.chars().any(char::is_control) {
        Some("has a control character")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asterisk_stands_at_the_end_or_nowhere() {
        for good in ["orders.create", "orders.*", "*", "o*", &"x".repeat(128)] {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in ["", "*.create", "a*b", "orders.**", "a\nb", &"x".repeat(129)] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }
}
