//! What an operator wants of the edge that it does while it runs: routes and circuits. Each may be done twice with the same end, so that a supervisor which takes over
//! from another may ask again.

use std::{fmt, str::FromStr};

use gatehouse_proto::{
    control::MAX_NAME_BYTES,
    internal::v1::{BreakerReset, RouteSwitch},
};

/// One wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Read the configuration file again.
    Reload,
    /// Take a route out of service.
    Disable(String),
    /// And back.
    Enable(String),
    /// Close a backend's circuit.
    ResetBreaker(String),
}

impl Ask {
    /// From a request; what is wrong with it, in words for the operator.
    pub(super) fn switch(RouteSwitch { name, enabled }: RouteSwitch) -> Result<Self, String> {
        let name = checked("route", name)?;
        Ok(if enabled { Self::Enable(name) } else { Self::Disable(name) })
    }

    pub(super) fn reset(BreakerReset { backend }: BreakerReset) -> Result<Self, String> {
        checked("backend", backend).map(Self::ResetBreaker)
    }

    /// The action's name in the trail.
    pub(super) const fn action(&self) -> &'static str {
        match self {
            Self::Reload => "config.reload",
            Self::Disable(_) => "route.disable",
            Self::Enable(_) => "route.enable",
            Self::ResetBreaker(_) => "breaker.reset",
        }
    }

    /// For metrics.
    pub(super) const fn verb(&self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Disable(_) => "route_disable",
            Self::Enable(_) => "route_enable",
            Self::ResetBreaker(_) => "breaker_reset",
        }
    }

    /// What it is done to, and of what kind that is.
    pub(super) fn resource(&self) -> (&str, &'static str) {
        match self {
            Self::Reload => ("edge", "component"),
            Self::Disable(name) | Self::Enable(name) => (name, "route"),
            Self::ResetBreaker(backend) => (backend, "backend"),
        }
    }
}

/// A name that can stand in a line.
fn checked(kind: &str, name: String) -> Result<String, String> {
    if name.trim() != name || name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(format!("the name of a {kind} has 1 to {MAX_NAME_BYTES} bytes, no control characters, and no blanks around it"));
    }
    Ok(name)
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reload => f.write_str("reload"),
            Self::Disable(name) => write!(f, "route disable {name}"),
            Self::Enable(name) => write!(f, "route enable {name}"),
            Self::ResetBreaker(backend) => write!(f, "breaker reset {backend}"),
        }
    }
}

impl FromStr for Ask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ask = match text.splitn(3, ' ').collect::<Vec<_>>()[..] {
            ["reload"] => Some(Self::Reload),
            ["route", "disable", name] => Some(Self::Disable(checked("route", name.to_owned())?)),
            ["route", "enable", name] => Some(Self::Enable(checked("route", name.to_owned())?)),
            ["breaker", "reset", backend] => Some(Self::ResetBreaker(checked("backend", backend.to_owned())?)),
            _ => None,
        };
        ask.ok_or_else(|| format!("unknown change `{text}`"))
    }
}
