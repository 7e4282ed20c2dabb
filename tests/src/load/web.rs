//! HTTP/1.1 requests on connections of our own, byte for byte: what a connection's end meant for the request on it is seen here and nowhere in a library.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::watch,
    time::timeout,
};

use super::{
    Fault, Kind, PATIENCE, Pace, Stage, begins, goes_on,
    tally::Tally,
    tap::{Idle, Tap, is_reset},
};

/// Through the edge to the load's backend.
pub(super) const LOAD: &str = "/load/ping";
/// No answer is longer.
const LONGEST: usize = 8 << 20;

/// One connection after the other, for as long as each lasts.
#[derive(Debug)]
pub(super) struct Caller {
    address: SocketAddr,
    request: Vec<u8>,
    kind: Kind,
    anew: bool,
    pace: Pace,
    tally: Arc<Tally>,
    told: watch::Receiver<Stage>,
    connection: Option<Tap>,
    buffer: Vec<u8>,
}

impl Caller {
    /// Keeps its connection if that is what the kind says.
    pub(super) fn new(address: SocketAddr, path: &str, kind: Kind, pace: Pace, tally: &Arc<Tally>, told: &watch::Receiver<Stage>) -> Self {
        let anew = kind != Kind::Http;
        let close = if anew { "connection: close\r\n" } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{close}\r\n").into_bytes();
        let (tally, told) = (Arc::clone(tally), told.clone());
        Self { address, request, kind, anew, pace, tally, told, connection: None, buffer: Vec::new() }
    }

    pub(super) async fn run(mut self) {
        begins(&mut self.told).await;
        let mut ticks = self.pace.ticks();
        while goes_on(&self.told) {
            ticks.tick().await;
            self.one().await;
        }
    }

    async fn one(&mut self) {
        // One that was closed between two requests costs nobody anything; a reset is not how one says goodbye.
        match self.connection.as_ref().map(Tap::look) {
            None | Some(Idle::Open) => {}
            Some(Idle::Closed) => self.connection = None,
            Some(Idle::Reset | Idle::Speaks) => {
                self.tally.count(|phase| phase.resets += 1);
                self.connection = None;
            }
        }
        let op = self.tally.begin(self.kind);
        match timeout(PATIENCE, self.exchange()).await {
            Ok(Ok(())) => self.tally.succeeded(op),
            Ok(Err((fault, connected))) => {
                self.tally.count(|phase| {
                    phase.refused += u64::from(fault == Fault::Refused);
                    phase.resets += u64::from(fault == Fault::Reset && self.kind.is_of_clients());
                });
                self.connection = None;
                self.tally.failed(op, fault, connected);
            }
            Err(_) => {
                let connected = self.connection.take().map(|tap| tap.known.connected);
                self.tally.failed(op, Fault::TimedOut, connected);
            }
        }
        if self.anew {
            self.connection = None;
        }
    }

    async fn exchange(&mut self) -> Result<(), (Fault, Option<Instant>)> {
        if self.connection.is_none() {
            let tap = Tap::connect(self.address).await.map_err(|error| (Fault::of_connect(&error), None))?;
            self.connection = Some(tap);
        }
        let Self { connection: Some(tap), request, buffer, .. } = self else { unreachable!("it was opened above") };
        let connected = Some(tap.known.connected);
        let answer = ask(tap, request, buffer).await.map_err(|fault| (fault, connected))?;
        if answer.closes {
            self.connection = None;
        }
        if (200..300).contains(&answer.status) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&buffer[answer.body..]).into_owned();
        Err((Fault::Http(answer.status, said), connected))
    }
}

struct Answer {
    status: u16,
    closes: bool,
    /// Where it begins.
    body: usize,
}

/// Writes the request and reads the answer to its end.
async fn ask(tap: &mut Tap, request: &[u8], buffer: &mut Vec<u8>) -> Result<Answer, Fault> {
    let broken = |error: &std::io::Error, begun: bool| match () {
        () if begun => Fault::Cut,
        () if is_reset(error) => Fault::Reset,
        () => Fault::Transport(error.to_string()),
    };
    buffer.clear();
    tap.write_all(request).await.map_err(|error| broken(&error, false))?;
    loop {
        match tap.read_buf(buffer).await {
            Ok(0) => return Err(if buffer.is_empty() { Fault::Closed } else { Fault::Cut }),
            Ok(_) => {}
            Err(error) => return Err(broken(&error, !buffer.is_empty())),
        }
        if let Some(head) = Head::read(buffer)? {
            if buffer.len() == head.length + head.body {
                return Ok(Answer { status: head.status, closes: head.closes, body: head.length });
            }
            if buffer.len() > (head.length + head.body).min(LONGEST) {
                return Err(Fault::Wrong("more than one answer to one request".into()));
            }
        }
    }
}

struct Head {
    status: u16,
    closes: bool,
    length: usize,
    body: usize,
}

impl Head {
    /// `None`: it is not complete yet.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let wrong = |why: &str| Fault::Wrong(why.to_owned());
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("a head that is no text"))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(|| wrong("no status"))?;
        let (mut closes, mut body) = (false, None);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            closes |= name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close");
            if name.eq_ignore_ascii_case("content-length") {
                body = value.parse().ok();
            }
        }
        let body = body.ok_or_else(|| wrong("no content-length"))?;
        Ok(Some(Self { status, closes, length: end + 4, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_once_they_are_complete() {
        assert!(Head::read(b"HTTP/1.1 200 OK\r\ncontent-le").unwrap().is_none());
        let head = Head::read(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno").unwrap().unwrap();
        assert_eq!((head.status, head.closes, head.body), (503, true, 2));
        assert!(Head::read(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
