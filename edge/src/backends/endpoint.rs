//! One address of a backend: how it is reached, how busy it is, and whether it is passed over.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use gatehouse_chassis::Shutdown;
use http::{Uri, uri::PathAndQuery};

use super::{grpc, http as http1, load::Load, outlier::Outlier};
use crate::config::{Address, Backend, Ejection, Protocol};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) address: Address,
    pub(super) transport: Transport,
    pub(super) load: Arc<Load>,
    /// By its health checks; without any, always.
    healthy: AtomicBool,
    ejected: AtomicBool,
    /// Failures were counted since the last success.
    suspected: AtomicBool,
    outlier: Mutex<Outlier>,
}

/// How it is spoken to.
#[derive(Clone, Debug)]
pub(super) enum Transport {
    Grpc {
        pool: grpc::Pool,
        /// `CommandHandler.Execute` there.
        execute: Uri,
    },
    Http(Box<http1::Client>),
}

impl Endpoint {
    pub(super) fn new(backend: &Backend, address: &Address, shutdown: &Shutdown) -> Self {
        let transport = match backend.protocol {
            Protocol::Grpc => Transport::Grpc {
                pool: grpc::Pool::new(address.clone(), backend.connect_timeout, shutdown.clone()),
                execute: uri(address, &PathAndQuery::from_static("/gateway.downstream.v1.CommandHandler/Execute")),
            },
            Protocol::Http => Transport::Http(Box::new(http1::Client::new(address, backend.connect_timeout))),
        };
        Self {
            address: address.clone(),
            transport,
            load: Arc::default(),
            healthy: AtomicBool::new(true),
            ejected: AtomicBool::new(false),
            suspected: AtomicBool::new(false),
            outlier: Mutex::default(),
        }
    }

    /// What is asked of it, as a URI.
    pub(super) fn uri(&self, path: &PathAndQuery) -> Uri {
        uri(&self.address, path)
    }

    pub(super) fn is_usable(&self) -> bool {
        self.is_healthy() && !self.is_ejected()
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    pub(super) fn succeeded(&self) {
        if self.suspected.swap(false, Ordering::Relaxed) {
            self.outlier.lock().unwrap_or_else(PoisonError::into_inner).succeeded();
        }
    }

    /// Counts a failure. How long it is ejected from now on, if it is.
    pub(super) fn failed(&self, setting: &Ejection, may: bool) -> Option<Duration> {
        let mut outlier = self.outlier.lock().unwrap_or_else(PoisonError::into_inner);
        self.suspected.store(true, Ordering::Relaxed);
        let time = outlier.failed(setting, may, Instant::now())?;
        self.ejected.store(true, Ordering::Relaxed);
        Some(time)
    }

    /// Ends an ejection whose time is over.
    pub(super) fn readmit(&self) {
        let outlier = self.outlier.lock().unwrap_or_else(PoisonError::into_inner);
        self.ejected.store(outlier.is_ejected(Instant::now()), Ordering::Relaxed);
    }
}

fn uri(address: &Address, path: &PathAndQuery) -> Uri {
    // Of parts that each are well-formed.
    Uri::builder().scheme("http").authority(address.authority()).path_and_query(path.clone()).build().unwrap_or_default()
}
