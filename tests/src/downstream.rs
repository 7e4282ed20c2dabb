//! A business service behind the gateway: a real gRPC server whose answers a scenario chooses.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use gatehouse_proto::downstream::v1::{
    ExecuteRequest, ExecuteResponse,
    command_handler_server::{CommandHandler, CommandHandlerServer},
};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::oneshot,
};
use tonic::{Code, Request, Response, Status, service::Routes};
use tower::ServiceExt as _;

use crate::wait;

/// What the service does with a command.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers with the payload it got, and no result code.
    Echo,
    /// Answers with that result code and payload.
    Answer(&'static str, Vec<u8>),
    /// Echoes after that long.
    Delay(Duration),
    /// Refuses.
    Fail(Code, &'static str),
    /// Never answers.
    Hang,
}

#[derive(Debug, Default)]
struct Script {
    behaviours: HashMap<String, Behaviour>,
    calls: Vec<ExecuteRequest>,
}

/// The running service, on a thread and a runtime of its own, so that every test of a file can share it.
#[derive(Debug)]
pub struct Downstream {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    stop: oneshot::Sender<()>,
}

/// A service that is away for a while.
#[derive(Debug)]
pub struct Stopped {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
}

impl Stopped {
    /// Starts it again at its address.
    #[must_use]
    pub fn start_again(self) -> Downstream {
        Downstream::on_address(self.address, self.script)
    }
}

#[derive(Clone)]
struct Service(Arc<Mutex<Script>>);

impl Downstream {
    /// Echoes everything until told otherwise.
    #[must_use]
    pub fn start() -> Self {
        Self::on_address("127.0.0.1:0".parse().unwrap(), Arc::default())
    }

    fn on_address(address: SocketAddr, script: Arc<Mutex<Script>>) -> Self {
        let service = CommandHandlerServer::new(Service(Arc::clone(&script)));
        let service = service.max_decoding_message_size(8 << 20).max_encoding_message_size(64 << 20);
        let (address, stop) = serve_on(address, Routes::new(service).into_axum_router());
        Self { address, script, stop }
    }

    /// Ends it and waits until nobody listens at its address any more.
    pub async fn stop(self) -> Stopped {
        drop(self.stop);
        wait::eventually("nobody listens", async || TcpStream::connect(self.address).await.is_err().then_some(())).await;
        Stopped { address: self.address, script: self.script }
    }

    /// Where it listens: `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// From now on, commands of that type are treated so.
    pub fn on(&self, message_type: &str, behaviour: Behaviour) {
        self.script.lock().unwrap().behaviours.insert(message_type.to_owned(), behaviour);
    }

    /// The commands that arrived with that request id, in order.
    #[must_use]
    pub fn calls(&self, request_id: &str) -> Vec<ExecuteRequest> {
        self.script.lock().unwrap().calls.iter().filter(|call| call.request_id == request_id).cloned().collect()
    }
}

#[tonic::async_trait]
impl CommandHandler for Service {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        let request = request.into_inner();
        let behaviour = {
            let mut script = self.0.lock().unwrap();
            script.calls.push(request.clone());
            script.behaviours.get(&request.message_type).cloned().unwrap_or(Behaviour::Echo)
        };
        let answer = |code: &str, payload_bytes| Ok(Response::new(ExecuteResponse { result_code: code.into(), payload_bytes }));
        match behaviour {
            Behaviour::Echo => answer("", request.payload_bytes),
            Behaviour::Answer(code, payload) => answer(code, payload.into()),
            Behaviour::Delay(time) => {
                tokio::time::sleep(time).await;
                answer("", request.payload_bytes)
            }
            Behaviour::Fail(code, message) => Err(Status::new(code, message)),
            Behaviour::Hang => std::future::pending().await,
        }
    }
}

/// Serves a router on a free port until the sender is dropped.
pub(crate) fn serve(router: axum::Router) -> (SocketAddr, oneshot::Sender<()>) {
    serve_on("127.0.0.1:0".parse().unwrap(), router)
}

fn serve_on(address: SocketAddr, router: axum::Router) -> (SocketAddr, oneshot::Sender<()>) {
    let socket = std::net::TcpListener::bind(address).unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let (stop, mut stopped) = oneshot::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(socket).unwrap();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = &mut stopped => break,
                };
                stream.set_nodelay(true).unwrap();
                let router = router.clone().map_request(|request: http::Request<hyper::body::Incoming>| request.map(BodyExt::boxed_unsync));
                let service = hyper_util::service::TowerToHyperService::new(router);
                #[expect(clippy::disallowed_methods, reason = "ends with the runtime of this thread")]
                tokio::spawn(async move {
                    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // The peer may go away in the middle.
                    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
    });
    (address, stop)
}
