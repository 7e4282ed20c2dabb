//! A command as backends get it, and the time there is for it.

use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use gatehouse_proto::gateway::v1::ExecuteCommandRequest;
use gatehouse_sessions::Session;

/// The one deadline of a request, over all attempts at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    at: Instant,
    is_of_client: bool,
}

impl Deadline {
    /// The route's time-out from now on, or what is left of the client's patience if that is less.
    pub(crate) fn new(timeout: Duration, patience: Option<Duration>) -> Self {
        let limit = patience.map_or(timeout, |patience| patience.min(timeout));
        let now = Instant::now();
        // What is further away than this never comes.
        let at = now.checked_add(limit).unwrap_or(now + Duration::from_hours(24 * 365));
        Self { at, is_of_client: limit < timeout }
    }

    pub(super) const fn at(self) -> Instant {
        self.at
    }

    /// How long it is until then.
    pub(crate) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// Whether it says nothing of the backend that it was missed: the client gave less time than the route does.
    pub(super) const fn is_of_client(self) -> bool {
        self.is_of_client
    }
}

/// What a backend is told of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) command: &'a ExecuteCommandRequest,
    pub(crate) session: &'a Session,
    /// Where an HTTP backend takes it, if not at its usual path.
    pub(crate) path: Option<&'a http::uri::PathAndQuery>,
    /// It may be carried out twice.
    pub(crate) idempotent: bool,
    /// To go with the command's `traceparent`.
    pub(crate) tracestate: Option<&'a str>,
}

/// `gateway.downstream.v1.ExecuteRequest` as one gRPC message, with its prefix, from borrowed fields: prost would copy each first.
pub(super) fn encode(call: &Call<'_>) -> Bytes {
    let Call { command, session, .. } = call;
    let texts: [(u8, &[u8]); 6] = [
        (1, command.message_type.as_bytes()),
        (2, command.request_id.as_bytes()),
        (3, session.user_id().as_bytes()),
        (4, session.device_session_id().as_bytes()),
        (6, &command.payload_bytes),
        (7, command.traceparent.as_bytes()),
    ];
    // A tag, at most five bytes of length, and at most eleven for the timestamp, after the prefix of five.
    let room = texts.iter().map(|(_, text)| text.len() + 6).sum::<usize>() + 11 + 5;
    let mut message = BytesMut::with_capacity(room);
    message.put_bytes(0, 5);
    for (number, text) in texts {
        if number == 6 && command.timestamp_ms != 0 {
            message.put_u8(5 << 3);
            varint(&mut message, command.timestamp_ms.cast_unsigned());
        }
        if !text.is_empty() {
            message.put_u8(number << 3 | 2);
            varint(&mut message, text.len() as u64);
            message.put_slice(text);
        }
    }
    let length = u32::try_from(message.len() - 5).unwrap_or(u32::MAX);
    message[1..5].copy_from_slice(&length.to_be_bytes());
    message.freeze()
}

fn varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

/// `grpc-timeout`: at most eight digits and a unit, never more than there is.
pub(super) fn grpc_timeout(left: Duration) -> String {
    match left.as_micros() {
        micros @ ..=99_999_999 => format!("{micros}u"),
        _ => match left.as_millis() {
            millis @ ..=99_999_999 => format!("{millis}m"),
            _ => format!("{}S", left.as_secs().min(99_999_999)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_outs_have_at_most_eight_digits() {
        for (left, text) in [
            (Duration::ZERO, "0u"),
            (Duration::from_nanos(1_999), "1u"),
            (Duration::from_secs(10), "10000000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_hours(48), "172800S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(grpc_timeout(left), text);
        }
    }

    #[test]
    fn the_shorter_of_route_and_client_counts_and_is_remembered() {
        let hour = Duration::from_hours(1);
        let of = |timeout, patience| Deadline::new(timeout, patience);
        assert!(!of(hour, None).is_of_client());
        assert!(!of(hour, Some(hour)).is_of_client());
        let client = of(hour, Some(Duration::from_mins(1)));
        assert!(client.is_of_client() && client.left() <= Duration::from_mins(1));
        assert!(of(Duration::MAX, None).left() > hour);
        assert!(of(hour, Some(Duration::ZERO)).left().is_zero());
    }
}
