//! A client's event stream, which verifies every event that it hands out.

use std::cmp::Ordering;

use gatehouse_proto::gateway::v1::{GatewayEvent, ServerTime, gateway_client::GatewayClient};
use prost::Message as _;
use tonic::{Status, Streaming, transport::Channel};

use crate::{Device, GatewayKey, wait::bounded};

/// An open stream after its bootstrap event.
#[derive(Debug)]
pub struct EventStream {
    streaming: Streaming<GatewayEvent>,
    key: GatewayKey,
    /// What the bootstrap event said.
    pub bootstrap: ServerTime,
    /// The last event's id, bookmarks included: where a client resumes.
    pub cursor: String,
    /// Bookmarks so far.
    pub bookmarks: usize,
}

impl EventStream {
    /// Opens a stream and reads its first event, which must be `gateway.server_time`.
    pub async fn open(channel: Channel, key: &GatewayKey, device: &Device, cursor: &str) -> Result<Self, Status> {
        let mut client = GatewayClient::new(channel).max_decoding_message_size(8 << 20);
        let streaming = bounded("SubscribeEvents is answered", client.subscribe_events(device.subscribe(cursor))).await?.into_inner();
        let bootstrap = ServerTime::default();
        let mut stream = Self { streaming, key: key.clone(), bootstrap, cursor: String::new(), bookmarks: 0 };
        let first = bounded("the first event", stream.read()).await?.expect("an event before the end");
        assert_eq!(first.event_type, "gateway.server_time");
        stream.bootstrap = ServerTime::decode(first.payload_bytes).unwrap();
        Ok(stream)
    }

    async fn read(&mut self) -> Result<Option<GatewayEvent>, Status> {
        let Some(event) = self.streaming.message().await? else { return Ok(None) };
        self.key.check_event(&event);
        assert_eq!(order(&self.cursor, &event.event_id), Ordering::Less, "event_id {} after {}", event.event_id, self.cursor);
        self.cursor.clone_from(&event.event_id);
        Ok(Some(event))
    }

    /// The next event of the application, or how the stream ended.
    pub async fn next(&mut self) -> Result<GatewayEvent, Status> {
        bounded("the next event", self.next_without_bound()).await
    }

    /// The same, however long it takes.
    pub async fn next_without_bound(&mut self) -> Result<GatewayEvent, Status> {
        loop {
            let event = self.read().await?.ok_or_else(|| Status::ok("the stream ended with OK"))?;
            if event.event_type != "gateway.bookmark" {
                return Ok(event);
            }
            ServerTime::decode(event.payload_bytes).expect("a bookmark's payload is ServerTime");
            self.bookmarks += 1;
        }
    }

    /// The payload of the next event as text; fails the test when the stream ends.
    pub async fn payload(&mut self) -> String {
        let event = self.next().await.expect("an event, not the end");
        String::from_utf8(event.payload_bytes.to_vec()).unwrap()
    }

    /// The next bookmark.
    pub async fn bookmark(&mut self) -> GatewayEvent {
        let event = bounded("a bookmark", self.read()).await.unwrap().expect("a bookmark, not the end");
        assert_eq!(event.event_type, "gateway.bookmark");
        event
    }

    /// How the stream ends; what comes before is read and counted.
    pub async fn end(&mut self) -> (usize, Status) {
        let mut events = 0;
        loop {
            match self.next().await {
                Ok(_) => events += 1,
                Err(status) => return (events, status),
            }
        }
    }
}

/// Compares cursors of the form `milliseconds-sequence`; the empty one is before all.
pub(crate) fn order(a: &str, b: &str) -> Ordering {
    let parts = |cursor: &str| cursor.split_once('-').map(|(ms, seq)| (ms.parse::<u64>().unwrap(), seq.parse::<u64>().unwrap()));
    parts(a).cmp(&parts(b))
}

/// Fails the test unless a stream ended as CONTRACT.md §1 says, with its cursor and a hint when to come back.
pub fn check_end(status: &Status, code: tonic::Code, message: &str, cursor: &str) {
    assert_eq!((status.code(), status.message()), (code, message));
    let trailer = |name: &str| {
        let value = status.metadata().get(name).unwrap_or_else(|| panic!("trailer {name} of {status:?}"));
        value.to_str().unwrap().to_owned()
    };
    assert_eq!(trailer("gateway-cursor"), cursor, "the last delivered event_id");
    assert!(trailer("gateway-retry-after-ms").parse::<u64>().is_ok());
}
