//! One state of the routes. It never changes: another takes its place.

use std::sync::Arc;

use super::{behind::Behind, patterns::Patterns, switches::Switches};
use crate::{
    admission::Admission,
    closing::Closing,
    commands::Route,
    config::Config,
    http::{Cuts, Places, Proxy},
    trail::Trail,
};

/// Commands and HTTP routes.
#[derive(Debug)]
pub(crate) struct Table {
    commands: Patterns<Arc<Route>>,
    /// Which path goes where.
    pub(crate) places: Places,
    /// And what is done there.
    pub(crate) proxy: Proxy,
}

impl Table {
    pub(super) fn new(config: &Config, behind: &Behind, switches: &Switches, makings: &Makings) -> Self {
        let is_disabled = |name: &str| switches.of(name).is_some();
        let end = |backend: usize| behind.end(&config.backends.get(backend)?.name);
        let command = |command: &crate::config::Command| {
            let end = end(command.backend)?;
            let route = Route {
                backend: end.backend,
                room: end.room,
                timeout: command.timeout,
                audit: command.audit,
                replay: command.replay,
                idempotent: command.idempotent,
                path: command.path.clone(),
                priority: command.priority,
                disabled: is_disabled(&command.message_type),
            };
            Some((command.message_type.clone(), Arc::new(route)))
        };
        let proxy = Proxy::new(config, end, is_disabled, makings);
        Self { commands: Patterns::new(config.commands.iter().filter_map(command)), places: Places::new(&config.routes), proxy }
    }

    /// Where commands of that type go.
    pub(crate) fn command(&self, message_type: &str) -> Option<&Arc<Route>> {
        self.commands.find(message_type)
    }
}

/// What every table is made with.
#[derive(Clone, Debug)]
pub(crate) struct Makings {
    pub(crate) admission: Admission,
    pub(crate) trail: Trail,
    pub(crate) closing: Closing,
    pub(crate) cuts: Cuts,
}
