//! A directory of signer keys: `KEYID.pem` for each, and `keys.json`, the [`Register`].
//!
//! Changes are made under a lock, written aside, synced and renamed: a reader sees the register before or after, never half of one, and a private key is
//! there before the register names it and until it does so no more. Killed at any line, a change was made or was not; what it left behind is swept by the next.
//!
//! A directory with one PEM file, whatever its name, and no register yet is as good as that file. The first change makes a register of it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gatehouse_proto::keys::{KeyError, Signer};
use zeroize::Zeroizing;

use super::{
    Problem, Refused, Register,
    guard::{Exposed, Guard},
};

const REGISTER: &str = "keys.json";
const LOCK: &str = ".lock";
/// Longer files are neither keys nor registers.
const LONGEST_PEM: u64 = 16 << 10;
const LONGEST_REGISTER: u64 = 1 << 20;
/// How often a directory that changes under a reader is read.
const ATTEMPTS: usize = 50;

/// See the module's head.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
}

/// What is to be done.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Change {
    /// Publishes a key. The first one of a directory is active at once.
    Add(Signer),
    /// Lets a key sign.
    Activate {
        /// Which.
        key_id: String,
        /// How long it must have been published.
        delay: Duration,
    },
    /// Destroys a private key.
    Retire {
        /// Which.
        key_id: String,
        /// How long its public half is still published.
        overlap: Duration,
    },
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It makes no sense as the keys are.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Somebody else is at it.
    #[error("another change of the keys is under way")]
    Busy,
    /// It cannot be told how the keys are.
    #[error(transparent)]
    Broken(#[from] Problem),
    /// The disk did not take it.
    #[error("{0} cannot be written: {1}")]
    Write(String, #[source] io::Error),
}

/// The keys as they are.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) register: Register,
    pub(super) signer: Arc<Signer>,
    pub(super) stamp: Stamp,
}

/// Tells one state of the directory from another: of itself and of the register, device, inode, time of change and size.
pub(super) type Stamp = [Option<[i128; 4]>; 2];

impl Directory {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Which keys there are; `None`: none at all yet.
    pub fn register(&self) -> Result<Option<Register>, Problem> {
        if fs::symlink_metadata(&self.path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        Guard::Own.check(&self.path, &fs::metadata(&self.path).map_err(|error| self.unread("", error))?)?;
        let Some(file) = self.open_register()? else {
            return Ok(self.sole()?.map(|(_, signer, added)| Register::with(&signer.public_key(), added)));
        };
        let path = self.path.join(REGISTER);
        Guard::Own.check(&path, &file.metadata().map_err(|error| self.unread(REGISTER, error))?)?;
        let mut text = String::new();
        file.take(LONGEST_REGISTER).read_to_string(&mut text).map_err(|error| self.unread(REGISTER, error))?;
        Register::parse(&text).map(Some).map_err(|why| Problem::Register(path.display().to_string(), why))
    }

    /// Register and active key, of one moment.
    pub(super) fn read(&self) -> Result<Found, Problem> {
        let mut attempts = ATTEMPTS;
        loop {
            attempts -= 1;
            let stamp = self.stamp();
            match self.read_once(stamp) {
                // It may be that a key was retired between our look at the register and at the file.
                Err(_) if attempts > 0 && self.stamp() != stamp => {}
                read => return read,
            }
        }
    }

    fn read_once(&self, stamp: Stamp) -> Result<Found, Problem> {
        let missing = || Problem::Register(self.path.display().to_string(), format!("holds neither {REGISTER} nor a .pem file"));
        let register = self.register()?.ok_or_else(missing)?;
        let signer = match self.open_register()? {
            Some(_) => self.signer(&register.active)?,
            None => self.sole()?.ok_or_else(missing)?.1,
        };
        Ok(Found { register, signer: Arc::new(signer), stamp })
    }

    pub(super) fn stamp(&self) -> Stamp {
        let of = |path: &Path| {
            let found = fs::metadata(path).ok()?;
            let changed = i128::from(found.ctime()) * 1_000_000_000 + i128::from(found.ctime_nsec());
            Some([i128::from(found.dev()), i128::from(found.ino()), changed, i128::from(found.size())])
        };
        [of(&self.path), of(&self.path.join(REGISTER))]
    }

    /// Makes a change, durably, and says how the keys are now.
    pub fn change(&self, change: Change, now_ms: i64) -> Result<Register, ChangeError> {
        let made = fs::DirBuilder::new().mode(0o700).create(&self.path);
        if let Err(error) = made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(self.unwritten("", error));
        }
        let _lock = self.lock()?;
        let stray = if self.open_register()?.is_none() { self.sole()? } else { None };
        let before = self.register()?;
        if let Some((_, signer, _)) = &stray {
            self.write_pem(signer)?;
        }
        let register = match (before, change) {
            (None, Change::Add(signer)) => {
                self.write_pem(&signer)?;
                Register::with(&signer.public_key(), now_ms)
            }
            (None, Change::Activate { key_id, .. } | Change::Retire { key_id, .. }) => return Err(Refused::Unknown(key_id).into()),
            (Some(register), change) => self.apply(register, change, now_ms)?,
        };
        self.write(REGISTER, register.to_json().as_bytes())?;
        self.sweep(&register, stray.map(|(path, ..)| path))?;
        Ok(register)
    }

    fn apply(&self, mut register: Register, change: Change, now_ms: i64) -> Result<Register, ChangeError> {
        self.sweep(&register, None)?;
        register.prune(now_ms);
        match change {
            Change::Add(signer) => {
                register.add(&signer.public_key(), now_ms)?;
                self.write_pem(&signer)?;
            }
            Change::Activate { key_id, delay } => {
                register.activate(&key_id, delay, now_ms)?;
                // Nobody could sign otherwise.
                self.signer(&key_id)?;
            }
            Change::Retire { key_id, overlap } => register.retire(&key_id, overlap, now_ms)?,
        }
        Ok(register)
    }

    /// Destroys the private keys of what is retired, and the file that the register has taken over.
    fn sweep(&self, register: &Register, stray: Option<PathBuf>) -> Result<(), ChangeError> {
        let kept = |path: &Path| register.keys.iter().any(|entry| path == self.pem(&entry.key_id));
        let retired = register.keys.iter().filter(|entry| entry.retired_at_ms.is_some()).map(|entry| self.pem(&entry.key_id));
        for path in retired.chain(stray.filter(|path| !kept(path))) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(ChangeError::Write(path.display().to_string(), error)),
                _ => {}
            }
        }
        self.sync()
    }

    fn signer(&self, key_id: &str) -> Result<Signer, Problem> {
        let path = self.pem(key_id);
        let signer = read_pem(&path)?;
        if signer.key_id() == key_id {
            Ok(signer)
        } else {
            Err(Problem::Register(path.display().to_string(), format!("holds the key {}", signer.key_id())))
        }
    }

    /// The one PEM file of a directory without a register, its key, and since when it is there.
    fn sole(&self) -> Result<Option<(PathBuf, Signer, i64)>, Problem> {
        let unread = |error| self.unread("", error);
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(unread)? {
            paths.push(entry.map_err(unread)?.path());
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "pem"));
        match &paths[..] {
            [] => Ok(None),
            [path] => {
                let signer = read_pem(path)?;
                let found = fs::metadata(path).map_err(unread)?;
                Ok(Some((path.clone(), signer, found.mtime().saturating_mul(1000))))
            }
            [..] => {
                let why = format!("holds {} .pem files and no {REGISTER}, so that none of them is active", paths.len());
                Err(Problem::Register(self.path.display().to_string(), why))
            }
        }
    }

    fn open_register(&self) -> Result<Option<File>, Problem> {
        match File::open(self.path.join(REGISTER)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.unread(REGISTER, error)),
        }
    }

    /// Held until it is dropped, or its holder dies.
    fn lock(&self) -> Result<File, ChangeError> {
        let unwritten = |error| self.unwritten(LOCK, error);
        let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(self.path.join(LOCK)).map_err(unwritten)?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(ChangeError::Busy),
            Err(TryLockError::Error(error)) => Err(unwritten(error)),
        }
    }

    fn write_pem(&self, signer: &Signer) -> Result<(), ChangeError> {
        let path = self.pem(signer.key_id());
        let pem = signer.to_pkcs8_pem().map_err(|error| Problem::Key(path.display().to_string(), error))?;
        self.write(&format!("{}.pem", signer.key_id()), pem.as_bytes())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ChangeError> {
        let draft = self.path.join(format!(".{name}.new"));
        let written = || {
            match fs::remove_file(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, self.path.join(name))
        };
        written().map_err(|error| self.unwritten(name, error))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), ChangeError> {
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(|error| self.unwritten("", error))
    }

    fn pem(&self, key_id: &str) -> PathBuf {
        self.path.join(format!("{key_id}.pem"))
    }

    fn unread(&self, name: &str, error: io::Error) -> Problem {
        Problem::Read(self.named(name), error)
    }

    fn unwritten(&self, name: &str, error: io::Error) -> ChangeError {
        ChangeError::Write(self.named(name), error)
    }

    fn named(&self, name: &str) -> String {
        if name.is_empty() { self.path.display().to_string() } else { self.path.join(name).display().to_string() }
    }
}

/// The private key in that file, which nobody else may read.
pub(super) fn read_pem(path: &Path) -> Result<Signer, Problem> {
    let name = || path.display().to_string();
    let read = || -> io::Result<Result<Zeroizing<Vec<u8>>, Exposed>> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        if let Err(exposed) = Guard::Private.check(path, &found) {
            return Ok(Err(exposed));
        }
        // Never grows: what it grew out of would not be wiped.
        let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(LONGEST_PEM).unwrap_or_default()));
        file.take(LONGEST_PEM).read_to_end(&mut bytes)?;
        Ok(Ok(bytes))
    };
    let bytes = read().map_err(|error| Problem::Read(name(), error))??;
    let pem = str::from_utf8(&bytes).map_err(|_| KeyError::Pem);
    pem.and_then(Signer::from_pkcs8_pem).map_err(|error| Problem::Key(name(), error))
}

#[cfg(test)]
mod tests;
