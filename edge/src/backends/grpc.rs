//! Unary gRPC calls over HTTP/2, written on `h2` itself: the caller's own task sends the request and reads the answer, so that a command costs no task, no queue
//! and no second copy of its payload on the way. (A tonic `Channel` passes each through a buffer task, hyper's client through one of dispatch and one for each
//! answer.)
//!
//! Whatever is no answer by <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md> (another HTTP status than 200, no `grpc-status`, a message that is cut
//! short, compressed or too large) is a fault of the backend's, never a panic or a wait.

mod connection;
mod pool;

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::{Bytes, BytesMut};
use gatehouse_proto::limits::MAX_MESSAGE_BYTES;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use tonic::{Code, Status};

use super::fault::Fault;
pub(super) use pool::Pool;

/// One byte for compression, four for the length.
const PREFIX: usize = 5;

/// Calls a method with one message, its prefix already before it. The message of the answer, or why there is none; `sent` says whether anybody can have seen it.
pub(super) async fn unary(pool: &Pool, uri: &Uri, headers: HeaderMap, message: Bytes, sent: &AtomicBool) -> Result<Bytes, Fault> {
    let mut lease = pool.lease().await?;
    let request = request(uri, headers);
    // Refused here, nothing of it was written.
    let (answer, mut body) = lease.send_request(request).map_err(|_| Fault::Unprocessed)?;
    sent.store(true, Ordering::Relaxed);
    // A stream that is reset already says so where its answer is awaited.
    let _reset = body.send_data(message, true);
    let (head, mut body) = answer.await.map_err(|error| fault(&error))?.into_parts();
    lease.heard();
    if head.status != StatusCode::OK {
        tracing::debug!(status = head.status.as_u16(), "no gRPC answer");
        return Err(Fault::Garbage);
    }
    if let Some(status) = Status::from_header_map(&head.headers) {
        // No message belongs to it.
        return Err(if status.code() == Code::Ok { Fault::Garbage } else { Fault::of(&status) });
    }
    let message = read(&mut body).await?;
    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await.map_err(|error| fault(&error))?;
    lease.heard();
    match trailers.as_ref().and_then(Status::from_header_map) {
        Some(status) if status.code() == Code::Ok => unprefixed(message),
        Some(status) => Err(Fault::of(&status)),
        None => Err(Fault::Garbage),
    }
}

fn request(uri: &Uri, headers: HeaderMap) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("gatehouse/", env!("CARGO_PKG_VERSION"))));
    request
}

/// All bytes of the answer. Mostly they come in one piece, which is then not copied.
async fn read(body: &mut RecvStream) -> Result<Bytes, Fault> {
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    while let Some(chunk) = poll_fn(|cx| body.poll_data(cx)).await {
        let chunk = chunk.map_err(|error| fault(&error))?;
        // Only a stream that is closed has nothing to release to.
        let _closed = body.flow_control().release_capacity(chunk.len());
        if first.len() + rest.len() + chunk.len() > PREFIX + MAX_MESSAGE_BYTES {
            return Err(Fault::Garbage);
        }
        if first.is_empty() && rest.is_empty() {
            first = chunk;
        } else {
            if rest.is_empty() {
                rest.reserve(whole(&first).max(first.len() + chunk.len()));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&chunk);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// How long the message with its prefix is going to be, as far as is believed.
fn whole(first: &Bytes) -> usize {
    let length = first.get(1..PREFIX).and_then(|length| <[u8; 4]>::try_from(length).ok()).map_or(0, u32::from_be_bytes);
    PREFIX + usize::try_from(length).unwrap_or(usize::MAX).min(MAX_MESSAGE_BYTES)
}

fn unprefixed(mut message: Bytes) -> Result<Bytes, Fault> {
    let length = message.get(1..PREFIX).and_then(|length| <[u8; 4]>::try_from(length).ok()).map(u32::from_be_bytes);
    let rest = message.len().checked_sub(PREFIX).and_then(|rest| u32::try_from(rest).ok());
    if message.first() != Some(&0) || length.is_none() || length != rest {
        return Err(Fault::Garbage);
    }
    Ok(message.split_off(PREFIX))
}

/// A stream after the last that a `GOAWAY` names was not looked at, nor was one that is refused as such (RFC 9113 §8.7).
fn fault(error: &h2::Error) -> Fault {
    tracing::debug!(%error, "call failed");
    let unprocessed = error.is_remote() && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM));
    if unprocessed { Fault::Unprocessed } else { Fault::Broken }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_exactly_what_its_prefix_says() {
        for (bytes, message) in [
            (&b"\0\0\0\0\x03abc"[..], Some(&b"abc"[..])),
            (b"\0\0\0\0\0", Some(b"")),
            (b"", None),
            (b"\0\0\0\0", None),
            (b"\x01\0\0\0\x03abc", None),
            (b"\0\0\0\0\x04abc", None),
            (b"\0\0\0\0\x02abc", None),
            (b"\0\xff\xff\xff\xffabc", None),
            (b"<html>", None),
        ] {
            assert_eq!(unprefixed(Bytes::copy_from_slice(bytes)).ok().as_deref(), message, "{bytes:?}");
        }
    }
}
