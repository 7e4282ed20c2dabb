//! The gateway's signer keys: one file, or a [`Directory`] of several, one of which is active.
//!
//! ```text
//!  gatehouse key … ─▶ supervisor ─▶ Directory ── keys.json, KEYID.pem ──▶ follow: once a second ─▶ Keys ─▶ who signs, who publishes
//! ```
//!
//! A process that signs takes the [`Ring`] of the moment: which key signs and which are published belong together. A directory that cannot be read any more
//! changes nothing: the keys in use stay in use, and a metric says so.

mod config;
mod directory;
mod follow;
mod guard;
mod register;

use std::{fmt, io, path::Path, sync::Arc};

use arc_swap::ArcSwap;
use gatehouse_proto::keys::{KeyError, Signer};
use zeroize::Zeroizing;

pub use config::Rotation;
pub use directory::{Change, ChangeError, Directory};
pub use register::{Entry, Refused, Register, State};

use follow::Follower;
use guard::Exposed;

/// Why keys cannot be read. Never holds key material.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file is not there, or not for us.
    #[error("{0} cannot be read: {1}")]
    Read(String, #[source] io::Error),
    /// Others may read a private key, or change what we read.
    #[error(transparent)]
    Exposed(#[from] Exposed),
    /// The file is no key.
    #[error("{0} is {1}")]
    Key(String, #[source] KeyError),
    /// The register cannot be what a change left.
    #[error("{0}: {1}")]
    Register(String, String),
}

/// What is in use: one at a time, swapped as a whole.
#[derive(Clone, Debug)]
pub struct Ring {
    signer: Arc<Signer>,
    published: Vec<Published>,
}

/// A public key as clients are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Of this key.
    pub key_id: String,
    /// Padded base64 of the raw key.
    pub public_key: String,
    /// Whether it signs now.
    pub active: bool,
}

/// The keys of this process. Clones share them.
#[derive(Clone)]
pub struct Keys {
    ring: Arc<ArcSwap<Ring>>,
    /// Where they came from, if that may change.
    directory: Option<Arc<Directory>>,
}

impl Keys {
    /// One key that stays.
    #[must_use]
    pub fn single(signer: Signer) -> Self {
        let published = Published { key_id: signer.key_id().to_owned(), public_key: signer.public_key().to_base64(), active: true };
        Self { ring: Arc::new(ArcSwap::from_pointee(Ring { signer: Arc::new(signer), published: vec![published] })), directory: None }
    }

    /// The key in that file, which others may not read.
    pub fn open_file(path: &Path) -> Result<Self, Problem> {
        directory::read_pem(path).map(Self::single)
    }

    /// The keys in that directory, which others may not write. They stay as they are until [`Keys::follow`].
    pub fn open_directory(path: &Path) -> Result<Self, Problem> {
        let directory = Directory::new(path);
        let found = directory.read()?;
        let ring = Ring::of(&found.register, found.signer, now_ms());
        Ok(Self { ring: Arc::new(ArcSwap::from_pointee(ring)), directory: Some(Arc::new(directory)) })
    }

    /// Who signs now. Take it once for each thing that is signed: the key id goes with the signature.
    #[must_use]
    pub fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.ring.load().signer)
    }

    /// Who signs now, and which keys are published.
    #[must_use]
    pub fn ring(&self) -> Arc<Ring> {
        self.ring.load_full()
    }

    /// Whether what that key signed can still be verified.
    #[must_use]
    pub fn publishes(&self, key_id: &str) -> bool {
        self.ring.load().published.iter().any(|key| key.key_id == key_id)
    }

    /// Looks at the directory each second until the drain begins, and swaps what changed.
    pub fn follow(&self, process: &crate::Process) {
        Follower::start(self, process);
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keys").field(&self.ring.load()).finish()
    }
}

impl Ring {
    fn of(register: &Register, signer: Arc<Signer>, now_ms: i64) -> Self {
        let published = register.published(now_ms).map(|entry| Published {
            key_id: entry.key_id.clone(),
            public_key: entry.public_key.clone(),
            active: entry.key_id == register.active,
        });
        Self { published: published.collect(), signer }
    }

    /// Who signs.
    #[must_use]
    pub fn signer(&self) -> &Arc<Signer> {
        &self.signer
    }

    /// The active one among them.
    #[must_use]
    pub fn published(&self) -> &[Published] {
        &self.published
    }
}

/// A new private key.
pub fn generate() -> io::Result<Signer> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(Signer::from_seed(&seed))
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
