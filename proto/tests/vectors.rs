//! The contract's worked examples, all of them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use gatehouse_proto::{
    gateway::v1::{ExecuteCommandRequest, ExecuteCommandResponse, GatewayEvent, SubscribeEventsRequest},
    keys::{PublicKey, Signer, hex, sha256},
    merkle, signing,
};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors.json")).unwrap()
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}")).to_owned()
}

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn bytes(value: &Value, name: &str) -> Vec<u8> {
    unhex(&text(value, name))
}

fn command(fields: &Value) -> ExecuteCommandRequest {
    ExecuteCommandRequest {
        protocol_version: text(fields, "protocol_version"),
        device_session_id: text(fields, "device_session_id"),
        message_type: text(fields, "message_type"),
        request_id: text(fields, "request_id"),
        timestamp_ms: fields["timestamp_ms"].as_i64().unwrap(),
        payload_bytes: bytes(fields, "payload_hex").into(),
        payload_hash: bytes(fields, "payload_hash_hex").into(),
        ..Default::default()
    }
}

fn event(fields: &Value, key_id: &str) -> GatewayEvent {
    let payload = bytes(fields, "payload_hex");
    GatewayEvent {
        event_id: text(fields, "event_id"),
        event_type: text(fields, "event_type"),
        user_id: text(fields, "user_id"),
        timestamp_ms: fields["timestamp_ms"].as_i64().unwrap(),
        payload_hash: sha256(&payload).to_vec().into(),
        payload_bytes: payload.into(),
        signer_key_id: key_id.to_owned(),
        ..Default::default()
    }
}

#[test]
fn every_case_has_its_signing_input_and_its_signature() {
    let vectors = vectors();
    let seed: [u8; 32] = bytes(&vectors["device"], "private_seed_hex").try_into().unwrap();
    let device = Signer::from_seed(&seed);
    assert_eq!(device.public_key().to_base64(), text(&vectors["device"], "public_key_base64"));
    let gateway = Signer::from_pkcs8_pem(&text(&vectors["gateway"], "private_key_pem")).unwrap();
    assert_eq!(gateway.public_key().to_base64(), text(&vectors["gateway"], "public_key_base64"));
    assert_eq!(gateway.key_id(), text(&vectors["gateway"], "key_id"));

    let cases = vectors["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let (name, fields) = (text(case, "name"), &case["fields"]);
        let (input, signer) = if name.starts_with("command") {
            let command = command(fields);
            assert_eq!(sha256(&command.payload_bytes)[..], command.payload_hash[..], "{name}");
            (signing::command(&command), &device)
        } else if name.starts_with("subscribe") {
            let request = SubscribeEventsRequest {
                protocol_version: text(fields, "protocol_version"),
                device_session_id: text(fields, "device_session_id"),
                request_id: text(fields, "request_id"),
                timestamp_ms: fields["timestamp_ms"].as_i64().unwrap(),
                last_event_id: text(fields, "last_event_id"),
                ..Default::default()
            };
            (signing::subscribe(&request), &device)
        } else if name.starts_with("response") {
            let response = ExecuteCommandResponse {
                protocol_version: text(fields, "protocol_version"),
                request_id: text(fields, "request_id"),
                result_code: text(fields, "result_code"),
                timestamp_ms: fields["timestamp_ms"].as_i64().unwrap(),
                payload_hash: bytes(fields, "payload_hash_hex").into(),
                signer_key_id: text(fields, "signer_key_id"),
                ..Default::default()
            };
            (signing::response(&text(fields, "device_session_id"), &response), &gateway)
        } else if name.starts_with("event") {
            (signing::event(&event(fields, gateway.key_id())), &gateway)
        } else {
            panic!("a case that no test knows: {name}");
        };
        assert_eq!(hex(&input), text(case, "signing_input_hex"), "{name}");
        assert_eq!(hex(&signer.sign(&input)), text(case, "signature_hex"), "{name}");
        assert!(signer.public_key().verifies(&input, &bytes(case, "signature_hex")), "{name}");
    }
}

#[test]
fn the_batch_has_its_root_signature_and_paths() {
    let vectors = vectors();
    let batch = &vectors["batch"];
    let key = PublicKey::from_base64(&text(&vectors["gateway"], "public_key_base64")).unwrap();
    let events = batch["events"].as_array().unwrap();
    let inputs: Vec<_> = events.iter().map(|fields| signing::event(&event(fields, &key.key_id()))).collect();
    for (fields, input) in events.iter().zip(&inputs) {
        assert_eq!(hex(input), text(fields, "signing_input_hex"));
    }

    let leaves: Vec<_> = inputs.iter().map(|input| merkle::leaf(input)).collect();
    let root = merkle::root(&leaves);
    assert_eq!(hex(&root), text(batch, "root_hex"));
    let count = u32::try_from(leaves.len()).unwrap();
    assert_eq!(batch["signature_leaves"].as_u64(), Some(u64::from(count)));
    let input = signing::event_batch(&root, count, &key.key_id());
    assert_eq!(hex(&input), text(batch, "signing_input_hex"));
    assert!(key.verifies(&input, &bytes(batch, "signature_hex")));

    for (i, fields) in events.iter().enumerate() {
        let wanted: Vec<_> =
            fields["signature_path_hex"].as_array().unwrap().iter().map(|step| step.as_str().unwrap().to_owned()).collect();
        let path = merkle::path(&leaves, i).unwrap();
        assert_eq!(path.iter().map(|step| hex(step)).collect::<Vec<_>>(), wanted);
        assert_eq!(fields["signature_index"].as_u64(), Some(i as u64));
        assert_eq!(merkle::implied_root(&leaves[i], u32::try_from(i).unwrap(), count, &path), Some(root));
    }
}
