//! One HTTP/2 connection that several gRPC clients share, opened again whenever it has ended.
//!
//! Not a library's channel, for the sake of the classification: here it is known whether a request ever left. One that did not, because the connection had
//! ended in good order meanwhile, goes out on the next one, as gRPC demands of every client (transparent retry); one that did is never sent again.

use std::{
    error::Error,
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tower::Service;

use super::{
    Fault,
    tally::Tally,
    tap::{Known, Tap},
};

/// How often a request that did not leave is tried on another connection.
const TRIES: usize = 5;
/// A connect that takes longer has failed.
const CONNECT: Duration = Duration::from_secs(10);

/// Clones share the connection.
#[derive(Clone)]
pub(super) struct Line(Arc<Shared>);

struct Shared {
    address: SocketAddr,
    tally: Arc<Tally>,
    open: tokio::sync::Mutex<()>,
    current: Mutex<Option<Open>>,
}

#[derive(Clone)]
struct Open {
    sender: SendRequest<Body>,
    known: Arc<Known>,
}

/// The transport's end of a call, as the source of its status.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) fault: Fault,
    pub(super) connected: Option<Instant>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fault.fmt(f)
    }
}

impl Error for Broken {}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Line").field(&self.0.address).finish()
    }
}

impl Line {
    pub(super) fn new(address: SocketAddr, tally: Arc<Tally>) -> Self {
        Self(Arc::new(Shared { address, tally, open: tokio::sync::Mutex::new(()), current: Mutex::new(None) }))
    }

    /// What a client of it says where it wants to go.
    pub(super) fn origin(&self) -> http::Uri {
        format!("http://{}", self.0.address).parse().unwrap()
    }
}

impl Shared {
    fn current(&self) -> Option<Open> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        current.filter(|open| !open.sender.is_closed())
    }

    /// The connection that is open, or another; many who ask at once get the same.
    async fn open(&self) -> Result<Open, Broken> {
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let _one_at_a_time = self.open.lock().await;
        if let Some(open) = self.current() {
            return Ok(open);
        }
        let not_connected = |fault| Broken { fault, connected: None };
        let tap = match tokio::time::timeout(CONNECT, Tap::connect(self.address)).await {
            Ok(Ok(tap)) => tap,
            Ok(Err(error)) => {
                let fault = Fault::of_connect(&error);
                self.tally.count(|phase| phase.refused += u64::from(fault == Fault::Refused));
                return Err(not_connected(fault));
            }
            Err(_) => return Err(not_connected(Fault::NotConnected("timed out".into()))),
        };
        let known = Arc::clone(&tap.known);
        let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(tap)).await.map_err(|error| broken(&error, &known))?;
        let (tally, ending) = (Arc::clone(&self.tally), Arc::clone(&known));
        #[expect(clippy::disallowed_methods, reason = "ends with the load's runtime")]
        tokio::spawn(async move {
            // How it ended, its calls say, too.
            let _ended = connection.await;
            // What is written after the other side has said goodbye may be reset, and hurts nobody.
            if ending.was_reset() && !ending.was_closed() {
                tally.count(|phase| phase.resets += 1);
            }
        });
        let open = Open { sender, known };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(open.clone());
        Ok(open)
    }

    async fn call(&self, mut request: Request<Body>) -> Result<Response<Answer>, Broken> {
        let mut tries = 0;
        loop {
            let mut open = self.open().await?;
            let error = match open.sender.try_send_request(request).await {
                Ok(response) => {
                    let known = open.known;
                    return Ok(response.map(|body| body.map_err(move |error| in_answer(&error, &known)).boxed_unsync()));
                }
                Err(error) => error,
            };
            tries += 1;
            let mut error = error;
            match error.take_message() {
                Some(unsent) if tries < TRIES => {
                    self.tally.count(|phase| phase.unsent += 1);
                    request = unsent;
                    self.forget(&open.known);
                }
                _ => return Err(broken(error.error(), &open.known)),
            }
        }
    }

    /// It takes no more requests.
    fn forget(&self, known: &Arc<Known>) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|open| Arc::ptr_eq(&open.known, known)) {
            *current = None;
        }
    }
}

type Answer = UnsyncBoxBody<Bytes, Broken>;

/// Before the head of the answer.
fn broken(error: &hyper::Error, known: &Known) -> Broken {
    let fault = if known.was_reset() {
        Fault::Reset
    } else if known.was_closed() {
        Fault::Closed
    } else {
        Fault::Transport(chain(error))
    };
    Broken { fault, connected: Some(known.connected) }
}

/// After it.
fn in_answer(error: &hyper::Error, known: &Known) -> Broken {
    let fault = if known.was_reset() || known.was_closed() { Fault::Cut } else { Fault::Transport(chain(error)) };
    Broken { fault, connected: Some(known.connected) }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

impl Service<Request<Body>> for Line {
    type Response = Response<Answer>;
    type Error = Broken;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Broken>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move { shared.call(request).await })
    }
}
