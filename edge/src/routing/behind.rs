//! What stands behind the routes. A backend whose configuration stays the same keeps its connections over a reload; its bound is kept as long as its name is there, so
//! that what is in flight is counted on.

use std::collections::HashMap;

use crate::{
    admission::{Admission, Within},
    commands::{Downstream, Outcomes},
    config::{Backend, Protocol},
    http::Upstream,
};

/// One of them, as routes use it.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) way: Way,
    /// What it may have to do at once.
    pub(crate) bound: Within,
}

/// How it is spoken to.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Grpc(Downstream),
    Http(Upstream),
}

/// All of them, by name.
#[derive(Debug)]
pub(super) struct Behind {
    ends: HashMap<String, (Backend, End)>,
    admission: Admission,
    outcomes: Outcomes,
}

impl Behind {
    pub(super) fn new(admission: Admission, outcomes: Outcomes) -> Self {
        Self { ends: HashMap::new(), admission, outcomes }
    }

    /// Those backends, and no others, from now on.
    pub(super) fn reload(&mut self, backends: &[Backend]) {
        let mut before = std::mem::take(&mut self.ends);
        for backend in backends {
            let end = match before.remove(&backend.name) {
                Some((known, end)) if known == *backend => end,
                Some((_, End { bound, .. })) => End { way: self.way(backend), bound },
                None => End { way: self.way(backend), bound: self.admission.backend() },
            };
            self.admission.renew(&end.bound);
            self.ends.insert(backend.name.clone(), (backend.clone(), end));
        }
    }

    pub(super) fn end(&self, name: &str) -> Option<&End> {
        self.ends.get(name).map(|(_, end)| end)
    }

    fn way(&self, backend: &Backend) -> Way {
        match backend.protocol {
            Protocol::Grpc => Way::Grpc(Downstream::new(backend, &self.outcomes)),
            Protocol::Http => Way::Http(Upstream::new(backend)),
        }
    }
}

/// How one backend's circuit stands.
#[derive(Clone, Debug)]
pub(super) struct Circuit {
    pub(super) backend: String,
    /// `closed`, `half_open`, `open`.
    pub(super) state: &'static str,
    pub(super) detail: String,
}

impl Behind {
    pub(super) fn circuits(&self) -> Vec<Circuit> {
        Vec::new()
    }

    /// Whether there is such a backend; its circuit is closed then.
    pub(super) fn reset_circuit(&self, _name: &str) -> bool {
        false
    }
}
