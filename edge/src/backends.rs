//! What stands behind the edge: named backends of several endpoints each, for commands and for HTTP routes alike.
//!
//! A [`Backend`] is held by whoever routes to it. A reload that changes or removes it lets what is on its way end as it began, on the backend it began on.

mod backend;
mod budget;
mod call;
mod choice;
mod circuit;
mod endpoint;
mod fault;
mod forward;
mod grpc;
mod health;
mod http;
mod load;
mod metrics;
mod outlier;
mod posted;
mod socket;

use std::sync::{Arc, Mutex, PoisonError};

use gatehouse_chassis::{Shutdown, metrics::Metrics};

pub(crate) use backend::Backend;
pub(crate) use call::{Call, Deadline};
pub(crate) use circuit::State;
pub(crate) use fault::Failure;
pub(crate) use forward::{
    Answer, Ending, Unanswered,
    clock::{Clock, Progress, Turn},
};
use metrics::BackendMetrics;

use crate::config;

/// All backends of the process; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Backends {
    shutdown: Shutdown,
    metrics: BackendMetrics,
    open: Arc<Mutex<Vec<Arc<Backend>>>>,
}

/// How the circuit of a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CircuitState {
    pub(crate) backend: String,
    pub(crate) state: State,
}

impl Backends {
    /// Opens them. Nothing is connected to before it is needed, or checked.
    pub(crate) fn open(shutdown: &Shutdown, metrics: &Metrics, configs: &[config::Backend]) -> Self {
        let this = Self { shutdown: shutdown.clone(), metrics: BackendMetrics::new(metrics), open: Arc::default() };
        this.reload(configs);
        this
    }

    /// From now on these. One whose configuration is the same stays as it is, with its connections, its circuit, its health and its load; the tasks of those that are
    /// gone or changed end.
    pub(crate) fn reload(&self, configs: &[config::Backend]) {
        let mut open = self.lock();
        let mut before = std::mem::take(&mut *open);
        let mut kept = Vec::new();
        for config in configs {
            kept.push(before.iter().position(|backend| backend.config == *config).map(|i| before.swap_remove(i)));
        }
        for gone in before {
            gone.close();
            self.metrics.forget(gone.name());
        }
        let opened = |config: &config::Backend| Backend::open(config, self.metrics.of(&config.name), &self.shutdown);
        *open = configs.iter().zip(kept).map(|(config, kept)| kept.unwrap_or_else(|| opened(config))).collect();
    }

    /// The backend of that name.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Backend>> {
        self.lock().iter().find(|backend| backend.name() == name).cloned()
    }

    /// All circuits, in the order of the configuration.
    pub(crate) fn circuits(&self) -> Vec<CircuitState> {
        let state = |backend: &Arc<Backend>| CircuitState { backend: backend.name().to_owned(), state: backend.breaker.state() };
        self.lock().iter().map(state).collect()
    }

    /// Closes the circuit of that backend; false when there is none of that name.
    pub(crate) fn reset_circuit(&self, name: &str) -> bool {
        self.get(name).is_some_and(|backend| backend.breaker.reset() == State::Closed)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Backend>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
