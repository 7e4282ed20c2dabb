//! A business service in its smallest form, to try the gateway with. It implements `CommandHandler` of downstream.proto and nothing else: who the
//! caller is, and that he said what arrives here, the gateway has checked already.

use std::{
    future::Future,
    io::{self, Write as _},
    net::SocketAddr,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

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
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
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

async fn run(listen: SocketAddr) -> anyhow::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    let stop = async {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    serve(listener, stop).await
}

/// Serves the demo's commands until `stop`.
pub async fn serve(listener: TcpListener, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
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
        served = server.serve_with_incoming_shutdown(TcpListenerStream::new(listener), stopping) => served.context("serve"),
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
        let (served, _open) = tokio::join!(serve(listener, stopped), calls);
        served.unwrap();
    }
}
