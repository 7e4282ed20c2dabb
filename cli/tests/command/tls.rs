//! A gateway behind TLS.

use std::sync::Arc;

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::exec::{Scene, keys_server, signer};

/// Ends TLS before plain listeners, with a certificate for the loopback address.
struct Terminator {
    certificate: String,
    config: Arc<ServerConfig>,
    running: JoinSet<()>,
}

impl Terminator {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).unwrap();
        let config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_no_client_auth().with_single_cert(vec![CertificateDer::from(made.cert.der().to_vec())], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self { certificate: made.cert.pem(), config: Arc::new(config), running: JoinSet::new() }
    }

    /// Where what is plain at `url` is reached through TLS.
    async fn before(&mut self, url: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (secure, plain) = (format!("https://{}", listener.local_addr().unwrap()), url.trim_start_matches("http://").to_owned());
        let acceptor = TlsAcceptor::from(Arc::clone(&self.config));
        self.running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, plain) = (acceptor.clone(), plain.clone());
                connections.spawn(async move {
                    // Who does not trust us goes away again.
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut behind = TcpStream::connect(plain).await.unwrap();
                    let _ended = copy_bidirectional(&mut stream, &mut behind).await;
                });
            }
        });
        secure
    }
}

#[tokio::test]
async fn a_gateway_behind_tls_is_reached_by_those_who_trust_its_certificate() {
    let scene = Scene::new(|_| {}, None).await;
    let mut terminator = Terminator::new();
    let endpoint = terminator.before(&scene.endpoint).await;
    let keys = json!({"keys": [{"public_key": signer().public_key().to_base64()}]});
    let http = terminator.before(&keys_server(keys.to_string()).await).await;
    let ca = scene.stage.path("ca.pem");
    std::fs::write(&ca, &terminator.certificate).unwrap();
    let exec = ["client", "exec", "--key", &scene.key, "--session", "ds-1", "--type", "demo.echo", "--payload", "hello"];
    let there = ["--endpoint", &endpoint, "--http", &http];

    let done = scene.stage.call(&[&exec[..], &there].concat()).await;
    assert!(done.code == 69 && done.stderr.contains("certificate"), "nobody this machine trusts vouches for it: {done:?}");
    let done = scene.stage.call(&[&exec[..], &there, &["--ca", ca.to_str().unwrap()]].concat()).await;
    assert!(done.code == 0 && done.stdout.contains("payload      hello"), "{done:?}");
}

#[tokio::test]
async fn a_file_without_certificates_is_exit_1() {
    let scene = Scene::new(|_| {}, None).await;
    let exec = ["client", "exec", "--key", &scene.key, "--session", "ds-1", "--type", "t", "--endpoint", "https://127.0.0.1:1"];
    let done = scene.stage.call(&[&exec[..], &["--ca", &scene.key]].concat()).await;
    assert!(done.code == 1 && done.stderr.contains("holds no certificate"), "{done:?}");
}
