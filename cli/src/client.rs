//! A reference client: what a device does, in the fewest parts. A [`Device`] signs its requests; a [`Keyring`] trusts the gateway's public keys and
//! nothing else, so that whatever it accepts was said by the gateway, to this session, about this request.

mod connection;
mod device;
pub mod key;
mod keyring;
mod order;

pub use connection::{InvalidOrigin, NoKeys, Origin, connect, public_keys};
pub use device::Device;
pub use keyring::{Keyring, Unverified};
pub use order::{Order, Unordered};
