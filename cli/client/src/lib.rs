//! The reference client: what a device does, in the fewest parts, to be read, used, or written again in another language.
//!
//! A [`Device`] signs its requests. A [`Keyring`] trusts the gateway's public keys and nothing else, so that whatever it accepts was said by the gateway, to this session,
//! about this request. [`Order`] holds an event stream to what every stream promises. [`connect`] and [`public_keys`] are the way there, through TLS when
//! the [`Origin`] says `https`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use gatehouse_client::{Device, Order, Origin, Trust, connect, key, public_keys};
//!
//! async fn hello() -> anyhow::Result<()> {
//!     let patience = Duration::from_secs(5);
//!     let trust = Trust::System;
//!     let http: Origin = "https://gateway.example.com:8080".parse()?;
//!     let grpc: Origin = "https://gateway.example.com:9090".parse()?;
//!     let keyring = public_keys(&http, &trust, patience).await?;
//!     let mut gateway = connect(&grpc, &trust, patience).await?;
//!     let device = Device::new("ada-phone".to_owned(), key::read("device.pem".as_ref())?);
//!
//!     // One command, and an answer that is the gateway's own.
//!     let now = jiff::Timestamp::now();
//!     let command = device.command("demo.echo", &Device::new_request_id(), "hello".into(), now);
//!     let answer = gateway.execute_command(command.clone()).await?.into_inner();
//!     keyring.verify_response(&command, &answer)?;
//!     println!("{}: {:?}", answer.result_code, answer.payload_bytes);
//!
//!     // The session's events from now on; the last event's id resumes the stream.
//!     let mut events = gateway.subscribe_events(device.subscription("", now)).await?.into_inner();
//!     let mut order = Order::default();
//!     while let Some(event) = events.message().await? {
//!         keyring.verify_event(&event)?;
//!         order.take(&event)?;
//!         if !Order::is_own(&event) {
//!             println!("{} {}", event.event_id, event.event_type);
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # What a client does with a refusal
//! The gRPC status says what it was (`CONTRACT.md` §1); trailers say what to do. `gateway-server-time-ms`: this clock is wrong, and that is the time.
//! `retry-after-ms`: over a rate limit, and when to ask again. `gateway-cursor` and `gateway-retry-after-ms`: the stream ended; resume after that event, then. A
//! command whose answer was lost may have been carried out: send the same `request_id` again, and it is never carried out twice.

mod connection;
mod device;
pub mod key;
mod keyring;
mod order;
mod origin;
mod transport;

pub use connection::{NoKeys, connect, public_keys};
pub use device::Device;
pub use keyring::{Keyring, Unverified};
pub use order::{Order, Unordered};
pub use origin::{InvalidOrigin, Origin};
pub use transport::{NoTrust, Trust};
