//! What every stream promises: it opens with the gateway's time, and event ids strictly increase.

use gatehouse_proto::{gateway::v1::GatewayEvent, ids::StreamId};

/// The type of the first event.
pub const SERVER_TIME: &str = "gateway.server_time";
/// The type of the event that fills silence.
pub const BOOKMARK: &str = "gateway.bookmark";

/// How a stream broke its promise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unordered {
    /// It opened with something else.
    #[error("the stream opened with {0}, not with {SERVER_TIME}")]
    Opening(String),
    /// An id that is none.
    #[error("event_id `{0}` is no stream id")]
    Id(String),
    /// An event twice, or out of order.
    #[error("event_id {id} does not follow {after}")]
    Backwards {
        /// The event's.
        id: StreamId,
        /// The event's before.
        after: StreamId,
    },
}

/// Where one stream stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order(Option<StreamId>);

impl Order {
    /// Takes the stream's next event.
    pub fn take(&mut self, event: &GatewayEvent) -> Result<(), Unordered> {
        let id: StreamId = event.event_id.parse().map_err(|_| Unordered::Id(event.event_id.clone()))?;
        match self.0.replace(id) {
            None if event.event_type != SERVER_TIME => Err(Unordered::Opening(event.event_type.clone())),
            Some(after) if id <= after => Err(Unordered::Backwards { id, after }),
            _ => Ok(()),
        }
    }

    /// Whether an event is the gateway's own, which carries time and cursor and nothing else.
    #[must_use]
    pub fn is_own(event: &GatewayEvent) -> bool {
        matches!(event.event_type.as_str(), SERVER_TIME | BOOKMARK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(stream: &[(&str, &str)]) -> Result<(), Unordered> {
        let mut order = Order::default();
        stream.iter().try_for_each(|&(event_type, id)| {
            order.take(&GatewayEvent { event_type: event_type.to_owned(), event_id: id.to_owned(), ..GatewayEvent::default() })
        })
    }

    #[test]
    fn a_stream_opens_with_the_time_and_only_goes_forward() {
        let (two, ten) = (StreamId { ms: 2, seq: 0 }, StreamId { ms: 10, seq: 0 });
        assert_eq!(take(&[(SERVER_TIME, "2-0"), ("a", "2-1"), (BOOKMARK, "10-0")]), Ok(()));
        assert_eq!(take(&[("a", "2-0")]), Err(Unordered::Opening("a".to_owned())));
        assert_eq!(take(&[(SERVER_TIME, "2-0"), ("a", "2-0")]), Err(Unordered::Backwards { id: two, after: two }));
        assert_eq!(take(&[(SERVER_TIME, "10-0"), ("a", "2-0")]), Err(Unordered::Backwards { id: two, after: ten }));
        assert_eq!(take(&[(SERVER_TIME, "now")]), Err(Unordered::Id("now".to_owned())));
    }
}
