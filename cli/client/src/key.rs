//! Device keys in files: PKCS#8 PEM, for their owner's eyes alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::Context as _;
use gatehouse_proto::keys::Signer;
use zeroize::Zeroizing;

const OWNER_ALONE: u32 = 0o600;

/// A new key, of the kernel's randomness.
pub fn generate() -> anyhow::Result<Signer> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).context("read randomness")?;
    Ok(Signer::from_seed(&seed))
}

/// Reads a private key.
pub fn read(path: &Path) -> anyhow::Result<Signer> {
    let pem = fs::read_to_string(path).map(Zeroizing::new).with_context(|| format!("read key {}", path.display()))?;
    Signer::from_pkcs8_pem(&pem).with_context(|| format!("read key {}", path.display()))
}

/// Writes a private key to a new file. An existing one is never overwritten: it may be the only copy of a key.
pub fn write(path: &Path, key: &Signer) -> anyhow::Result<()> {
    let pem = key.to_pkcs8_pem()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_ALONE).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!("{} exists; a key is never overwritten", path.display()),
        _ => anyhow::Error::new(error).context(format!("create {}", path.display())),
    })?;
    file.write_all(pem.as_bytes()).and_then(|()| file.sync_all()).with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_written_key_is_read_back_and_is_its_owner_s_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (path, key) = (dir.path().join("device.pem"), generate().unwrap());
        write(&path, &key).unwrap();
        assert_eq!(read(&path).unwrap().public_key(), key.public_key());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, OWNER_ALONE);
    }

    #[test]
    fn an_existing_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.pem");
        fs::write(&path, "precious").unwrap();
        assert!(write(&path, &generate().unwrap()).unwrap_err().to_string().contains("never overwritten"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
