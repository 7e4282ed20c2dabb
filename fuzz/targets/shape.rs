#![no_main]

use gatehouse_proto::gateway::v1::{ExecuteCommandRequest, SubscribeEventsRequest};
use gatehouse_sessions::fuzzing;
use prost::Message as _;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(request) = ExecuteCommandRequest::decode(data) {
        fuzzing::command(&request);
    }
    if let Ok(request) = SubscribeEventsRequest::decode(data) {
        fuzzing::subscribe(&request);
    }
});
