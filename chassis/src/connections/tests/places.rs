//! Who is let in, and who they are said to be.

use tokio::net::TcpSocket;

use super::*;
use crate::config::{Config as _, Reader, Source};

pub(super) fn config(text: &str) -> Config {
    let mut reader = Reader::new(Source::of(text, &[]));
    let config = Config::read(&mut reader).unwrap();
    assert_eq!(reader.into_problems(), []);
    config
}

pub(super) async fn inn(text: &str) -> Inn {
    let config = config(text);
    let limits = Limits::configured(&config, Farewell::within(BUDGET));
    Inn::on(limits, |metrics| Gate::open(&config, metrics).unwrap()).await
}

impl Inn {
    /// From another address of this machine.
    async fn guest_from(&self, address: &str) -> Guest {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        Guest(socket.connect(self.address).await.unwrap())
    }

    /// Tries until it is served.
    async fn serves_again(&self, address: &str) {
        let served = async {
            loop {
                let mut guest = self.guest_from(address).await;
                let mut answer = Vec::new();
                let asked = guest.0.write_all(b"GET /ping HTTP/1.1\r\nhost: inn\r\nconnection: close\r\n\r\n").await;
                if asked.is_ok() && guest.0.read_to_end(&mut answer).await.is_ok() && answer.ends_with(b"pong") {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, served).await.expect("there is a place again");
    }
}

#[tokio::test]
async fn who_finds_no_place_is_closed_at_once_and_who_leaves_makes_one() {
    let inn = inn("[connections]\nmax = 2\nmax_per_address = 1\n").await;
    let mut first = inn.guest_from("127.0.0.1").await;
    first.ask("/ping").await;
    first.answer("pong").await;
    assert_eq!(inn.guest_from("127.0.0.1").await.rest().await, b"");
    inn.refuses("address", 1).await;
    let mut second = inn.guest_from("127.0.0.2").await;
    second.ask("/ping").await;
    second.answer("pong").await;
    assert_eq!(inn.guest_from("127.0.0.3").await.rest().await, b"");
    inn.refuses("full", 1).await;
    second.ask("/ping").await;
    second.answer("pong").await;
    drop(first);
    inn.serves_again("127.0.0.1").await;
    drop(second);
    inn.serves_again("127.0.0.2").await;
}

#[tokio::test]
async fn the_client_is_whom_a_trusted_load_balancer_names() {
    let inn = inn("[connections]\nproxy_protocol_from = ['127.0.0.1']\nmax_per_address = 1\n").await;
    let v1 = b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec();
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 2, 10, 0, 0, 1, 0x12, 0x34, 0, 80]].concat();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let mut guests = Vec::new();
    for (header, client) in [(&v1, "192.0.2.1"), (&v2, "192.0.2.2"), (&local, "127.0.0.1")] {
        let mut guest = inn.guest().await;
        guest.write(header).await;
        guest.ask("/who").await;
        guest.answer(&format!("{client} plain")).await;
        guests.push(guest);
    }
    let mut again = inn.guest().await;
    again.write(&v1).await;
    assert_eq!(again.rest().await, b"");
    inn.refuses("address", 1).await;
}

#[tokio::test]
async fn a_trusted_load_balancer_must_name_somebody_and_nobody_else_can() {
    let brief = inn("[connections]\nproxy_protocol_from = ['127.0.0.1']\nhead_timeout = '300ms'\n").await;
    let mut half = brief.guest().await;
    half.write(b"PROXY TCP4 192.0.2.1 10").await;
    assert_eq!(half.rest().await, b"");
    brief.refuses("head", 1).await;
    let inn = inn("[connections]\nproxy_protocol_from = ['127.0.0.1']\nhead_timeout = '60s'\n").await;
    let mut bare = inn.guest().await;
    bare.ask("/ping").await;
    assert_eq!(bare.rest().await, b"");
    inn.refuses("proxy", 1).await;
    let mut stranger = inn.guest_from("127.0.0.2").await;
    stranger.write(b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\nGET /who HTTP/1.1\r\nhost: inn\r\n\r\n").await;
    let answer = String::from_utf8(stranger.rest().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}
