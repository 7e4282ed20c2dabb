//! The contract of Gatehouse in types: what goes over the wire, what is signed, what stands in Redis, what links the audit chain.
//!
//! Pure by rule: no I/O, no clock, no runtime. Everything here can be proven by a table or a property.

pub mod audit;
pub mod control;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod generated;
pub mod ids;
pub mod keys;
pub mod merkle;
pub mod raw;
pub mod session;
pub mod signing;
pub mod status;
pub mod stream;

pub use generated::{FILE_DESCRIPTOR_SET, downstream, gateway, internal};

/// Size limits of the public contract. What exceeds them is refused by naming the field.
pub mod limits {
    /// Longest `device_session_id`, `message_type`, `request_id` and `user_id`, in bytes.
    pub const MAX_ID_BYTES: usize = 128;
    /// Longest `traceparent`; W3C Trace Context version 00 uses 55 bytes.
    pub const MAX_TRACEPARENT_BYTES: usize = 128;
    /// Longest resume cursor, `event_id` and `last_event_id` alike.
    pub const MAX_CURSOR_BYTES: usize = 64;
    /// Largest `payload_bytes` of a command.
    pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;
    /// Largest gRPC message read from a client: the payload and room for every other field.
    pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
}
