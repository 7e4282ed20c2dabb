//! gRPC codecs whose response messages are already encoded protobuf bytes.
//!
//! A pusher encodes and signs an event once and hands the same bytes to every stream; the edge relays them without decoding.

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// A server's codec: decodes requests, writes encoded responses.
#[derive(Debug)]
pub struct EncodedServerCodec<D>(PhantomData<D>);

impl<D> Default for EncodedServerCodec<D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<D: Message + Default + Send + 'static> Codec for EncodedServerCodec<D> {
    type Encode = Bytes;
    type Decode = D;
    type Encoder = BytesEncoder;
    type Decoder = ProstDecoder<D>;

    fn encoder(&mut self) -> BytesEncoder {
        BytesEncoder
    }

    fn decoder(&mut self) -> ProstDecoder<D> {
        ProstCodec::<D, D>::raw_decoder(BufferSettings::default())
    }
}

/// A client's codec: encodes requests, reads responses as bytes.
#[derive(Debug)]
pub struct EncodedClientCodec<E>(PhantomData<E>);

impl<E> Default for EncodedClientCodec<E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E: Message + Default + Send + 'static> Codec for EncodedClientCodec<E> {
    type Encode = E;
    type Decode = Bytes;
    type Encoder = ProstEncoder<E>;
    type Decoder = BytesDecoder;

    fn encoder(&mut self) -> ProstEncoder<E> {
        ProstCodec::<E, E>::raw_encoder(BufferSettings::default())
    }

    fn decoder(&mut self) -> BytesDecoder {
        BytesDecoder
    }
}

/// Writes a message that is encoded already.
#[derive(Debug)]
pub struct BytesEncoder;

impl Encoder for BytesEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

/// Reads a message as the bytes it came in.
#[derive(Debug)]
pub struct BytesDecoder;

impl Decoder for BytesDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = src.remaining();
        Ok(Some(src.copy_to_bytes(length)))
    }
}

/// The `event_id` of an encoded `GatewayEvent`, without decoding the rest. Encoders write fields in ascending order, so that
/// `event_id`, field 1, stands first; anything else yields `None`.
pub fn peek_event_id(encoded: &[u8]) -> Option<&str> {
    const EVENT_ID_TAG: u8 = 0x0a; // field 1, length-delimited
    let (&tag, rest) = encoded.split_first()?;
    let (&length, rest) = rest.split_first()?;
    // Cursors are at most 64 bytes, so that the length is always a varint of one byte.
    if tag != EVENT_ID_TAG || usize::from(length) > crate::limits::MAX_CURSOR_BYTES {
        return None;
    }
    std::str::from_utf8(rest.get(..usize::from(length))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::v1::GatewayEvent;

    #[test]
    fn the_event_id_is_read_without_decoding() {
        let event = GatewayEvent { event_id: "17-3".into(), event_type: "t".into(), ..Default::default() };
        assert_eq!(peek_event_id(&event.encode_to_vec()), Some("17-3"));
    }

    #[test]
    fn truncated_and_foreign_bytes_have_no_event_id() {
        for bytes in [&[][..], &[0x0a], &[0x0a, 5, b'1'], &[0x12, 1, b'x'], &[0x0a, 0xff, 1], &[0x0a, 1, 0xff]] {
            assert_eq!(peek_event_id(bytes), None, "{bytes:?}");
        }
    }
}
