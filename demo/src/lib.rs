//! A business service in its smallest form, to try the gateway with. It implements `CommandHandler` of downstream.proto and nothing else: who the
//! caller is, and that he said what arrives here, the gateway has checked already.

use std::{
    fs,
    future::Future,
    io::{self, Write as _},
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    signal::unix::{SignalKind, signal},
};
use tokio_stream::{
    Stream,
    wrappers::{TcpListenerStream, UnixListenerStream},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::Connected},
};

use gatehouse_proto::downstream::v1::{
    ExecuteRequest, ExecuteResponse,
    command_handler_server::{CommandHandler, CommandHandlerServer},
};

/// After the signal, how long running calls may take. Idle connections do not end by themselves.
const DRAIN: Duration = Duration::from_secs(1);

/// A demo backend for Gatehouse: `demo.echo` answers its payload, `demo.fail` fails, everything else is unknown to it.
#[derive(Debug, Parser)]
#[command(name = "gatehouse-demo-backend", version)]
struct Arguments {
    /// Where to listen; port 0 lets the kernel choose. The address is printed once connections are accepted
    #[arg(long, value_name = "HOST:PORT|unix:PATH", default_value = "127.0.0.1:0")]
    listen: Address,
}

/// Where to listen.
#[derive(Clone, Debug)]
enum Address {
    Tcp(String),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.strip_prefix("unix:").map_or_else(|| Self::Tcp(text.to_owned()), |path| Self::Unix(path.into())))
    }
}

/// Runs until SIGTERM or SIGINT.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    runtime.block_on(run(arguments.listen)).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("gatehouse-demo-backend: {error:#}");
    ExitCode::FAILURE
}

async fn run(listen: Address) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    match listen {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(&address).await.with_context(|| format!("listen on {address}"))?;
            writeln!(io::stdout(), "{}", listener.local_addr()?)?;
            serve(TcpListenerStream::new(listener), stop).await
        }
        Address::Unix(path) => {
            let listener = bind(&path).with_context(|| format!("listen on {}", path.display()))?;
            writeln!(io::stdout(), "unix:{}", path.display())?;
            serve(UnixListenerStream::new(listener), stop).await
        }
    }
}

/// Takes the place of a socket that nobody serves any more, but never of one that somebody does.
fn bind(path: &Path) -> io::Result<UnixListener> {
    if StdUnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => UnixListener::bind(path),
    }
}

/// Serves the demo's commands until `stop`.
pub async fn serve<I, C>(incoming: I, stop: impl Future<Output = ()>) -> anyhow::Result<()>
where
    I: Stream<Item = io::Result<C>>,
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (asked, mut drain) = tokio::sync::watch::channel(false);
    let stopping = async {
        stop.await;
        // The receiver lives as long as the server.
        let _unheard = asked.send(true);
    };
    let limit = async move {
        let _closed = drain.wait_for(|stop| *stop).await;
        tokio::time::sleep(DRAIN).await;
    };
    let server = Server::builder().add_service(CommandHandlerServer::new(Demo));
    tokio::select! {
        served = server.serve_with_incoming_shutdown(incoming, stopping) => served.context("serve"),
        () = limit => Ok(()),
    }
}

/// The business.
#[derive(Clone, Copy, Debug)]
struct Demo;

#[tonic::async_trait]
impl CommandHandler for Demo {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        Ok(Response::new(answer(request.into_inner())))
    }
}

fn answer(request: ExecuteRequest) -> ExecuteResponse {
    match request.message_type.as_str() {
        "demo.echo" => ExecuteResponse { result_code: String::new(), payload_bytes: request.payload_bytes },
        "demo.fail" => ExecuteResponse { result_code: "demo_failed".to_owned(), ..ExecuteResponse::default() },
        _ => ExecuteResponse { result_code: "unknown".to_owned(), ..ExecuteResponse::default() },
    }
}

#[cfg(test)]
mod tests {
    use gatehouse_proto::downstream::v1::command_handler_client::CommandHandlerClient;
    use tonic::transport::Endpoint;

    use super::*;

    #[tokio::test]
    async fn it_answers_its_commands_and_ends_when_asked_despite_an_open_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let calls = async {
            let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
            let mut client = CommandHandlerClient::new(channel);
            for (message_type, result_code, payload) in
                [("demo.echo", "", "hi"), ("demo.fail", "demo_failed", ""), ("orders.create", "unknown", "")]
            {
                let request =
                    ExecuteRequest { message_type: message_type.to_owned(), payload_bytes: "hi".into(), ..ExecuteRequest::default() };
                let answer = client.execute(request).await.unwrap().into_inner();
                assert_eq!((answer.result_code.as_str(), &answer.payload_bytes[..]), (result_code, payload.as_bytes()), "{message_type}");
            }
            stop.send(()).unwrap();
            client
        };
        let stopped = async {
            let _ = stopped.await;
        };
        let (served, _open) = tokio::join!(serve(TcpListenerStream::new(listener), stopped), calls);
        served.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_taken_and_one_that_is_served_is_not() {
        let path = std::env::temp_dir().join(format!("gatehouse-demo-{}.sock", std::process::id()));
        drop(bind(&path).unwrap());
        assert!(path.exists(), "left behind");
        let _serving = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        fs::remove_file(&path).unwrap();
    }
}
