//! A small HTTP/1.1 client: one connection a request, nothing hidden.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::wait::bounded;

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// Its status code.
    pub status: u16,
    /// Its head.
    pub head: Response<()>,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends one request.
pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    bounded("an HTTP answer", async {
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let exchange = async {
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (head, body)
        };
        let connection = async {
            // Its end is seen in the exchange.
            let _ended = connection.await;
            std::future::pending::<()>().await;
        };
        let (head, body) = tokio::select! { answer = exchange => answer, () = connection => unreachable!() };
        let status = head.status.as_u16();
        Answer { status, head: Response::from_parts(head, ()), body: String::from_utf8(body.to_vec()).unwrap() }
    })
    .await
}

/// A request to build on.
#[must_use]
pub fn request(method: Method, address: SocketAddr, target: &str, headers: &[(&str, &str)], body: &'static str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(target).header("host", address.to_string());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap()
}

/// `GET`.
pub async fn get(address: SocketAddr, target: &str) -> Answer {
    send(address, request(Method::GET, address, target, &[], "")).await
}

/// `GET` with a bearer token.
pub async fn get_with_token(address: SocketAddr, target: &str, token: &str) -> Answer {
    let authorization = format!("Bearer {token}");
    send(address, request(Method::GET, address, target, &[("authorization", &authorization)], "")).await
}

/// Writes bytes as they are and reads until the other side closes. Being cut off while writing is an answer too: an empty one.
pub async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    bounded("the connection is closed", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let write = async {
            let written = writer.write_all(bytes).await;
            let _closed = writer.shutdown().await;
            written
        };
        let mut answer = Vec::new();
        let (_written, _read): (io::Result<()>, io::Result<usize>) = tokio::join!(write, reader.read_to_end(&mut answer));
        answer
    })
    .await
}

/// A connection on which nothing was said yet.
#[derive(Debug)]
pub struct Fresh(TcpStream);

impl Fresh {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        TcpStream::connect(address).await.map(Self)
    }

    /// The status of its only request, a `GET`.
    pub async fn get(mut self, target: &str) -> io::Result<u16> {
        let head = format!("GET {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.0.peer_addr()?);
        self.0.write_all(head.as_bytes()).await?;
        let mut answer = [0; 12];
        self.0.read_exact(&mut answer).await?;
        let status = std::str::from_utf8(&answer[9..]).ok().and_then(|status| status.parse().ok());
        status.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The status of a `GET`, if anybody answers within a second.
pub async fn get_if_served(address: SocketAddr, target: &str) -> Option<u16> {
    let exchange = async { Fresh::connect(address).await?.get(target).await };
    tokio::time::timeout(std::time::Duration::from_secs(1), exchange).await.ok()?.ok()
}

/// One HTTP/2 request as a gRPC client sends it, with any bytes as its body: the status code and `grpc-status`, or how the connection ended.
pub async fn grpc(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Result<(u16, Option<i32>), hyper::Error> {
    bounded("a gRPC answer", async {
        let stream = TcpStream::connect(address).await.unwrap();
        let io = TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        let mut request =
            Request::post(format!("http://{address}{path}")).header("content-type", "application/grpc").header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let exchange = async {
            let (head, body) = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await?.into_parts();
            let trailers = body.collect().await?.trailers().cloned().unwrap_or_default();
            let status = head.headers.get("grpc-status").or(trailers.get("grpc-status"));
            Ok((head.status.as_u16(), status.map(|status| status.to_str().unwrap().parse().unwrap())))
        };
        let connection = async {
            // Its end is seen in the exchange.
            let _ended = connection.await;
            std::future::pending::<()>().await;
        };
        tokio::select! { answer = exchange => answer, () = connection => unreachable!() }
    })
    .await
}

/// A message in the frame that gRPC puts around it.
#[must_use]
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

/// Writes bytes as they are, keeps its own side open, and reads until the other side closes.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    bounded("the connection is closed", async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    })
    .await
}
