//! Which sockets were bound by a supervisor of this boot, this one or one before it: `{runtime_dir}/sockets.json`.
//!
//! A socket that was handed on by systemd or taken from a child knows the path that it was bound to, but not whether that path still leads to it: the
//! directory may have been swept, or another socket bound there since. The kernel does not tell without privileges, so what we bind is written down:
//! the socket's inode, and the inode and birth of its path. What is not written down was bound by somebody else, and is never unlinked by us.
//!
//! Of public sockets the inode is written down, too: so that an address which is in use is known to be in use by a child that was lent it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{FileTypeExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};

/// The record.
#[derive(Debug)]
pub(crate) struct Bound {
    file: PathBuf,
    record: Record,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    local: BTreeMap<PathBuf, Entry>,
    /// The sockets' inodes, by name.
    public: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The socket's own inode, which no other socket has before the next boot.
    socket: u64,
    path: Identity,
}

/// A file and no other: the number alone passes on to the next file as soon as this one is unlinked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    device: u64,
    inode: u64,
    /// Nanoseconds; 0 where the file system does not know.
    born: u64,
}

impl Bound {
    /// What the supervisor before us wrote; nothing, when it wrote nothing that can be read.
    pub(crate) fn open(runtime_dir: &Path) -> Self {
        let file = runtime_dir.join("sockets.json");
        let record = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file, record }
    }

    /// We have bound this public one.
    pub(crate) fn note_public(&mut self, name: &str, socket: &OwnedFd) {
        if let Ok(inode) = inode(socket) {
            self.record.public.insert(name.to_owned(), inode);
            self.write();
        }
    }

    /// The name under which one of these public sockets was bound by us.
    pub(crate) fn name_of(&self, inodes: &[u64]) -> Option<&str> {
        self.record.public.iter().find(|(_, inode)| inodes.contains(inode)).map(|(name, _)| name.as_str())
    }

    /// Whether what stands under that path was bound by us.
    pub(crate) fn is_ours(&self, path: &Path) -> bool {
        self.record.local.get(path).is_some_and(|entry| identity(path).is_ok_and(|found| found == entry.path))
    }

    /// We have bound this one.
    pub(crate) fn note(&mut self, path: &Path, socket: &OwnedFd) {
        match inode(socket).and_then(|socket| Ok(Entry { socket, path: identity(path)? })) {
            Ok(entry) => {
                self.record.local.insert(path.to_owned(), entry);
                self.write();
            }
            Err(error) => tracing::warn!(%error, "{} not noted; it will not be unlinked", path.display()),
        }
    }

    /// Whether the path leads to that socket, as far as can be known: of a socket that somebody else bound, only that there is one.
    pub(crate) fn leads_to(&self, path: &Path, socket: &OwnedFd) -> bool {
        match self.entry(path, socket) {
            Some(entry) => identity(path).is_ok_and(|found| found == entry.path),
            None => fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()),
        }
    }

    /// Unlinks the path if we bound it and it still leads to that socket.
    pub(crate) fn unlink(&mut self, path: &Path, socket: &OwnedFd) {
        if self.entry(path, socket).is_some() {
            if self.leads_to(path, socket) {
                // Somebody was quicker.
                let _absent = fs::remove_file(path);
            }
            self.record.local.remove(path);
            self.write();
        }
    }

    fn entry(&self, path: &Path, socket: &OwnedFd) -> Option<&Entry> {
        let inode = inode(socket).ok()?;
        self.record.local.get(path).filter(|entry| entry.socket == inode)
    }

    fn write(&self) {
        let draft = self.file.with_extension("json.new");
        let written = serde_json::to_vec(&self.record).map_err(io::Error::other).and_then(|bytes| fs::write(&draft, bytes));
        if let Err(error) = written.and_then(|()| fs::rename(&draft, &self.file)) {
            tracing::warn!(%error, "{} not written; the next supervisor will not know which sockets are its own", self.file.display());
        }
    }
}

fn inode(socket: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket.as_fd())?.st_ino)
}

fn identity(path: &Path) -> io::Result<Identity> {
    let found = fs::symlink_metadata(path)?;
    let born = found.created().ok().and_then(|born| u64::try_from(born.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok());
    Ok(Identity { device: found.dev(), inode: found.ino(), born: born.unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_what_we_bound_and_what_is_still_there_is_unlinked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, foreign) = (dir.path().join("edge.sock"), dir.path().join("foreign.sock"));
        let first = OwnedFd::from(UnixListener::bind(&path).unwrap());
        Bound::open(dir.path()).note(&path, &first);

        // By the next supervisor.
        let mut bound = Bound::open(dir.path());
        assert!(bound.leads_to(&path, &first));
        let theirs = OwnedFd::from(UnixListener::bind(&foreign).unwrap());
        assert!(bound.leads_to(&foreign, &theirs));
        bound.unlink(&foreign, &theirs);
        assert!(foreign.exists(), "it was bound by somebody else");

        // Another socket on the same path, as often as it takes for the file system to give the same number again.
        for _ in 0..100 {
            fs::remove_file(&path).unwrap();
            drop(UnixListener::bind(&path).unwrap());
            assert!(!bound.leads_to(&path, &first));
        }
        bound.unlink(&path, &first);
        assert!(path.exists(), "it is another's");

        fs::remove_file(&path).unwrap();
        let second = OwnedFd::from(UnixListener::bind(&path).unwrap());
        bound.note(&path, &second);
        let mut bound = Bound::open(dir.path());
        assert!(bound.leads_to(&path, &second));
        bound.unlink(&path, &second);
        assert!(!path.exists() && !bound.leads_to(&path, &second));
        assert!(Bound::open(dir.path()).record.local.is_empty());
    }

    #[test]
    fn a_record_of_no_sense_knows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sockets.json"), "{").unwrap();
        assert!(Bound::open(dir.path()).record.local.is_empty());
    }
}
