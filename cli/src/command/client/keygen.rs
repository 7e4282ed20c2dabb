//! `gatehouse client keygen`: a device key, or the gateway's own signing key.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use gatehouse_client::key;

use crate::{failure::Failure, output::Output};

/// Where the private key goes.
#[derive(Debug, Args)]
pub struct Destination {
    /// Write the private key (PKCS#8 PEM, mode 0600) to this new file [default: print it]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub fn keygen(destination: &Destination, output: &mut Output) -> Result<(), Failure> {
    let key = key::generate()?;
    let (public_key, key_id) = (key.public_key().to_base64(), key.key_id());
    let pem = match &destination.out {
        Some(path) => {
            key::write(path, &key)?;
            None
        }
        None => Some(key.to_pkcs8_pem().map_err(anyhow::Error::from)?),
    };
    if output.is_json() {
        let mut document = json!({"public_key": public_key, "key_id": key_id});
        if let Some(pem) = &pem {
            document["private_key_pem"] = json!(pem.as_str());
        }
        return output.document(&document);
    }
    if let Some(pem) = &pem {
        output.line(pem.trim_end())?;
    }
    output.line(&public_key)
}
