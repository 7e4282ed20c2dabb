//! What the suite consists of: who needs whom at the start, and who ends when.

use std::fmt;

use gatehouse_chassis::config::Shared;

/// One kind of child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Component {
    /// The embedded `redis-server`, when no address was configured.
    Redis,
    /// `gatehouse-auditor`.
    Auditor,
    /// `gatehouse-pusher`.
    Pusher,
    /// `gatehouse-edge`.
    Edge,
    /// `gatehouse-admin`.
    Admin,
}

/// The order of the drain. What stands in one stage is told at the same time: the edge stops accepting while the pushers close their hubs,
/// so that the streams which the edge relays can end. The auditor flushes when nobody produces any more.
pub(crate) const DRAIN_STAGES: [&[Component]; 4] =
    [&[Component::Edge, Component::Pusher], &[Component::Auditor], &[Component::Admin], &[Component::Redis]];

impl Component {
    /// Every kind that is a binary of ours.
    pub(crate) const OURS: [Self; 4] = [Self::Auditor, Self::Pusher, Self::Edge, Self::Admin];

    /// As it stands in configuration, metrics, logs and on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Auditor => "auditor",
            Self::Pusher => "pusher",
            Self::Edge => "edge",
            Self::Admin => "admin",
        }
    }

    /// Every kind.
    pub(crate) const ALL: [Self; 5] = [Self::Redis, Self::Auditor, Self::Pusher, Self::Edge, Self::Admin];

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|component| component.name() == name)
    }

    /// Whether two processes of one instance may run at the same time. An embedded Redis owns its files alone.
    pub(crate) fn overlaps(self) -> bool {
        self != Self::Redis
    }

    /// Who must be ready before it is first started. Later losses are tolerated: whoever is left reconnects.
    pub(crate) const fn needs(self) -> &'static [Self] {
        match self {
            Self::Redis => &[],
            Self::Auditor => &[Self::Redis],
            Self::Pusher | Self::Admin => &[Self::Auditor],
            Self::Edge => &[Self::Pusher],
        }
    }

    /// The names of the public sockets that it is lent.
    pub(crate) const fn public_sockets(self) -> &'static [&'static str] {
        match self {
            Self::Edge => &["http", "grpc"],
            Self::Pusher => &["push"],
            Self::Admin => &["admin"],
            Self::Redis | Self::Auditor => &[],
        }
    }

    /// Whether it has a local gRPC socket.
    pub(crate) fn is_ours(self) -> bool {
        self != Self::Redis
    }
}

/// One component's instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotId {
    pub(crate) component: Component,
    pub(crate) instance: u32,
}

impl fmt::Display for SlotId {
    /// As on the command line: `edge`, `pusher/1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.component {
            Component::Pusher => write!(f, "pusher/{}", self.instance),
            component => f.write_str(component.name()),
        }
    }
}

/// Every slot of this configuration with that many pushers, in the order of the start.
pub(crate) fn roll(shared: &Shared, pushers: u32) -> Vec<SlotId> {
    let redis = shared.redis.embedded.then_some(SlotId { component: Component::Redis, instance: 0 });
    let instances = |component: Component| if component == Component::Pusher { pushers } else { shared.instances(component.name()) };
    let slots = |component| (0..instances(component)).map(move |instance| SlotId { component, instance });
    redis.into_iter().chain(Component::OURS.into_iter().flat_map(slots)).collect()
}

/// `edge`, `pusher-1`: how people name one child.
pub(crate) fn label(slot: SlotId) -> String {
    let name = slot.component.name();
    if slot.component == Component::Pusher { format!("{name}-{}", slot.instance) } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_ends_in_exactly_one_stage_and_its_redis_last() {
        for component in Component::OURS.into_iter().chain([Component::Redis]) {
            assert_eq!(DRAIN_STAGES.iter().filter(|stage| stage.contains(&component)).count(), 1, "{component:?}");
        }
        assert_eq!(DRAIN_STAGES.last(), Some(&&[Component::Redis][..]));
    }

    #[test]
    fn whoever_is_needed_is_started_before() {
        for (i, component) in Component::OURS.into_iter().enumerate() {
            let needs_ours = component.needs().iter().filter(|needed| needed.is_ours());
            for needed in needs_ours {
                assert!(Component::OURS.iter().position(|other| other == needed) < Some(i), "{component:?} needs {needed:?}");
            }
        }
    }
}
