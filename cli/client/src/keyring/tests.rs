//! Every field that a signature covers is altered in turn; the contract's own vectors verify.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use gatehouse_proto::keys::Signer;

use super::*;
use crate::Device;

type Alter<T> = fn(&mut T);

fn gateway() -> (Signer, Keyring) {
    let signer = Signer::from_seed(&[9; 32]);
    let keyring = [signer.public_key()].into_iter().collect();
    (signer, keyring)
}

fn exchange(signer: &Signer) -> (ExecuteCommandRequest, ExecuteCommandResponse) {
    let device = Device::new("ds-1".to_owned(), Signer::from_seed(&[1; 32]));
    let request = device.command("demo.echo", "r-1", Bytes::from_static(b"hi"), Timestamp::UNIX_EPOCH);
    let mut response = ExecuteCommandResponse {
        protocol_version: "v1".to_owned(),
        request_id: "r-1".to_owned(),
        result_code: "ok".to_owned(),
        timestamp_ms: 5,
        payload_bytes: Bytes::from_static(b"hi"),
        payload_hash: Bytes::copy_from_slice(&sha256(b"hi")),
        signer_key_id: signer.key_id().to_owned(),
        ..ExecuteCommandResponse::default()
    };
    response.signature = Bytes::copy_from_slice(&signer.sign(&signing::response("ds-1", &response)));
    (request, response)
}

#[test]
fn an_answer_verifies_and_no_altered_one_does() {
    let (signer, keyring) = gateway();
    let (request, response) = exchange(&signer);
    assert_eq!(keyring.verify_response(&request, &response), Ok(()));

    let cases: [(Alter<ExecuteCommandResponse>, Unverified); 10] = [
        (|r| r.protocol_version = "v2".to_owned(), Unverified::Foreign("protocol_version")),
        (|r| r.request_id = "r-2".to_owned(), Unverified::Foreign("request_id")),
        (|r| r.result_code = "denied".to_owned(), Unverified::Signature),
        (|r| r.timestamp_ms += 1, Unverified::Signature),
        (|r| r.payload_bytes = Bytes::from_static(b"ho"), Unverified::Payload),
        (|r| r.payload_hash = Bytes::new(), Unverified::Payload),
        (
            |r| {
                r.payload_bytes = Bytes::from_static(b"ho");
                r.payload_hash = Bytes::copy_from_slice(&sha256(b"ho"));
            },
            Unverified::Signature,
        ),
        (|r| r.signature = r.signature.slice(..63), Unverified::Signature),
        (|r| r.signature = Bytes::from_static(&[0; 64]), Unverified::Signature),
        (|r| r.signer_key_id = "0123456789abcdef".to_owned(), Unverified::UnknownSigner("0123456789abcdef".to_owned())),
    ];
    for (alter, reason) in cases {
        let mut altered = response.clone();
        alter(&mut altered);
        assert_eq!(keyring.verify_response(&request, &altered), Err(reason));
    }
    let foreign = ExecuteCommandRequest { device_session_id: "ds-2".to_owned(), ..request };
    assert_eq!(keyring.verify_response(&foreign, &response), Err(Unverified::Signature), "an answer to another session");
}

#[test]
fn an_answer_by_anybody_else_is_refused() {
    let (signer, keyring) = gateway();
    let (request, mut response) = exchange(&Signer::from_seed(&[8; 32]));
    assert!(matches!(keyring.verify_response(&request, &response), Err(Unverified::UnknownSigner(_))));
    signer.key_id().clone_into(&mut response.signer_key_id);
    assert_eq!(keyring.verify_response(&request, &response), Err(Unverified::Signature));
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../../proto/tests/vectors.json")).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn unhex(value: &Value) -> Bytes {
    let digits = value.as_str().unwrap();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn of_vectors(vectors: &Value) -> Keyring {
    [PublicKey::from_base64(&text(&vectors["gateway"]["public_key_base64"])).unwrap()].into_iter().collect()
}

fn event(vectors: &Value, fields: &Value) -> GatewayEvent {
    let payload = unhex(&fields["payload_hex"]);
    GatewayEvent {
        event_id: text(&fields["event_id"]),
        event_type: text(&fields["event_type"]),
        user_id: text(&fields["user_id"]),
        timestamp_ms: fields["timestamp_ms"].as_i64().unwrap(),
        payload_hash: Bytes::copy_from_slice(&sha256(&payload)),
        payload_bytes: payload,
        signer_key_id: text(&vectors["gateway"]["key_id"]),
        ..GatewayEvent::default()
    }
}

fn batch(vectors: &Value) -> Vec<GatewayEvent> {
    let batch = &vectors["batch"];
    let member = |fields: &Value| GatewayEvent {
        signature: unhex(&batch["signature_hex"]),
        signature_path: fields["signature_path_hex"].as_array().unwrap().iter().map(unhex).collect(),
        signature_index: u32::try_from(fields["signature_index"].as_u64().unwrap()).unwrap(),
        signature_leaves: u32::try_from(batch["signature_leaves"].as_u64().unwrap()).unwrap(),
        ..event(vectors, fields)
    };
    batch["events"].as_array().unwrap().iter().map(member).collect()
}

#[test]
fn the_vectors_events_verify_alone_and_batched() {
    let vectors = vectors();
    let keyring = of_vectors(&vectors);
    let lone = vectors["cases"].as_array().unwrap().iter().find(|case| case["name"] == "event").unwrap();
    let lone = GatewayEvent { signature: unhex(&lone["signature_hex"]), ..event(&vectors, &lone["fields"]) };
    assert_eq!(keyring.verify_event(&lone), Ok(()));
    let batch = batch(&vectors);
    assert_eq!(batch.len(), 3);
    for event in batch {
        assert_eq!(keyring.verify_event(&event), Ok(()), "{}", event.event_id);
    }
}

#[test]
fn no_altered_event_of_a_batch_verifies() {
    let vectors = vectors();
    let keyring = of_vectors(&vectors);
    let cases: [(&str, Alter<GatewayEvent>, Unverified); 14] = [
        ("event_id", |e| e.event_id = "1-1".to_owned(), Unverified::Signature),
        ("event_type", |e| e.event_type = "tock".to_owned(), Unverified::Signature),
        ("user_id", |e| e.user_id = "u-9".to_owned(), Unverified::Signature),
        ("timestamp_ms", |e| e.timestamp_ms += 1, Unverified::Signature),
        ("payload_bytes", |e| e.payload_bytes = Bytes::from_static(b"other"), Unverified::Payload),
        ("payload_hash", |e| e.payload_hash = Bytes::from_static(&[0; 32]), Unverified::Payload),
        ("signature", |e| e.signature = Bytes::from_static(&[1; 64]), Unverified::Signature),
        ("signer_key_id", |e| e.signer_key_id = "x".to_owned(), Unverified::UnknownSigner("x".to_owned())),
        ("signature_index", |e| e.signature_index = 0, Unverified::Signature),
        ("signature_index beyond", |e| e.signature_index = 3, Unverified::Path),
        ("signature_leaves", |e| e.signature_leaves = 4, Unverified::Signature),
        ("no path", |e| e.signature_path.clear(), Unverified::Signature),
        ("a path too short", |e| drop(e.signature_path.pop()), Unverified::Path),
        ("a step of the wrong length", |e| e.signature_path[0] = Bytes::from_static(&[0; 31]), Unverified::Path),
    ];
    for (name, alter, reason) in cases {
        let mut altered = batch(&vectors).remove(1);
        alter(&mut altered);
        assert_eq!(keyring.verify_event(&altered), Err(reason), "{name}");
    }
}
