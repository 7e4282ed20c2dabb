//! What a signed command costs at least: a tonic server that decodes the device's key, verifies and signs, on the listening socket that it finds as its stdin.
//! A session's id is its public key in hex, so that there is nothing to look up.

use std::{net::TcpListener, os::fd::AsFd as _, pin::Pin};

use bytes::Bytes;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use futures_util::{Stream, stream};
use gatehouse_proto::gateway::v1::{
    ExecuteCommandRequest, ExecuteCommandResponse, SubscribeEventsRequest,
    encoded::gateway_server::{Gateway, GatewayServer},
};
use gatehouse_tests::{
    device::random_key,
    wire::{command_input, hex, sha256, signing_input},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

struct Reference {
    signer: SigningKey,
    signer_key_id: String,
}

#[tonic::async_trait]
impl Gateway for Reference {
    async fn execute_command(&self, request: Request<ExecuteCommandRequest>) -> Result<Response<ExecuteCommandResponse>, Status> {
        let request = request.into_inner();
        let key = decode(&request.device_session_id).ok_or_else(|| Status::unauthenticated("no key"))?;
        let signature = Signature::from_slice(&request.signature).map_err(|_| Status::invalid_argument("no signature"))?;
        if sha256(&[&request.payload_bytes])[..] != request.payload_hash[..] {
            return Err(Status::invalid_argument("payload_hash"));
        }
        key.verify_strict(&command_input(&request), &signature).map_err(|_| Status::unauthenticated("signature"))?;
        let mut response = ExecuteCommandResponse {
            protocol_version: request.protocol_version,
            request_id: request.request_id,
            result_code: "ok".into(),
            timestamp_ms: request.timestamp_ms,
            payload_hash: request.payload_hash,
            payload_bytes: request.payload_bytes,
            signer_key_id: self.signer_key_id.clone(),
            ..Default::default()
        };
        let input = signing_input(&[
            b"gateway.v1.response",
            response.protocol_version.as_bytes(),
            request.device_session_id.as_bytes(),
            response.request_id.as_bytes(),
            response.result_code.as_bytes(),
            &response.timestamp_ms.to_be_bytes(),
            &response.payload_hash,
            response.signer_key_id.as_bytes(),
        ]);
        response.signature = self.signer.sign(&input).to_vec().into();
        Ok(Response::new(response))
    }

    type SubscribeEventsStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

    async fn subscribe_events(&self, _: Request<SubscribeEventsRequest>) -> Result<Response<Self::SubscribeEventsStream>, Status> {
        Ok(Response::new(Box::pin(stream::empty())))
    }
}

fn decode(text: &str) -> Option<VerifyingKey> {
    let digits = text.as_bytes().as_chunks::<2>().0.iter();
    let bytes: Vec<u8> = digits.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
    VerifyingKey::from_bytes(bytes.first_chunk()?).ok()
}

fn main() -> anyhow::Result<()> {
    let socket = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let signer = random_key();
    let signer_key_id = hex(&sha256(&[signer.verifying_key().as_bytes()])[..8]);
    tokio::runtime::Runtime::new()?.block_on(async {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(socket)?).with_nodelay(Some(true));
        let service = GatewayServer::new(Reference { signer, signer_key_id });
        Server::builder().add_service(service).serve_with_incoming(incoming).await?;
        Ok(())
    })
}
