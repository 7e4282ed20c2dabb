//! What an operator may want, and how it is written: in requests, in the trail, in the state file and on the command line alike.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use gatehouse_chassis::config::unknown_key;
use gatehouse_proto::{
    control::{COMPONENTS, MAX_INSTANCES, SCALABLE, check_instance, split_target, target},
    internal::v1::{self, ChangeStatus, change_request},
};

use super::ask::Ask;
use crate::component::Component;

/// What an operator wants, as the driver receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// A `UUIDv7`.
    pub(crate) id: String,
    /// `alice (uid 1000)`.
    pub(crate) actor: String,
    /// In the operator's words; may be empty.
    pub(crate) reason: String,
    /// What.
    pub(crate) change: Change,
    /// Since when it waits.
    pub(crate) queued: SystemTime,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A new generation, then the old one drains.
    Restart(Target),
    /// Until `Start`; no policy overrides it.
    Stop(Target),
    /// What was stopped.
    Start(Target),
    /// So many pushers.
    Scale {
        /// From 1 to 64.
        instances: u32,
    },
    /// The supervisor's own binary, then each component's.
    Upgrade {
        /// Where the new ones lie; `None`: where ours does.
        directory: Option<PathBuf>,
    },
    /// What the edge does while it runs.
    Edge(Ask),
}

/// The edge.
const EDGE: Target = Target { component: Component::Edge, instance: None };

/// Whom it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Of that kind
    pub(crate) component: Component,
    /// this one; `None`: all of them, one after the other.
    pub(crate) instance: Option<u32>,
}

impl Order {
    /// How it stands, in one of the words queued, running, done, failed; verdict and steps are the driver's to add.
    pub(crate) fn status(&self, state: &str) -> ChangeStatus {
        let queued = self.queued.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ChangeStatus {
            change_id: self.id.clone(),
            what: self.change.to_string(),
            actor: self.actor.clone(),
            reason: self.reason.clone(),
            state: state.to_owned(),
            queued_ms: i64::try_from(queued.as_millis()).unwrap_or(i64::MAX),
            ..ChangeStatus::default()
        }
    }

    /// The order behind a status; `None` when an older or newer supervisor wrote it in words that we do not know.
    pub(crate) fn of(status: &ChangeStatus) -> Option<Self> {
        let ChangeStatus { change_id, what, actor, reason, queued_ms, .. } = status;
        let queued = SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(*queued_ms).unwrap_or(0));
        Some(Self { id: change_id.clone(), actor: actor.clone(), reason: reason.clone(), change: what.parse().ok()?, queued })
    }
}

impl Change {
    /// From a request; what is wrong with it, in words for the operator.
    pub(crate) fn read(request: Option<change_request::Change>) -> Result<Self, String> {
        match request.ok_or("the request names no change")? {
            change_request::Change::Restart(target) => Target::read(&target).map(Self::Restart),
            change_request::Change::Stop(target) => Target::read(&target).map(Self::Stop),
            change_request::Change::Start(target) => Target::read(&target).map(Self::Start),
            change_request::Change::Scale(scale) => Self::scale(&scale),
            change_request::Change::Upgrade(upgrade) => match upgrade.directory.as_str() {
                "" => Ok(Self::Upgrade { directory: None }),
                directory if Path::new(directory).is_absolute() => Ok(Self::Upgrade { directory: Some(directory.into()) }),
                directory => Err(format!("{directory} is no absolute path")),
            },
            change_request::Change::Reload(v1::Reload {}) => Ok(Self::Edge(Ask::Reload)),
            change_request::Change::SwitchRoute(switch) => Ask::switch(switch).map(Self::Edge),
            change_request::Change::ResetBreaker(reset) => Ask::reset(reset).map(Self::Edge),
        }
    }

    fn scale(scale: &v1::Scale) -> Result<Self, String> {
        if component(&scale.component)?.name() != SCALABLE {
            return Err(format!("there is one {} and no more; only {SCALABLE}s can be scaled", scale.component));
        }
        if !(1..=MAX_INSTANCES).contains(&scale.instances) {
            return Err(format!("there may be 1 to {MAX_INSTANCES} {SCALABLE}s, not {}", scale.instances));
        }
        Ok(Self::Scale { instances: scale.instances })
    }

    /// The action's name in the trail.
    pub(crate) const fn action(&self) -> &'static str {
        match self {
            Self::Restart(_) => "component.restart",
            Self::Stop(_) => "component.stop",
            Self::Start(_) => "component.start",
            Self::Scale { .. } => "component.scale",
            Self::Upgrade { .. } => "suite.upgrade",
            Self::Edge(ask) => ask.action(),
        }
    }

    /// For metrics.
    pub(crate) const fn verb(&self) -> &'static str {
        match self {
            Self::Restart(_) => "restart",
            Self::Stop(_) => "stop",
            Self::Start(_) => "start",
            Self::Scale { .. } => "scale",
            Self::Upgrade { .. } => "upgrade",
            Self::Edge(ask) => ask.verb(),
        }
    }

    /// Whom it concerns, unless that is the whole suite.
    pub(crate) const fn target(&self) -> Option<Target> {
        match self {
            Self::Restart(target) | Self::Stop(target) | Self::Start(target) => Some(*target),
            Self::Scale { .. } => Some(Target { component: Component::Pusher, instance: None }),
            Self::Upgrade { .. } => None,
            Self::Edge(_) => Some(EDGE),
        }
    }

    /// What it is done to as the trail names it, and of what kind that is.
    pub(crate) fn resource(&self) -> (String, &'static str) {
        match (self, self.target()) {
            (Self::Edge(ask), _) => {
                let (name, kind) = ask.resource();
                (name.to_owned(), kind)
            }
            (_, Some(target)) => (target.to_string(), "component"),
            (_, None) => ("suite".to_owned(), "suite"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = self.verb();
        match self {
            Self::Restart(target) | Self::Stop(target) | Self::Start(target) => write!(f, "{verb} {target}"),
            Self::Scale { instances } => write!(f, "{verb} {SCALABLE} {instances}"),
            Self::Upgrade { directory: None } => f.write_str(verb),
            Self::Upgrade { directory: Some(directory) } => write!(f, "{verb} from {}", directory.display()),
            Self::Edge(ask) => ask.fmt(f),
        }
    }
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        match verb {
            "restart" => rest.parse().map(Self::Restart),
            "stop" => rest.parse().map(Self::Stop),
            "start" => rest.parse().map(Self::Start),
            "scale" => {
                let (component, instances) = rest.split_once(' ').ok_or("scale needs a number")?;
                let instances = instances.parse().map_err(|_| format!("`{instances}` is no number"))?;
                Self::scale(&v1::Scale { component: component.to_owned(), instances })
            }
            "upgrade" => Ok(Self::Upgrade { directory: rest.strip_prefix("from ").map(PathBuf::from) }),
            _ => text.parse().map(Self::Edge),
        }
    }
}

impl Target {
    fn read(target: &v1::Target) -> Result<Self, String> {
        let component = component(&target.component)?;
        target.instance.map_or(Ok(()), |instance| check_instance(component.name(), instance))?;
        Ok(Self { component, instance: target.instance })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&target(self.component.name(), self.instance))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (component, instance) = split_target(text)?;
        Self::read(&v1::Target { component: component.to_owned(), instance })
    }
}

fn component(name: &str) -> Result<Component, String> {
    Component::named(name).ok_or_else(|| format!("{name}: {}", unknown_key("component", name, &COMPONENTS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(change: Change) -> Order {
        let queued = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_123);
        Order { id: "0197".into(), actor: "alice (uid 1000)".into(), reason: "it leaks".into(), change, queued }
    }

    #[test]
    fn an_order_is_the_same_after_it_stood_in_the_state_file() {
        let changes = [
            "restart edge",
            "restart pusher/1",
            "stop redis/0",
            "start auditor",
            "scale pusher 64",
            "upgrade",
            "upgrade from /opt/gatehouse 2/bin",
            "reload",
            "route disable orders.*",
            "route enable /shop/a b",
            "breaker reset orders",
        ];
        for text in changes {
            let change: Change = text.parse().unwrap();
            assert_eq!(change.to_string(), text);
            let order = order(change);
            assert_eq!(Order::of(&order.status("queued")), Some(order));
        }
        assert_eq!(Order::of(&ChangeStatus { what: "fly".into(), ..ChangeStatus::default() }), None);
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let target = |component: &str, instance| v1::Target { component: component.into(), instance };
        let scale = |component: &str, instances| change_request::Change::Scale(v1::Scale { component: component.into(), instances });
        let restart = change_request::Change::Restart;
        let disable = |name: &str| change_request::Change::SwitchRoute(v1::RouteSwitch { name: name.into(), enabled: false });
        let no_name = "the name of a route has 1 to 256 bytes, no control characters, and no blanks around it";
        let cases = [
            (None, "the request names no change"),
            (Some(restart(target("egde", None))), "egde: unknown component; did you mean `edge`?"),
            (Some(restart(target("x", None))), "x: unknown component; known: redis, auditor, pusher, edge, admin"),
            (Some(restart(target("edge", Some(1)))), "there is one edge, and its number is 0"),
            (Some(restart(target("pusher", Some(64)))), "pushers are numbered 0 to 63"),
            (Some(scale("edge", 2)), "there is one edge and no more; only pushers can be scaled"),
            (Some(scale("pusher", 0)), "there may be 1 to 64 pushers, not 0"),
            (Some(scale("pusher", 65)), "there may be 1 to 64 pushers, not 65"),
            (Some(change_request::Change::Upgrade(v1::Upgrade { directory: "opt".into() })), "opt is no absolute path"),
            (Some(disable("")), no_name),
            (Some(disable("a ")), no_name),
            (Some(disable("a\nb")), no_name),
            (Some(disable(&"x".repeat(257))), no_name),
        ];
        for (request, why) in cases {
            assert_eq!(Change::read(request).unwrap_err(), why);
        }
    }

    #[test]
    fn every_component_can_be_named() {
        for name in COMPONENTS {
            assert_eq!(Component::named(name).map(Component::name), Some(name));
        }
    }
}
