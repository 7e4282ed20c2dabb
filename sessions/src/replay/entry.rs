//! What lies under a reservation's key when the first answer is kept: which envelope it is for, and what is known of it.
//!
//! One letter, the digest of the envelope (32 bytes), and: `p`, who carries it out (16 bytes), until when at the most (8 bytes, big endian, ms), and which of its
//! attempts it is (8 bytes); `a`, the answer as it went over the wire; `s`, the backend's status: code and message's length (4 bytes each, big endian), message,
//! details; `u`, nothing: nobody knows.

use bytes::Bytes;
use gatehouse_proto::{gateway::v1::ExecuteCommandRequest, keys::sha256};
use tonic::{Code, Status};

pub(super) type Digest = [u8; 32];
pub(super) type OwnerId = [u8; 16];

/// The largest answer that is kept.
const MAX_KEPT: usize = 1 << 20;

/// What is kept of how a command came out.
#[derive(Clone, Debug)]
pub enum Keepsake {
    /// The answer's bytes.
    Answer(Bytes),
    /// What the backend said instead.
    Status(Status),
    /// Nobody knows, or it was too large to be kept.
    Unknown,
}

#[derive(Clone, Debug)]
pub(super) enum Entry {
    Pending { owner: OwnerId, until_ms: i64, attempt: u64 },
    Kept(Keepsake),
}

/// What a retry has in common with the first; the session and the request's id are in the key.
pub(super) fn digest(request: &ExecuteCommandRequest) -> Digest {
    let mut envelope = Vec::with_capacity(request.message_type.len() + request.payload_hash.len() + 4);
    envelope.extend(u32::try_from(request.message_type.len()).unwrap_or(u32::MAX).to_be_bytes());
    envelope.extend(request.message_type.as_bytes());
    envelope.extend(&request.payload_hash);
    sha256(&envelope)
}

impl Entry {
    pub(super) fn encode(&self, digest: &Digest) -> Vec<u8> {
        let mut value = vec![b'u'];
        value.extend(digest);
        match self {
            Self::Pending { owner, until_ms, attempt } => {
                value[0] = b'p';
                value.extend(owner);
                value.extend(until_ms.to_be_bytes());
                value.extend(attempt.to_be_bytes());
            }
            Self::Kept(Keepsake::Answer(answer)) if answer.len() <= MAX_KEPT => {
                value[0] = b'a';
                value.extend(answer);
            }
            Self::Kept(Keepsake::Status(status)) if status.message().len() + status.details().len() <= MAX_KEPT => {
                value[0] = b's';
                value.extend((status.code() as i32).to_be_bytes());
                value.extend(u32::try_from(status.message().len()).unwrap_or_default().to_be_bytes());
                value.extend(status.message().as_bytes());
                value.extend(status.details());
            }
            Self::Kept(_) => {}
        }
        value
    }

    /// `None`: it is of another envelope, or of a route that kept nothing.
    pub(super) fn decode(value: &Bytes, digest: &Digest) -> Option<Self> {
        let (kind, rest) = value.split_first()?;
        let rest = rest.strip_prefix(digest)?;
        let rest = value.slice_ref(rest);
        match kind {
            b'p' => {
                let (owner, rest) = rest.split_first_chunk()?;
                let (until, attempt) = rest.split_first_chunk()?;
                let attempt = u64::from_be_bytes(attempt.try_into().ok()?);
                Some(Self::Pending { owner: *owner, until_ms: i64::from_be_bytes(*until), attempt })
            }
            b'a' => Some(Self::Kept(Keepsake::Answer(rest))),
            b's' => {
                let (code, more) = rest.split_first_chunk()?;
                let (length, more) = more.split_first_chunk()?;
                let (message, details) = more.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
                let (code, message) = (Code::from_i32(i32::from_be_bytes(*code)), std::str::from_utf8(message).ok()?);
                Some(Self::Kept(Keepsake::Status(Status::with_details(code, message, rest.slice_ref(details)))))
            }
            b'u' => Some(Self::Kept(Keepsake::Unknown)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(entry: &Entry) -> String {
        let value = Bytes::from(entry.encode(&[7; 32]));
        assert!(Entry::decode(&value, &[8; 32]).is_none(), "of another envelope");
        for cut in 0..value.len() {
            // Whatever somebody else writes there is no reason to panic.
            let _any = Entry::decode(&value.slice(..cut), &[7; 32]);
        }
        format!("{:?}", Entry::decode(&value, &[7; 32]).unwrap())
    }

    #[test]
    fn entries_round_trip_and_what_is_too_large_is_not_kept() {
        let status = Status::with_details(Code::NotFound, "no störe", Bytes::from_static(b"\x00\xff"));
        for entry in [
            Entry::Pending { owner: [3; 16], until_ms: 1_795_257_584_454, attempt: 7 },
            Entry::Kept(Keepsake::Answer(Bytes::from_static(b"done"))),
            Entry::Kept(Keepsake::Answer(Bytes::new())),
            Entry::Kept(Keepsake::Status(status)),
            Entry::Kept(Keepsake::Unknown),
        ] {
            assert_eq!(again(&entry), format!("{entry:?}"));
        }
        let large = Entry::Kept(Keepsake::Answer(vec![0; MAX_KEPT + 1].into()));
        assert_eq!(again(&large), format!("{:?}", Entry::Kept(Keepsake::Unknown)));
        assert!(Entry::decode(&Bytes::from_static(b"1"), &[7; 32]).is_none(), "of a route that keeps nothing");
    }

    #[test]
    fn an_envelope_is_its_message_type_and_its_payload() {
        let request = |message_type: &str, hash: &[u8]| {
            digest(&ExecuteCommandRequest {
                message_type: message_type.into(),
                payload_hash: hash.to_vec().into(),
                timestamp_ms: 5,
                ..Default::default()
            })
        };
        assert_ne!(request("a", b"b"), request("ab", b""));
        assert_eq!(request("a", b"b"), request("a", b"b"));
    }
}
