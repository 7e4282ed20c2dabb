//! Configuration: one TOML file, every key with an environment variable beside it where the contract names one; environment beats file.
//!
//! Each section belongs to one component, which reads it through a [`Reader`] and checks it there. The reader keeps every problem with its place, so
//! that an operator sees all of them at once, and knows which keys were asked for, so that an unknown one is refused with the nearest known name.

mod address;
mod changed;
mod document;
mod reader;
mod secret;
mod shared;
mod size;
mod source;
mod tracing;

pub use address::{ListenAddr, RedisAddr};
pub use changed::changed_sections;
pub use reader::{Key, Problem, Reader, Section, unknown_key};
pub use secret::Secret;
pub use shared::{Budgets, DatabaseUrl, LogConfig, LogFormat, RedisConfig, SentryConfig, Shared, embedded_password_path};
pub use size::{Bytes, NoSize};
pub use source::{DEFAULT_PATH, Origin, Source};
pub use tracing::{Collector, OtlpProtocol, TracingConfig};

/// A component's own part of the configuration.
pub trait Config: Sized {
    /// Reads the component's sections. Problems go to the reader; `None` when a value that is needed is missing or wrong.
    fn read(reader: &mut Reader) -> Option<Self>;
}
