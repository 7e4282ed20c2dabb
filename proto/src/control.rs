//! What the two sides of the control interface agree on beyond its messages.

/// What a change may name.
pub const COMPONENTS: [&str; 5] = ["redis", "auditor", "pusher", "edge", "admin"];

/// The component that has instances.
pub const SCALABLE: &str = "pusher";

/// The most instances that it may have.
pub const MAX_INSTANCES: u32 = 64;

/// The longest reason of a change, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// Metadata of a request: on whose behalf root asks, as sudo(8) says it in `SUDO_USER`. A claim, recorded as one.
pub const CLAIMED_USER: &str = "gatehouse-claimed-user";

/// `pusher/1`; without an instance all of them, `pusher`.
#[must_use]
pub fn target(component: &str, instance: Option<u32>) -> String {
    instance.map_or_else(|| component.to_owned(), |instance| format!("{component}/{instance}"))
}
