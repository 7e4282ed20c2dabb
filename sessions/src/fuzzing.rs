//! What must hold of the shape of requests, whatever their bytes; called by `fuzz/` and by the test below.
#![allow(clippy::missing_panics_doc, reason = "to panic is how these functions say that something is wrong")]

use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, SubscribeEventsRequest},
    keys::sha256,
    limits::{MAX_CURSOR_BYTES, MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_TRACEPARENT_BYTES},
};

use crate::{Refusal, shape};

/// A command passes whole or is refused by a name; what passes is within every bound.
pub fn command(request: &ExecuteCommandRequest) {
    if shape::command(request).map_err(Refusal::status).is_ok() {
        for id in [&request.device_session_id, &request.message_type, &request.request_id] {
            assert!((1..=MAX_ID_BYTES).contains(&id.len()));
        }
        assert!(request.payload_bytes.len() <= MAX_PAYLOAD_BYTES && request.traceparent.len() <= MAX_TRACEPARENT_BYTES);
        assert_eq!((request.signature.len(), &request.payload_hash[..]), (64, &sha256(&request.payload_bytes)[..]));
    }
}

/// The same of a subscribe.
pub fn subscribe(request: &SubscribeEventsRequest) {
    if shape::subscribe(request).map_err(Refusal::status).is_ok() {
        for id in [&request.device_session_id, &request.request_id] {
            assert!((1..=MAX_ID_BYTES).contains(&id.len()));
        }
        assert!(request.signature.len() == 64 && request.last_event_id.len() <= MAX_CURSOR_BYTES);
        let cursor = shape::cursor(&request.last_event_id).unwrap_or_default();
        assert_eq!(cursor.map(|cursor| cursor.to_string()).unwrap_or_default(), request.last_event_id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn any_fields_pass_whole_or_are_refused_by_a_name(
            texts in vec("\\PC{0,140}|v1|[0-9]{1,3}-[0-9]{1,3}", 6),
            payload: Vec<u8>,
            signature in prop_oneof![vec(any::<u8>(), 64), vec(any::<u8>(), 0..70)],
            hash: bool,
        ) {
            let [version, session, message_type, id, cursor, traceparent] = <[String; 6]>::try_from(texts).unwrap();
            let payload_hash = if hash { sha256(&payload).to_vec() } else { payload.clone() };
            subscribe(&SubscribeEventsRequest {
                protocol_version: version.clone(),
                device_session_id: session.clone(),
                request_id: id.clone(),
                signature: signature.clone().into(),
                last_event_id: cursor,
                ..Default::default()
            });
            command(&ExecuteCommandRequest {
                protocol_version: version,
                device_session_id: session,
                message_type,
                request_id: id,
                timestamp_ms: 0,
                payload_bytes: payload.into(),
                payload_hash: payload_hash.into(),
                signature: signature.into(),
                traceparent,
            });
        }
    }
}
