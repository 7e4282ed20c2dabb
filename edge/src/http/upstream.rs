//! One HTTP backend: a pool of connections.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::net::UnixStream;

use super::errors::Problem;
use crate::config::{Address, Backend};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Below what servers commonly keep (60 s and more); a connection that the backend closes first costs a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_IDLE: usize = 128;

/// A backend that speaks HTTP/1.1.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    pub(crate) authority: Arc<str>,
    client: Pool,
}

#[derive(Clone, Debug)]
enum Pool {
    Tcp(Client<HttpConnector, Body>),
    Unix(Client<UnixConnector, Body>),
}

impl Upstream {
    pub(crate) fn new(backend: &Backend) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        // Without a timer of the pool's nothing in it ever expires.
        builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(MAX_IDLE);
        let client = match &backend.address {
            Address::Tcp(_) => {
                let mut connector = HttpConnector::new();
                connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
                connector.set_nodelay(true);
                Pool::Tcp(builder.build(connector))
            }
            Address::Unix(path) => Pool::Unix(builder.build(UnixConnector(path.as_path().into()))),
        };
        Self { name: backend.name.as_str().into(), authority: backend.address.authority().into(), client }
    }

    /// The backend's answer, whose body is still to come. However long it takes: whoever asks has the clocks.
    pub(crate) async fn request(&self, request: Request<Body>) -> Result<Response<Incoming>, Problem> {
        let answer = match &self.client {
            Pool::Tcp(client) => client.request(request).await,
            Pool::Unix(client) => client.request(request).await,
        };
        answer.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &Error) -> Problem {
        tracing::debug!(backend = &*self.name, error = error as &dyn std::error::Error, "backend not reached");
        Problem::BadGateway
    }
}

/// Connects to one unix socket, whatever is asked for.
#[derive(Clone, Debug)]
struct UnixConnector(Arc<std::path::Path>);

impl tower::Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<UnixStream>>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let path = Arc::clone(&self.0);
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}
