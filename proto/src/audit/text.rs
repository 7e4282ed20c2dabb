//! Texts of callers as the trail keeps them: short, visible, storable, and two of them that differ stay two.
//!
//! A character that a database cannot store (NUL) or a terminal acts on (controls, directions of writing) is written `\u{1b}`, and a backslash `\\`. What is longer than its column
//! ends in `\~` and 16 hex digits of the whole text's SHA-256; after a backslash that is not itself written so, no text that fits has a `~`.

use std::fmt::Write as _;

use crate::keys::{hex, sha256};

/// `\~` and the digits.
const TAIL: usize = 2 + 16;

/// Makes a text what the trail keeps of it. Doing it twice writes backslashes twice.
pub(super) fn bound(text: &mut String, longest: usize) {
    if is_plain(text) && text.len() <= longest {
        return;
    }
    let (mut kept, mut fits) = (String::with_capacity(longest), 0);
    for c in text.chars() {
        write(&mut kept, c);
        if kept.len() <= longest - TAIL {
            fits = kept.len();
        }
        if kept.len() > longest {
            kept.truncate(fits);
            kept.push_str("\\~");
            kept.push_str(&hex(&sha256(text.as_bytes())[..8]));
            break;
        }
    }
    *text = kept;
}

/// Whether the trail can keep it as it is.
pub(super) fn is_bound(text: &str, longest: usize) -> bool {
    text.len() <= longest && (is_plain(text) || !text.chars().any(is_unsafe))
}

/// How much of the text's beginning the trail keeps whole.
pub(super) fn fitting(text: &str, longest: usize) -> usize {
    let mut kept = String::with_capacity(longest);
    let too_long = text.char_indices().find(|&(_, c)| {
        write(&mut kept, c);
        kept.len() > longest
    });
    too_long.map_or(text.len(), |(at, _)| at)
}

/// Most are: visible ASCII without a backslash.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\')
}

fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn write(kept: &mut String, c: char) {
    match c {
        '\\' => kept.push_str("\\\\"),
        c if is_unsafe(c) => {
            // Writing to a string cannot fail.
            let _written = write!(kept, "{}", c.escape_unicode());
        }
        c => kept.push(c),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounded(text: &str, longest: usize) -> String {
        let mut text = text.to_owned();
        bound(&mut text, longest);
        text
    }

    #[test]
    fn what_cannot_be_stored_or_seen_is_written_out() {
        for (text, kept) in [
            ("orders.create", "orders.create"),
            ("", ""),
            ("naïve ☃", "naïve ☃"),
            ("a\0b", "a\\u{0}b"),
            ("a\\u{0}b", "a\\\\u{0}b"),
            ("\u{1b}[2J\r\n\t", "\\u{1b}[2J\\u{d}\\u{a}\\u{9}"),
            ("\u{9b}2J\u{7f}", "\\u{9b}2J\\u{7f}"),
            ("\u{202e}evil\u{2066}", "\\u{202e}evil\\u{2066}"),
        ] {
            assert_eq!(bounded(text, 128), kept);
        }
    }

    #[test]
    fn long_texts_that_differ_at_their_ends_stay_two() {
        let long = |end: &str| format!("{}{end}", "é".repeat(100));
        let (one, other) = (bounded(&long("1"), 128), bounded(&long("2"), 128));
        assert_ne!(one, other);
        assert_eq!(one.find("\\~"), Some(110), "whole characters, then the tail: {one}");
        assert_eq!(bounded(&"x".repeat(128), 128), "x".repeat(128));
        assert_eq!(bounded(&"\0".repeat(128), 128).len(), 110 + TAIL);
    }

    #[test]
    fn as_much_fits_as_is_kept_whole() {
        for (text, fits) in [("abc", 3), ("", 0), ("\\\\\\", 2), ("ab\0", 2), ("éé", 4), ("ééé", 4), ("abcde", 5)] {
            assert_eq!(fitting(text, 5), fits, "{text:?}");
        }
    }

    /// Few characters, so that texts come close to each other, those that have a meaning here among them.
    fn texts() -> impl Strategy<Value = String> {
        prop::collection::vec(prop::sample::select(vec!['a', '\\', '\0', 'u', '{', '0', '}', '~', 'é']), 0..60).prop_map(String::from_iter)
    }

    proptest! {
        #[test]
        fn two_texts_stay_two_and_each_can_be_kept(a in texts(), b in texts()) {
            let (kept_a, kept_b) = (bounded(&a, 40), bounded(&b, 40));
            prop_assert_eq!(kept_a == kept_b, a == b);
            prop_assert!(is_bound(&kept_a, 40), "{}", kept_a);
            prop_assert_eq!(fitting(&a, 40) == a.len(), bounded(&a, 1000).len() <= 40);
        }
    }
}
