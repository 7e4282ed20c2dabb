//! One HTTP backend: a pool of connections, and the wait for its answer's head.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::body::Body;
use http::{Request, Response, Uri};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::UnixStream, time::Instant};

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
    timeout: Duration,
    client: Pool,
}

#[derive(Clone, Debug)]
enum Pool {
    Tcp(Client<HttpConnector, Watched>),
    Unix(Client<UnixConnector, Watched>),
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
        Self { name: backend.name.as_str().into(), authority: backend.address.authority().into(), timeout: backend.timeout, client }
    }

    /// The backend's answer, whose body is still to come. The clock runs while the backend is silent: it stands while the client still sends, for a long upload
    /// is not the backend's slowness; a client that stops sending is told so.
    pub(crate) async fn request(&self, request: Request<Body>) -> Result<Response<Incoming>, Problem> {
        let progress = Arc::new(Mutex::new(Progress { at: Instant::now(), client_is_asked: false }));
        let request = request.map(|body| Watched { body, progress: Arc::clone(&progress) });
        let mut answer = match &self.client {
            Pool::Tcp(client) => client.request(request),
            Pool::Unix(client) => client.request(request),
        };
        loop {
            let last = *progress.lock().unwrap_or_else(PoisonError::into_inner);
            if let Ok(answer) = tokio::time::timeout_at(last.at + self.timeout, &mut answer).await {
                return answer.map_err(|error| self.failed(&error));
            }
            let now = *progress.lock().unwrap_or_else(PoisonError::into_inner);
            if now.at == last.at {
                return Err(if now.client_is_asked { Problem::RequestTimeout } else { Problem::GatewayTimeout });
            }
        }
    }

    fn failed(&self, error: &Error) -> Problem {
        tracing::debug!(backend = &*self.name, error = error as &dyn std::error::Error, "backend not reached");
        Problem::BadGateway
    }
}

#[derive(Clone, Copy, Debug)]
struct Progress {
    /// When the client's body last brought something.
    at: Instant,
    /// Whether it has been asked for more since.
    client_is_asked: bool,
}

/// A request's body that notes how it gets on.
#[derive(Debug)]
struct Watched {
    body: Body,
    progress: Arc<Mutex<Progress>>,
}

impl http_body::Body for Watched {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.client_is_asked = polled.is_pending();
        if polled.is_ready() {
            progress.at = Instant::now();
        }
        drop(progress);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
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
