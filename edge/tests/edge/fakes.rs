//! What stands behind the edge: a command handler and pushers. Each serves on a socket and can be cut off as a `kill -9` would.

use std::{future::Future, net::SocketAddr, os::fd::OwnedFd, path::Path, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::Stream;
use gatehouse_chassis::{
    Shutdown,
    connections::{ConnectionMetrics, Farewell, serve},
    metrics::Metrics,
    sockets::Listener,
    watchdog::Pulse,
};
use gatehouse_proto::{
    downstream::v1::{ExecuteRequest, ExecuteResponse, command_handler_server},
    gateway::v1::GatewayEvent,
    internal::v1::{AttachRequest, push_server},
};
use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, service::Routes};

/// Serves until dropped, and then breaks every connection.
pub(crate) struct Server {
    shutdown: Shutdown,
    address: Option<SocketAddr>,
}

impl Server {
    pub(crate) fn tcp(router: axum::Router) -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        Self::on(OwnedFd::from(socket), router, Some(address))
    }

    pub(crate) fn unix(path: &Path, router: axum::Router) -> Self {
        // A predecessor that was cut off leaves its file behind.
        let _absent = std::fs::remove_file(path);
        Self::on(OwnedFd::from(std::os::unix::net::UnixListener::bind(path).unwrap()), router, None)
    }

    fn on(socket: OwnedFd, router: axum::Router, address: Option<SocketAddr>) -> Self {
        let shutdown = Shutdown::default();
        let metrics = ConnectionMetrics::new(&Metrics::new("fake", 0));
        let listener = Listener::from_fd(socket).unwrap();
        shutdown.spawn("fake", serve("fake", listener, router, metrics, Farewell::at_once(), shutdown.clone(), Pulse::default()));
        Self { shutdown, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}

pub(crate) type Execution = Pin<Box<dyn Future<Output = Result<ExecuteResponse, Status>> + Send>>;

/// A downstream that does what the test says.
pub(crate) struct Handler(Arc<dyn Fn(Request<ExecuteRequest>) -> Execution + Send + Sync>);

pub(crate) fn downstream(act: impl Fn(Request<ExecuteRequest>) -> Execution + Send + Sync + 'static) -> Server {
    Server::tcp(handler(act))
}

/// The same to be served elsewhere.
pub(crate) fn handler(act: impl Fn(Request<ExecuteRequest>) -> Execution + Send + Sync + 'static) -> axum::Router {
    Routes::new(command_handler_server::CommandHandlerServer::new(Handler(Arc::new(act)))).into_axum_router()
}

/// A downstream that answers with the payload it was given.
pub(crate) fn echo() -> Server {
    downstream(|request| {
        let payload_bytes = request.into_inner().payload_bytes;
        Box::pin(async move { Ok(ExecuteResponse { result_code: String::new(), payload_bytes }) })
    })
}

/// A downstream that says when a command has come in, and answers with `name` once there is a permit.
pub(crate) fn gated(name: &'static str) -> (Server, mpsc::UnboundedReceiver<()>, Arc<Semaphore>) {
    let (entered, entries) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let server = downstream(move |_| {
        // Nobody may be listening any more.
        let _unheard = entered.send(());
        let gate = Arc::clone(&gate);
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            Ok(ExecuteResponse { result_code: name.to_owned(), payload_bytes: Bytes::new() })
        })
    });
    (server, entries, opened)
}

/// A backend, and the commands that go there.
pub(crate) fn backend(name: &str, address: impl std::fmt::Display, commands: &[&str]) -> String {
    let commands = commands.iter().map(|command| format!("[[command]]\nmessage_type = \"{command}\"\nbackend = \"{name}\"\n"));
    format!(
        "[[backend]]\nname = \"{name}\"\nprotocol = \"grpc\"\naddress = \"{address}\"\nconnect_timeout = \"30s\"\n{}",
        commands.collect::<String>()
    )
}

/// A downstream that answers with its name.
pub(crate) fn named(name: &'static str) -> Server {
    downstream(move |_| Box::pin(async move { Ok(ExecuteResponse { result_code: name.to_owned(), payload_bytes: Bytes::new() }) }))
}

/// The sections that route `orders.create` to that server.
pub(crate) fn routed_to(address: impl std::fmt::Display, more: &str) -> String {
    format!(
        "[[backend]]\nname = \"orders\"\nprotocol = \"grpc\"\naddress = \"{address}\"\nconnect_timeout = \"30s\"\n\
         [[command]]\nmessage_type = \"orders.create\"\nbackend = \"orders\"\n{more}\n"
    )
}

#[tonic::async_trait]
impl command_handler_server::CommandHandler for Handler {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        (self.0)(request).await.map(Response::new)
    }
}

/// A stream that somebody wants attached. The test answers it.
pub(crate) struct Attach {
    pub(crate) request: AttachRequest,
    reply: oneshot::Sender<Result<mpsc::Receiver<Result<Bytes, Status>>, Status>>,
}

impl Attach {
    /// Takes it; what is sent here goes to the client. As little as possible is buffered.
    pub(crate) fn accept(self) -> mpsc::Sender<Result<Bytes, Status>> {
        let (sender, receiver) = mpsc::channel(1);
        self.reply.send(Ok(receiver)).unwrap();
        sender
    }

    pub(crate) fn refuse(self, status: Status) {
        self.reply.send(Err(status)).unwrap();
    }
}

/// A pusher that does what the test says.
pub(crate) struct Pusher {
    attaches: mpsc::UnboundedReceiver<Attach>,
    _server: Server,
}

struct Push(mpsc::UnboundedSender<Attach>);

impl Pusher {
    pub(crate) fn start(dir: &Path, instance: u32) -> Self {
        let (sender, attaches) = mpsc::unbounded_channel();
        let (health, service) = tonic_health::server::health_reporter();
        drop(health);
        let routes = Routes::new(push_server::PushServer::new(Push(sender))).add_service(service);
        let server = Server::unix(&dir.join(format!("pusher-{instance}.sock")), routes.into_axum_router());
        Self { attaches, _server: server }
    }

    pub(crate) async fn attach(&mut self) -> Attach {
        self.attaches.recv().await.unwrap()
    }
}

#[tonic::async_trait]
impl push_server::Push for Push {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        let (reply, replied) = oneshot::channel();
        let wanted = Attach { request: request.into_inner(), reply };
        self.0.send(wanted).map_err(|_| Status::unavailable("gateway is shutting down"))?;
        let events = replied.await.unwrap_or_else(|_| Err(Status::unavailable("gateway is shutting down")))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(events).map(|event| event))))
    }
}

/// An event as a pusher encodes it and sends it.
#[expect(clippy::unnecessary_wraps, reason = "what a stream takes is a result")]
pub(crate) fn event(id: &str, payload: usize) -> Result<Bytes, Status> {
    let event = GatewayEvent { event_id: id.into(), event_type: "t".into(), payload_bytes: vec![7; payload].into(), ..Default::default() };
    Ok(event.encode_to_vec().into())
}
