//! What the two sides of the control interface agree on beyond its messages.

use std::fmt;

use crate::internal::v1::AddKey;

/// What a change may name.
pub const COMPONENTS: [&str; 5] = ["redis", "auditor", "pusher", "edge", "admin"];

/// The component that has instances.
pub const SCALABLE: &str = "pusher";

/// The most instances that it may have.
pub const MAX_INSTANCES: u32 = 64;

/// The longest reason of a change, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// The longest name of a route or a backend that a change may hold, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// Metadata of a request: on whose behalf root asks, as sudo(8) says it in `SUDO_USER`. A claim, recorded as one.
pub const CLAIMED_USER: &str = "gatehouse-claimed-user";

impl fmt::Debug for AddKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It holds a private key.
        f.debug_struct("AddKey").finish_non_exhaustive()
    }
}

/// What [`target`] wrote: a component and, if it names one, an instance.
pub fn split_target(text: &str) -> Result<(&str, Option<u32>), String> {
    let Some((component, number)) = text.split_once('/') else { return Ok((text, None)) };
    number.parse().map(|number| (component, Some(number))).map_err(|_| format!("`{number}` is no number"))
}

/// Says so if a component can have no instance of that number.
pub fn check_instance(component: &str, instance: u32) -> Result<(), String> {
    let instances = if component == SCALABLE { MAX_INSTANCES } else { 1 };
    match instances {
        instances if instance < instances => Ok(()),
        1 => Err(format!("there is one {component}, and its number is 0")),
        instances => Err(format!("{component}s are numbered 0 to {}", instances - 1)),
    }
}

/// `pusher/1`; without an instance all of them, `pusher`.
#[must_use]
pub fn target(component: &str, instance: Option<u32>) -> String {
    instance.map_or_else(|| component.to_owned(), |instance| format!("{component}/{instance}"))
}
