//! One byte stream to an origin, through TLS when it says so.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::Origin;

/// Who may vouch for a gateway behind `https`.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Whoever this machine trusts.
    #[default]
    System,
    /// These authorities and nobody else.
    Authorities(Arc<RootCertStore>),
}

/// Why there are no authorities to trust.
#[derive(Debug, thiserror::Error)]
pub enum NoTrust {
    /// The file cannot be read, or is not PEM.
    #[error("the certificates in {path} cannot be read")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// One of them is no certificate.
    #[error("{path} holds a certificate that cannot be used")]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// There is none in it.
    #[error("{0} holds no certificate")]
    Empty(PathBuf),
}

impl Trust {
    /// The authorities whose certificates are in that file, PEM.
    pub fn of_file(path: &Path) -> Result<Self, NoTrust> {
        let unreadable = |source| NoTrust::Unreadable { path: path.to_owned(), source };
        let mut authorities = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            let added = authorities.add(certificate.map_err(unreadable)?);
            added.map_err(|source| NoTrust::Unusable { path: path.to_owned(), source })?;
        }
        if authorities.is_empty() { Err(NoTrust::Empty(path.to_owned())) } else { Ok(Self::Authorities(Arc::new(authorities))) }
    }

    fn config(&self, protocol: &[u8]) -> Result<ClientConfig, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions()?;
        let builder = match self {
            Self::System => builder.with_platform_verifier()?,
            Self::Authorities(authorities) => builder.with_root_certificates(Arc::clone(authorities)),
        };
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(config)
    }
}

/// What both kinds of connection are.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects. `protocol` is what will be spoken, for ALPN.
pub(crate) async fn dial(origin: &Origin, trust: &Trust, protocol: &[u8]) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect((origin.host(), origin.port())).await?;
    stream.set_nodelay(true)?;
    if !origin.is_tls() {
        return Ok(Box::new(stream));
    }
    let name = ServerName::try_from(origin.host().to_owned()).map_err(io::Error::other)?;
    let config = trust.config(protocol).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_no_trust() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(matches!(Trust::of_file(&path), Err(NoTrust::Unreadable { .. })));
        std::fs::write(&path, "nothing").unwrap();
        assert!(matches!(Trust::of_file(&path), Err(NoTrust::Empty(_))));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(Trust::of_file(&path), Err(NoTrust::Unusable { .. })));
    }
}
