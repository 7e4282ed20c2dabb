//! The smallest tonic server that can stand in for a component: one service, on the listening socket that it finds as its stdin.

use std::{net::TcpListener, os::fd::AsFd as _};

use gatehouse_proto::downstream::v1::{
    ExecuteRequest, ExecuteResponse,
    command_handler_server::{CommandHandler, CommandHandlerServer},
};
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

struct Echo;

#[tonic::async_trait]
impl CommandHandler for Echo {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<ExecuteResponse>, Status> {
        Ok(Response::new(ExecuteResponse { result_code: String::new(), payload_bytes: request.into_inner().payload_bytes }))
    }
}

fn main() -> anyhow::Result<()> {
    let socket = TcpListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(socket)?).with_nodelay(Some(true));
        Server::builder().add_service(CommandHandlerServer::new(Echo)).serve_with_incoming(incoming).await?;
        Ok(())
    })
}
