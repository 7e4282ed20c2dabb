//! What stands behind the routes: the backends, each with the bound of what it may have to do at once. A bound is kept as long as its backend's name is there, so that
//! what is in flight is counted on over a reload.

use std::{collections::HashMap, sync::Arc};

use crate::{
    admission::{Admission, Within},
    backends::{Backend, Backends},
    config,
};

/// One of them, as routes use it.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) backend: Arc<Backend>,
    /// What it may have to do at once.
    pub(crate) bound: Within,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) backends: Backends,
    bounds: HashMap<String, Within>,
    admission: Admission,
}

impl Behind {
    /// As they were opened.
    pub(super) fn new(backends: Backends, configs: &[config::Backend], admission: Admission) -> Self {
        let mut this = Self { backends, bounds: HashMap::new(), admission };
        this.bound(configs);
        this
    }

    /// Those, and no others, from now on.
    pub(super) fn reload(&mut self, configs: &[config::Backend]) {
        self.backends.reload(configs);
        self.bound(configs);
    }

    pub(super) fn end(&self, name: &str) -> Option<End> {
        Some(End { backend: self.backends.get(name)?, bound: self.bounds.get(name)?.clone() })
    }

    fn bound(&mut self, configs: &[config::Backend]) {
        let mut before = std::mem::take(&mut self.bounds);
        for config in configs {
            let bound = before.remove(&config.name).unwrap_or_else(|| self.admission.backend());
            self.admission.renew(&bound);
            self.bounds.insert(config.name.clone(), bound);
        }
    }
}
