//! HTTP/1.1 to one endpoint: a pool of connections that are kept while idle, and what its errors say of a request.

use std::{
    error::Error as _,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, Client as Pooled},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};

use super::{
    fault::Fault,
    socket::{Socket, connect},
};
use crate::config::Address;

/// Below what servers commonly keep (60 s and more); a connection that the backend closes first costs a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_IDLE: usize = 128;

/// The connections to one endpoint; clones share them. A request on a kept connection that was closed before a byte of it was sent goes out again on another,
/// by the pool itself.
#[derive(Clone, Debug)]
pub(super) struct Client(Pooled<Connector, Body>);

impl Client {
    pub(super) fn new(address: &Address, connect_timeout: Duration) -> Self {
        let mut builder = Pooled::builder(TokioExecutor::new());
        // Without a timer of the pool's nothing in it ever expires.
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(MAX_IDLE);
        Self(builder.build(Connector { address: Arc::new(address.clone()), connect_timeout }))
    }

    /// The head of the answer, its body to come.
    pub(super) async fn request(&self, request: Request<Body>) -> Result<Response<Incoming>, Fault> {
        self.0.request(request).await.map_err(|error| {
            let fault = fault(&error);
            tracing::debug!(?fault, error = &error as &dyn std::error::Error, "request to a backend failed");
            fault
        })
    }
}

fn fault(error: &legacy::Error) -> Fault {
    if error.is_connect() {
        return Fault::Unreached;
    }
    // Said of a request that never was on its connection.
    let is_unsent = error.source().and_then(|source| source.downcast_ref::<hyper::Error>()).is_some_and(hyper::Error::is_canceled);
    if is_unsent { Fault::Unprocessed } else { Fault::Broken }
}

/// Connects to one address, whatever is asked for.
#[derive(Clone, Debug)]
struct Connector {
    address: Arc<Address>,
    connect_timeout: Duration,
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Socket>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (address, limit) = (Arc::clone(&self.address), self.connect_timeout);
        Box::pin(async move { connect(&address, limit).await.map(TokioIo::new) })
    }
}
