//! One connection, from its first byte to its end.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use http::{HeaderValue, Request, Response, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use prometheus::IntGauge;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout_at},
};
use tower::ServiceExt as _;

use super::{
    ConnectionMetrics, Terms,
    answer::Answer,
    caller::{Caller, Peer, Socket},
    lent::{Lent, Stream, linger},
    metrics::reason,
    pong::Pong,
    proxied,
    room::Place,
    tls::Tls,
    traffic::Traffic,
    vigil::{Verdict, Vigil},
};
use crate::Shutdown;

/// How long a client may take to leave that has nothing to wait for.
const PARTING: Duration = Duration::from_secs(10);

/// What all connections of a listener share.
pub(super) struct Host {
    pub(super) name: &'static str,
    pub(super) builder: auto::Builder<TokioExecutor>,
    pub(super) router: Router,
    pub(super) metrics: ConnectionMetrics,
    pub(super) open: IntGauge,
    pub(super) terms: Terms,
    pub(super) shutdown: Shutdown,
}

/// One connection as long as it lasts.
struct Guest<'a, N> {
    host: &'a Host,
    traffic: Arc<Traffic>,
    /// Resolves when it is asked to leave.
    notice: Pin<&'a mut N>,
}

/// A connection that goes no further, and whether that is a limit's doing.
enum Refused {
    /// Over this limit.
    Limit(&'static str),
    /// It broke on this error.
    Error(&'static str),
    /// The process ends, and it has said nothing yet.
    Leaves(Socket),
}

impl Host {
    /// A place for whoever comes, if there is one. Whose a proxied connection is will be known later.
    pub(super) fn admit(&self, peer: Option<SocketAddr>) -> Result<Option<Place>, &'static str> {
        let Some(room) = &self.terms.gate.room else { return Ok(None) };
        let mut place = room.enter().ok_or("full")?;
        match peer {
            Some(peer) if !self.terms.gate.proxies.contain(peer.ip()) && !place.claim(peer.ip()) => Err("address"),
            _ => Ok(Some(place)),
        }
    }

    pub(super) fn refused(&self, reason: &str) {
        self.metrics.refused.with_label_values(&[self.name, reason]).inc();
    }

    fn failed(&self, reason: &str) {
        self.metrics.errors.with_label_values(&[self.name, reason]).inc();
    }

    /// Serves one connection, from its first byte to its end.
    pub(super) async fn entertain(&self, socket: Socket, mut caller: Caller, mut place: Option<Place>) {
        let (limits, traffic) = (&self.terms.limits, Traffic::new());
        let notice = pin!(async {
            let drained = async {
                self.shutdown.draining().await;
                sleep(limits.farewell.turn(self.open.get())).await;
            };
            tokio::select! {
                () = drained => {}
                () = lived(limits.lifetime) => {}
                () = traffic.notice().given() => {}
            }
            traffic.notice().give();
        });
        let mut guest = Guest { host: self, traffic: Arc::clone(&traffic), notice };
        match guest.begin(socket, &mut caller, place.as_mut()).await {
            Ok(stream) => {
                let farewell = &limits.farewell;
                let pong = if farewell.refuses { Pong::of_ours() } else { Pong::after(farewell.settling) };
                let (lent, returned) = Lent::new(stream, pong, &traffic);
                if guest.converse(lent, caller).await
                    && let Ok(stream) = returned.await
                {
                    linger(stream, limits.farewell.linger).await;
                }
            }
            Err(Refused::Leaves(socket)) => linger(socket.into_stream(), limits.farewell.linger).await,
            Err(Refused::Limit(reason)) => self.refused(reason),
            Err(Refused::Error(reason)) => self.failed(reason),
        }
    }

    fn answer(
        &self,
        request: Request<Incoming>,
        Caller { peer, credentials, secured }: Caller,
        traffic: &Arc<Traffic>,
    ) -> impl Future<Output = Result<Response<Answer>, h2::Error>> + Send + use<> {
        let (version, mut open) = (request.version(), traffic.begin(request.version()));
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        credentials.map(|credentials| request.extensions_mut().insert(credentials));
        secured.map(|secured| request.extensions_mut().insert(secured));
        request.extensions_mut().insert(traffic.notice().clone());
        let refused = self.terms.limits.farewell.refuses && self.shutdown.is_draining();
        let answer = (!refused).then(|| self.router.clone().oneshot(request));
        async move {
            let Some(answer) = answer else {
                open.complete();
                // "The endpoint … has not performed any processing" (RFC 9113 §8.7): it may be sent again, whatever it was.
                return Err(h2::Reason::REFUSED_STREAM.into());
            };
            let Ok(mut response) = answer.await;
            if open.is_last(version) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if http_body::Body::is_end_stream(response.body()) {
                open.complete();
            } else {
                // Its head is the first part; the next is asked for when the client has room for it.
                open.deliver();
            }
            Ok(response.map(|body| Answer::new(body, open)))
        }
    }
}

impl<N: Future<Output = ()> + Send> Guest<'_, N> {
    /// Whatever comes before HTTP. Nothing but this limits the wait for it: the version cannot be told before the first byte.
    async fn begin(&mut self, mut socket: Socket, caller: &mut Caller, place: Option<&mut Place>) -> Result<Box<dyn Stream>, Refused> {
        let (gate, deadline) = (&self.host.terms.gate, self.traffic.begun() + self.host.terms.limits.head);
        if let (Socket::Tcp(stream), Some(peer)) = (&mut socket, caller.peer.0)
            && gate.proxies.contain(peer.ip())
        {
            match self.within(deadline, proxied::read(stream)).await {
                Some(Ok(client)) => caller.peer = Peer(Some(client.unwrap_or(peer))),
                Some(Err(error)) => {
                    tracing::debug!(listener = self.host.name, %peer, %error, "no PROXY header");
                    return Err(Refused::Limit("proxy"));
                }
                None => return Err(self.silent(socket)),
            }
            if let (Some(place), Peer(Some(client))) = (place, caller.peer)
                && !place.claim(client.ip())
            {
                return Err(Refused::Limit("address"));
            }
        }
        if self.within(deadline, socket.heard()).await.is_none() {
            return Err(self.silent(socket));
        }
        match (socket, &gate.tls) {
            (Socket::Tcp(stream), Some(tls)) => self.shake_hands(stream, tls, deadline, caller).await,
            (socket, _) => Ok(socket.into_stream()),
        }
    }

    async fn shake_hands(
        &mut self,
        stream: TcpStream,
        tls: &Tls,
        deadline: Instant,
        caller: &mut Caller,
    ) -> Result<Box<dyn Stream>, Refused> {
        let deadline = deadline.min(Instant::now() + tls.handshake_timeout());
        match self.within(deadline, tls.accept(stream)).await {
            Some(Ok((stream, secured))) => {
                caller.secured = Some(secured);
                Ok(Box::new(stream))
            }
            Some(Err(error)) => {
                tracing::debug!(listener = self.host.name, %error, "TLS handshake failed");
                Err(Refused::Error("tls"))
            }
            None => Err(Refused::Limit("handshake")),
        }
    }

    /// What comes of a step before the deadline; once it is asked to leave, in as little time as a silent connection has.
    async fn within<T>(&mut self, deadline: Instant, step: impl Future<Output = T>) -> Option<T> {
        let mut step = pin!(step);
        if !self.traffic.notice().is_given() {
            tokio::select! {
                biased;
                done = timeout_at(deadline, step.as_mut()) => return done.ok(),
                () = self.notice.as_mut() => {}
            }
        }
        let deadline = deadline.min(Instant::now() + self.host.terms.limits.farewell.silence);
        timeout_at(deadline, step).await.ok()
    }

    fn silent(&self, socket: Socket) -> Refused {
        if self.traffic.notice().is_given() { Refused::Leaves(socket) } else { Refused::Limit(Verdict::Head.reason()) }
    }

    /// Answers what comes. Whether the client may still be there.
    async fn converse(mut self, lent: Lent, caller: Caller) -> bool {
        let (host, traffic) = (self.host, &self.traffic);
        let limits = &host.terms.limits;
        let service = service_fn(|request| host.answer(request, caller.clone(), traffic));
        let mut connection = pin!(host.builder.serve_connection(TokioIo::new(lent), service));
        let mut vigil = Vigil::new(limits, traffic);
        let leaving = async {
            if !traffic.notice().is_given() {
                self.notice.as_mut().await;
            }
            traffic.quiet(&limits.farewell).await;
        };
        let mut leaving = pin!(leaving);
        // On HTTP/1, what a client has sent is read before its connection is closed. On HTTP/2 all of it is read anyway, and a client hears that it is to
        // leave no later than its answer.
        let ended = poll_fn(|cx| {
            loop {
                let leaves_first = traffic.is_http2();
                if leaves_first && leaving.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ended::Leaves);
                }
                if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                    return Poll::Ready(Ended::Itself(ended));
                }
                if !leaves_first && leaving.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Ended::Leaves);
                }
                match ready!(vigil.poll(cx, traffic)) {
                    Verdict::Idle => {
                        host.refused(Verdict::Idle.reason());
                        traffic.notice().give();
                    }
                    verdict => return Poll::Ready(Ended::Cut(verdict)),
                }
            }
        });
        let ended = match ended.await {
            Ended::Leaves => {
                connection.as_mut().graceful_shutdown();
                let watched = poll_fn(|cx| match connection.as_mut().poll(cx) {
                    Poll::Ready(ended) => Poll::Ready(Ended::Itself(ended)),
                    Poll::Pending => vigil.poll(cx, traffic).map(Ended::Cut),
                });
                tokio::select! {
                    ended = watched => ended,
                    () = lived(limits.lifetime) => return false,
                    () = deserted(traffic) => return false,
                }
            }
            ended => ended,
        };
        match ended {
            Ended::Cut(verdict) => {
                host.refused(verdict.reason());
                false
            }
            Ended::Itself(Err(_)) if traffic.is_hostile() => {
                host.refused(Verdict::Hostile.reason());
                false
            }
            Ended::Itself(Err(error)) => {
                let reason = reason(error.as_ref());
                host.failed(reason);
                tracing::debug!(listener = host.name, reason, %error, "connection ended on an error");
                reason != "reset"
            }
            Ended::Itself(Ok(())) | Ended::Leaves => true,
        }
    }
}

/// What became of a conversation.
enum Ended<E> {
    Itself(Result<(), E>),
    /// It is time to close it in good order.
    Leaves,
    /// It made no progress.
    Cut(Verdict),
}

/// Resolves when a client that was told to leave, and has no request open, has not done so for too long.
async fn deserted(traffic: &Traffic) {
    loop {
        sleep(PARTING).await;
        if traffic.open() == 0 {
            return;
        }
    }
}

/// Never, without a bound.
async fn lived(bound: Option<Duration>) {
    match bound {
        Some(bound) => sleep(bound).await,
        None => std::future::pending().await,
    }
}
