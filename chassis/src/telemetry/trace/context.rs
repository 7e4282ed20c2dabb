//! `traceparent` and `tracestate` (<https://www.w3.org/TR/trace-context-2/>): who reads them must take every version to come, and believe nothing that is
//! malformed.

use std::fmt;

/// What of a list of vendors' own is passed on. The recommendation asks for at least 512 characters.
const MAX_STATE_BYTES: usize = 512;
const MAX_STATE_MEMBERS: usize = 32;
/// The flags that this version knows: sampled, random.
const KNOWN_FLAGS: u8 = 0b11;
const SAMPLED: u8 = 0b01;
const RANDOM: u8 = 0b10;

/// Where in which trace somebody stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Of the whole trace; not zero.
    pub trace_id: [u8; 16],
    /// Of the caller's span; not zero.
    pub span_id: [u8; 8],
    flags: u8,
}

impl Context {
    /// Reads a `traceparent`; `None` when it is not to be believed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (whole, rest) = bytes.split_at_checked(55)?;
        let [version] = hex::<1>(&whole[..2])?;
        // A later version may add fields behind a hyphen; 00 has none, and ff is forbidden.
        let known = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let (trace_id, span_id, [flags]) = (hex::<16>(&whole[3..35])?, hex::<8>(&whole[36..52])?, hex::<1>(&whole[53..])?);
        let hyphens = [2, 35, 52].iter().all(|&at| whole[at] == b'-');
        let valid = known && hyphens && trace_id != [0; 16] && span_id != [0; 8];
        valid.then_some(Self { trace_id, span_id, flags: flags & KNOWN_FLAGS })
    }

    /// A trace that begins here.
    #[must_use]
    pub fn begin(sampled: bool) -> Self {
        // The 56 bits that samplers go by are behind a UUID's version and variant.
        let trace_id = uuid::Uuid::new_v4().into_bytes();
        Self { trace_id, span_id: new_span_id(), flags: if sampled { SAMPLED | RANDOM } else { RANDOM } }
    }

    /// The same trace, at another span.
    #[must_use]
    pub const fn at(self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..self }
    }

    /// Whether whoever began it wants it recorded.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The randomness of the trace's id, 56 bits, by which everybody samples alike.
    pub(super) fn randomness(&self) -> u64 {
        self.trace_id[9..].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
    }

    /// The trace's id, as logs write it.
    #[must_use]
    pub fn trace_id(&self) -> String {
        let mut text = String::with_capacity(32);
        push_hex(&mut text, &self.trace_id);
        text
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(55);
        text.push_str("00-");
        push_hex(&mut text, &self.trace_id);
        text.push('-');
        push_hex(&mut text, &self.span_id);
        text.push('-');
        push_hex(&mut text, &[self.flags]);
        f.write_str(&text)
    }
}

/// A new span's id, which is never zero: a UUID has its version in the first half and its variant in the second.
pub(super) fn new_span_id() -> [u8; 8] {
    let (_, half) = uuid::Uuid::new_v4().as_u64_pair();
    half.to_be_bytes()
}

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    // Upper case is malformed, too.
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

/// The vendors' own, joined from all headers in their order; `None` when there is nothing, or anything in it is malformed. Beyond 512 bytes the members that
/// are longer than 128 go first, then those at the end.
#[must_use]
pub fn state<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut members: Vec<&str> = Vec::new();
    for header in headers {
        let header = str::from_utf8(header).ok()?;
        for member in header.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()) {
            let (key, value) = member.split_once('=')?;
            let repeated = members.iter().any(|known| known.split_once('=').is_some_and(|(known, _)| known == key));
            if repeated || !is_key(key) || !is_value(value) || members.len() == MAX_STATE_MEMBERS {
                return None;
            }
            members.push(member);
        }
    }
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    if length(&members) > MAX_STATE_BYTES + 1 {
        members.retain(|member| member.len() <= 128);
    }
    while length(&members) > MAX_STATE_BYTES + 1 {
        members.pop();
    }
    (!members.is_empty()).then(|| members.join(","))
}

/// `key` of the recommendation: lower case, digits and four signs, at most 256; with a tenant, `tenant@system`, at most 241 and 14.
fn is_key(key: &str) -> bool {
    let of = |text: &str, first: fn(u8) -> bool, most: usize| {
        let bytes = text.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(byte);
        bytes.len() <= most && bytes.first().is_some_and(|&byte| first(byte)) && bytes.iter().all(plain)
    };
    let letter: fn(u8) -> bool = |byte| byte.is_ascii_lowercase();
    let letter_or_digit: fn(u8) -> bool = |byte| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match key.split_once('@') {
        Some((tenant, system)) => of(tenant, letter_or_digit, 241) && of(system, letter, 14),
        None => of(key, letter_or_digit, 256),
    }
}

fn is_value(value: &str) -> bool {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(plain)
}

#[cfg(test)]
mod tests;
