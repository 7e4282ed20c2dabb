//! TLS, as clients see it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    version::{TLS12, TLS13},
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{places::inn, *};

/// A CA, and files of a pair that it signed.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

struct Pair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let this = Self { dir: TempDir::new().unwrap(), issuer };
        fs::write(this.path("ca.pem"), this.issuer.pem()).unwrap();
        this.show(&this.pair());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn pair(&self) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn show(&self, pair: &Pair) {
        fs::write(self.path("tls.pem"), &pair.certificate).unwrap();
        fs::write(self.path("tls.key"), &pair.key).unwrap();
        fs::set_permissions(self.path("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn config(&self, more: &str) -> String {
        let path = |name| self.path(name).display().to_string();
        format!("[tls]\ncertificate = '{}'\nprivate_key = '{}'\n{}", path("tls.pem"), path("tls.key"), more.replace("CA", &path("ca.pem")))
    }

    fn client(&self, versions: &[&'static SupportedProtocolVersion], alpn: &[&str], own: Option<&Pair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let builder = builder.with_protocol_versions(versions).unwrap().with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some(own) => {
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![der(&own.certificate)], key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn fingerprint(pem: &str) -> String {
    Fingerprint(Sha256::digest(der(pem)).into()).to_string()
}

async fn connect(inn: &Inn, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, inn.guest().await.0).await
}

/// The body of the answer.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: inn\r\n\r\n").as_bytes()).await?;
    let mut heard = Vec::new();
    loop {
        if stream.read_buf(&mut heard).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&heard);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return Ok(body.to_owned());
        }
    }
}

fn alpn(stream: &TlsStream<TcpStream>) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

#[tokio::test]
async fn both_versions_of_tls_and_both_of_http_are_spoken() {
    let authority = Authority::new();
    let inn = inn(&authority.config("")).await;
    for version in [&TLS12, &TLS13] {
        let mut http1 = connect(&inn, authority.client(&[version], &["http/1.1"], None)).await.unwrap();
        assert_eq!((alpn(&http1), http1.get_ref().1.protocol_version()), (Some(&b"http/1.1"[..]), Some(version.version)));
        assert_eq!(ask(&mut http1, "/who").await.unwrap(), "127.0.0.1 nobody");
        let http2 = connect(&inn, authority.client(&[version], &["h2", "http/1.1"], None)).await.unwrap();
        assert_eq!(alpn(&http2), Some(&b"h2"[..]));
        let (mut sender, connection) = h2::client::handshake(http2).await.unwrap();
        let asking = async {
            let (answer, _) = sender.send_request(Request::get("https://inn/ping").body(()).unwrap(), true).unwrap();
            answer.await.unwrap().into_body().data().await.unwrap().unwrap()
        };
        let body = tokio::select! {
            body = asking => body,
            ended = connection => panic!("{ended:?}"),
        };
        assert_eq!(body, "pong");
    }
    inn.shutdown.drain();
    inn.ended().await;
}

#[tokio::test]
async fn a_large_answer_comes_whole_and_an_idle_client_is_parted_from_in_good_order() {
    let authority = Authority::new();
    let inn = inn(&authority.config("")).await;
    let mut client = connect(&inn, authority.client(&[&TLS13], &[], None)).await.unwrap();
    let body = vec![b'x'; 1 << 20];
    client.write_all(format!("POST /read HTTP/1.1\r\nhost: inn\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes()).await.unwrap();
    client.write_all(&body).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"1048576") {
        assert_ne!(client.read_buf(&mut heard).await.unwrap(), 0, "{}", String::from_utf8_lossy(&heard));
    }
    inn.shutdown.drain();
    // Not a byte more, and no truncation: the end is announced.
    assert_eq!(timeout(PATIENCE, client.read(&mut [0])).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended_and_what_is_no_handshake_is_an_error() {
    let authority = Authority::new();
    let inn = inn(&authority.config("handshake_timeout = '300ms'\n")).await;
    let config = Arc::new(authority.client(&[&TLS13], &[], None));
    let mut hello = Vec::new();
    ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap().write_tls(&mut hello).unwrap();
    for (i, bytes) in [&hello[..], &hello[..20]].into_iter().enumerate() {
        let mut silent = inn.guest().await;
        silent.write(bytes).await;
        silent.rest().await;
        inn.refuses("handshake", u64::try_from(i).unwrap() + 1).await;
    }
    let mut plain = inn.guest().await;
    plain.ask("/ping").await;
    let answer = plain.rest().await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    let failed = || inn.counts.errors.with_label_values(&["inn", "tls"]).get();
    timeout(PATIENCE, async {
        while failed() == 0 {
            sleep(SHORT).await;
        }
    })
    .await
    .expect("it is counted");
}

#[tokio::test]
async fn clients_are_known_by_their_certificates() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (mine, foreign) = (authority.pair(), stranger.pair());
    let known = format!("127.0.0.1 {}", fingerprint(&mine.certificate));
    for (needed, without) in [("optional", Some("127.0.0.1 nobody")), ("required", None)] {
        let inn = inn(&authority.config(&format!("client_ca = 'CA'\nclient_certificate = '{needed}'\n"))).await;
        for version in [&TLS12, &TLS13] {
            let cases = [(Some(&mine), Some(known.as_str())), (None, without), (Some(&foreign), None)];
            for (own, wanted) in cases {
                let answer = async {
                    let mut client = connect(&inn, authority.client(&[version], &[], own)).await.ok()?;
                    // In TLS 1.3 a client hears of its refusal after the handshake.
                    ask(&mut client, "/who").await.ok()
                };
                assert_eq!(answer.await.as_deref(), wanted, "{needed} {version:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_changed_certificate_is_shown_to_who_comes_next_and_nobody_is_dropped() {
    let authority = Authority::new();
    let config = places::config(&authority.config(""));
    let mut opened = None;
    let inn = Inn::on(Limits::configured(&config, Farewell::within(BUDGET)), |metrics| {
        let gate = Gate::open(&config, metrics).unwrap();
        opened = Some(gate.clone());
        gate
    })
    .await;
    let gate = opened.unwrap();
    inn.shutdown.spawn_companion("watch", async move { gate.watch().await });
    let client = || authority.client(&[&TLS13], &[], None);
    let mut before = connect(&inn, client()).await.unwrap();
    assert_eq!(ask(&mut before, "/ping").await.unwrap(), "pong");
    let next = authority.pair();
    authority.show(&next);
    let shown = async {
        loop {
            let mut after = connect(&inn, client()).await.unwrap();
            assert_eq!(ask(&mut after, "/ping").await.unwrap(), "pong");
            if after.get_ref().1.peer_certificates().unwrap()[0] == der(&next.certificate) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, shown).await.expect("the new one is shown");
    assert_eq!(ask(&mut before, "/ping").await.unwrap(), "pong");
}

#[tokio::test]
async fn a_load_balancer_s_header_comes_before_tls() {
    let authority = Authority::new();
    let inn = inn(&format!("[connections]\nproxy_protocol_from = ['127.0.0.0/8']\n{}", authority.config(""))).await;
    let mut guest = inn.guest().await;
    guest.write(b"PROXY TCP6 2001:db8::1 2001:db8::2 4660 443\r\n").await;
    let connector = TlsConnector::from(Arc::new(authority.client(&[&TLS13], &[], None)));
    let mut client = connector.connect(ServerName::try_from("localhost").unwrap(), guest.0).await.unwrap();
    assert_eq!(ask(&mut client, "/who").await.unwrap(), "2001:db8::1 nobody");
}
