//! HTTP/1.1 on bare sockets, so that nothing is repaired in silence.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::sleep,
};

use super::Seen;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Target {
    line: &'static str,
    body: &'static str,
    /// What its answers are counted as.
    name: &'static str,
    check: fn(&str) -> bool,
}

/// Something of the backend's.
pub(super) const SHOP: Target = Target { line: "POST /shop/item", body: "hi", name: "requests", check: |answer| answer.contains("hi") };
/// What Prometheus asks for: no series may stand there twice.
pub(super) const METRICS: Target = Target { line: "GET /metrics", body: "", name: "scrapes", check: no_series_twice };

fn no_series_twice(text: &str) -> bool {
    let mut series: Vec<_> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).map(|(series, _)| series).collect();
    let all = series.len();
    series.sort_unstable();
    series.dedup();
    all > 0 && series.len() == all
}

/// Asks again and again on one connection for as long as the server keeps it. Client `i` thinks between two requests for a time of its own: from nothing
/// to nearly a second.
pub(super) async fn keep(address: SocketAddr, target: &'static Target, i: usize, seen: Arc<Seen>, stopped: watch::Receiver<bool>) {
    let pace = Duration::from_millis([0, 5, 20, 60, 150, 350, 700, 950][i % 8]);
    let mut open: Option<TcpStream> = None;
    while !*stopped.borrow() {
        // As any pool does: what the server has closed meanwhile is not used.
        if open.as_ref().is_some_and(|stream| !matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock))
        {
            seen.count("idle connections closed");
            open = None;
        }
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => match TcpStream::connect(address).await {
                Ok(stream) => {
                    seen.count("connections");
                    stream
                }
                Err(error) => return seen.count(format!("failed: connect: {error}")),
            },
        };
        match ask(&mut stream, address, target, "keep-alive").await {
            Ok(last) => {
                seen.count(target.name);
                if last {
                    seen.count("connections told to close");
                } else {
                    open = Some(stream);
                }
            }
            Err(error) => seen.count(format!("failed: request on a kept connection: {error}")),
        }
        sleep(pace).await;
    }
}

/// A new connection for each request.
pub(super) async fn hurry(address: SocketAddr, seen: Arc<Seen>, stopped: watch::Receiver<bool>) {
    while !*stopped.borrow() {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            ask(&mut stream, address, &SHOP, "close").await
        };
        match exchange.await {
            Ok(_) => seen.count("requests on new connections"),
            Err(error) => seen.count(format!("failed: request on a new connection: {error}")),
        }
        sleep(Duration::from_millis(4)).await;
    }
}

/// One request; whether its answer was the last on this connection.
async fn ask(stream: &mut TcpStream, address: SocketAddr, target: &Target, connection: &str) -> io::Result<bool> {
    let Target { line, body, check, .. } = target;
    let length = body.len();
    let request = format!("{line} HTTP/1.1\r\nhost: {address}\r\nconnection: {connection}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    let (head, body) = loop {
        if let Some(head) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&read[..head]).to_lowercase();
            let length =
                text.lines().find_map(|line| line.strip_prefix("content-length: ")).and_then(|length| length.parse::<usize>().ok());
            let length = length.ok_or_else(|| io::Error::other(format!("an answer without a length: {text}")))?;
            if read.len() >= head + 4 + length {
                break (text, String::from_utf8_lossy(&read[head + 4..]).into_owned());
            }
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("closed after {} bytes", read.len())));
        }
    };
    if !head.starts_with("http/1.1 200") || !check(&body) {
        return Err(io::Error::other(format!("{head}\r\n{body}")));
    }
    Ok(head.lines().any(|line| line == "connection: close"))
}
