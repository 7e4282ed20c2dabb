//! What stands behind the routes: the backends, each with the bound of what it may have to do at once. A bound is kept as long as its backend's name is there, so that
//! what is in flight is counted on over a reload.

use std::{collections::HashMap, sync::Arc};

use crate::{
    admission::{Admission, Room},
    backends::{Backend, Backends},
    config,
};

/// One of them, as routes use it.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) backend: Arc<Backend>,
    /// What it may have to do at once.
    pub(crate) room: Room,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) backends: Backends,
    rooms: HashMap<String, Room>,
    admission: Admission,
}

impl Behind {
    /// As they were opened.
    pub(super) fn new(backends: Backends, configs: &[config::Backend], admission: Admission) -> Self {
        let mut this = Self { backends, rooms: HashMap::new(), admission };
        this.make_room(configs);
        this
    }

    /// Those, and no others, from now on.
    pub(super) fn reload(&mut self, configs: &[config::Backend]) {
        self.backends.reload(configs);
        self.make_room(configs);
    }

    pub(super) fn end(&self, name: &str) -> Option<End> {
        Some(End { backend: self.backends.get(name)?, room: self.rooms.get(name)?.clone() })
    }

    fn make_room(&mut self, configs: &[config::Backend]) {
        let mut before = std::mem::take(&mut self.rooms);
        for config in configs {
            let room = before.remove(&config.name).unwrap_or_else(|| self.admission.room());
            self.admission.renew(&room);
            self.rooms.insert(config.name.clone(), room);
        }
    }
}
