//! The PROXY protocol, by which a load balancer says whose connection it hands on (haproxy.org, `proxy-protocol.txt`, versions 1 and 2).
//!
//! Only who is trusted is asked for it, and who is trusted must begin with it: a header that is there sometimes could be sent by the client itself. Not one byte
//! behind it is taken from the socket, for what follows may be TLS.

use std::{io, net::SocketAddr};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::{io::AsyncReadExt as _, net::TcpStream};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LINE: &[u8; 6] = b"PROXY ";
/// The longest line of version 1, its end included.
const LONGEST_LINE: usize = 107;
/// The longest rest of version 2. The protocol allows 64 KiB; addresses and what load balancers add fit into a few hundred bytes.
const LONGEST_REST: usize = 4096;
/// The signature, the command, the family and the length.
const FIXED: usize = 16;

/// What a connection begins with instead.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHeader {
    #[error("it begins with something else")]
    Foreign,
    #[error("the header is too long")]
    TooLong,
    #[error("the header is malformed")]
    Malformed,
    #[error("it ends inside the header: {0}")]
    Broken(#[from] io::Error),
}

/// Reads it. The client's address; none where the load balancer speaks for itself (LOCAL), or does not know (UNKNOWN, another family).
pub(super) async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>, NoHeader> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header.starts_with(SIGNATURE) {
        binary(stream, &mut header).await?;
    } else if header.starts_with(LINE) {
        line(stream, &mut header).await?;
    } else {
        return Err(NoHeader::Foreign);
    }
    source(&header)
}

/// Version 2 says how long it is.
async fn binary(stream: &mut TcpStream, header: &mut Vec<u8>) -> Result<(), NoHeader> {
    header.resize(FIXED, 0);
    stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
    let rest = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if rest > LONGEST_REST {
        return Err(NoHeader::TooLong);
    }
    header.resize(FIXED + rest, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    Ok(())
}

/// Version 1 ends with its line: looks before it takes.
async fn line(stream: &mut TcpStream, header: &mut Vec<u8>) -> Result<(), NoHeader> {
    while header.len() < LONGEST_LINE {
        let have = header.len();
        header.resize(LONGEST_LINE, 0);
        let seen = stream.peek(&mut header[have..]).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let end = header[have..have + seen].iter().position(|byte| *byte == b'\n');
        header.truncate(have + end.map_or(seen, |end| end + 1));
        stream.read_exact(&mut header[have..]).await?;
        if end.is_some() {
            return Ok(());
        }
    }
    Err(NoHeader::TooLong)
}

fn source(header: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, length) = ProxyHeader::parse(header, config).map_err(|_| NoHeader::Malformed)?;
    if length != header.len() {
        return Err(NoHeader::Malformed);
    }
    let proxied = parsed.proxied_address().filter(|proxied| proxied.protocol == Protocol::Stream);
    Ok(proxied.map(|proxied| proxied.source))
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    /// What is read of these bytes, sent in two parts, and what is left on the socket.
    async fn parted(bytes: &[u8], cut: usize) -> (Result<Option<SocketAddr>, NoHeader>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let mut server = listener.accept().await.unwrap().0;
        let sending = async {
            client.write_all(&bytes[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            client.write_all(&bytes[cut..]).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(read(&mut server), sending);
        let mut left = Vec::new();
        server.read_to_end(&mut left).await.unwrap();
        (read, left)
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &length, rest].concat()
    }

    #[tokio::test]
    async fn the_address_is_taken_and_not_a_byte_of_what_follows() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let v6 = [&"2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets()[..], &[0; 16], &[0x12, 0x34, 0, 80]].concat();
        let client = Some("192.0.2.1:4660".parse().unwrap());
        let client6 = Some("[2001:db8::1]:4660".parse().unwrap());
        let cases = [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(), client),
            (b"PROXY TCP6 2001:db8::1 :: 4660 80\r\n".to_vec(), client6),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), client),
            (v2(0x21, 0x11, &[&v4[..], &[4, 0, 2, 0, 0]].concat()), client),
            (v2(0x21, 0x21, &v6), client6),
            (v2(0x20, 0x11, &v4), None),
            (v2(0x20, 0, &[]), None),
            (v2(0x21, 0, &[]), None),
            (v2(0x21, 0x12, &v4), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ];
        for (header, wanted) in cases {
            let sent = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            for cut in 0..=sent.len() {
                let (read, left) = parted(&sent, cut).await;
                assert_eq!((read.unwrap(), &left[..]), (wanted, &b"GET / HTTP/1.1\r\n"[..]), "{header:?} cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_before_much_of_it_is_read() {
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        assert!(matches!(parted(&long, 50).await.0, Err(NoHeader::TooLong)));
        assert!(matches!(parted(&v2(0x21, 0x11, &[0; 5000]), 20).await.0, Err(NoHeader::TooLong)));
        for foreign in [&b"GET / HTTP/1.1\r\nhost: x\r\n"[..], b"PROXYTCP4 1.1.1.1 1.1.1.1 1 1\r\n", b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\0"] {
            assert!(matches!(parted(foreign, 3).await.0, Err(NoHeader::Foreign)));
        }
        let malformed = [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 99999\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 4660 80\r\n".to_vec(),
            b"PROXY UNKNOWN\rx\n".to_vec(),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x31, 0x11, &[0; 12]),
            v2(0x21, 0x44, &[0; 12]),
        ];
        for malformed in malformed {
            let (read, _) = parted(&malformed, 14).await;
            assert!(matches!(read, Err(NoHeader::Malformed)), "{malformed:?}: {read:?}");
        }
        for broken in [&b""[..], b"PROXY TCP4 192", &v2(0x21, 0x11, &[0; 12])[..20]] {
            assert!(matches!(parted(broken, 0).await.0, Err(NoHeader::Broken(_))));
        }
    }
}
