//! A certificate, its key and what else a handshake needs, from files.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};

use super::{ClientCertificates, TlsConfig};

/// Why a pair cannot be shown.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {kind}", path = path.display())]
pub struct Unusable {
    /// The file.
    pub path: Box<Path>,
    /// What is wrong with it.
    #[source]
    pub kind: Kind,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Kind {
    /// It is not there, or not for us.
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
    /// It is not PEM, or has none of what it should have.
    #[error("has no {0} in PEM")]
    Empty(&'static str),
    /// Everybody may read the key.
    #[error("is accessible by others (mode {0:03o}); chmod o= it")]
    Exposed(u32),
    /// The leaf is no certificate.
    #[error("is no X.509 certificate: {0}")]
    Malformed(String),
    /// rustls takes neither.
    #[error("cannot be used: {0}")]
    Refused(String),
}

/// What a handshake needs, and until when it holds, in seconds since 1970.
pub(super) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    pub(super) not_after: i64,
}

pub(super) fn load(config: &TlsConfig) -> Result<Loaded, Unusable> {
    let of = |path: &Path| {
        let path: Box<Path> = path.into();
        move |kind| Unusable { path, kind }
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&config.certificate).map_err(of(&config.certificate))?;
    let not_after = not_after(&chain).map_err(of(&config.certificate))?;
    let key = private_key(&config.private_key).map_err(of(&config.private_key))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13, &TLS12]);
    let builder = builder.map_err(|error| of(&config.certificate)(refused(&error)))?;
    let builder = match &config.clients {
        None => builder.with_no_client_auth(),
        Some((ca, needed)) => builder.with_client_cert_verifier(verifier(ca, *needed, provider).map_err(of(ca))?),
    };
    // The key that belongs to another certificate, above all.
    let mut server = builder.with_single_cert(chain, key).map_err(|error| of(&config.private_key)(refused(&error)))?;
    server.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    // Clients that come back to this process shake hands without signatures. Its keys are its own: no ticket outlives it, nor this pair.
    server.ticketer = aws_lc_rs::Ticketer::new().map_err(|error| of(&config.certificate)(refused(&error)))?;
    Ok(Loaded { server: Arc::new(server), not_after })
}

fn refused(error: &impl ToString) -> Kind {
    Kind::Refused(error.to_string())
}

fn read(path: &Path, what: &'static str, parse: impl FnOnce(&[u8]) -> Result<(), pem::Error>) -> Result<(), Kind> {
    let text = fs::read(path).map_err(Kind::Unreadable)?;
    parse(&text).map_err(|_| Kind::Empty(what))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Kind> {
    let mut chain = Vec::new();
    read(path, "certificate", |text| CertificateDer::pem_slice_iter(text).try_for_each(|one| one.map(|one| chain.push(one))))?;
    if chain.is_empty() { Err(Kind::Empty("certificate")) } else { Ok(chain) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Kind> {
    let mode = fs::metadata(path).map_err(Kind::Unreadable)?.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(Kind::Exposed(mode));
    }
    let mut key = None;
    read(path, "private key", |text| PrivateKeyDer::from_pem_slice(text).map(|one| key = Some(one)))?;
    key.ok_or(Kind::Empty("private key"))
}

fn not_after(chain: &[CertificateDer<'_>]) -> Result<i64, Kind> {
    let leaf = chain.first().ok_or(Kind::Empty("certificate"))?;
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).map_err(|error| Kind::Malformed(error.to_string()))?;
    Ok(leaf.validity().not_after.timestamp())
}

fn verifier(ca: &Path, needed: ClientCertificates, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, Kind> {
    let mut roots = RootCertStore::empty();
    for root in certificates(ca)? {
        roots.add(root).map_err(|error| refused(&error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match needed {
        ClientCertificates::Optional => builder.allow_unauthenticated(),
        ClientCertificates::Required => builder,
    };
    builder.build().map_err(|error| refused(&error))
}
