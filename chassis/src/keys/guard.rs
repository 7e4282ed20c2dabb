//! Who else could read a private key, or put another in its place.

use std::{
    env,
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Others are let in where they must not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exposed {
    /// Of a file that holds a private key.
    #[error("{0} has mode {1:04o}: others than its owner may use the private key; chmod 600 {0}")]
    Readable(String, u32),
    /// Of what says which keys are used.
    #[error("{0} has mode {1:04o}: others than its owner may change the keys; chmod go-w {0}")]
    Writable(String, u32),
    /// Whoever owns a file can do with it what they like.
    #[error("{0} (mode {1:04o}) belongs to uid {2}, neither to this process's user (uid {3}) nor to root; chown {3} {0}")]
    Foreign(String, u32, u32, u32),
}

/// What is asked of a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Guard {
    /// Nobody but its owner reads it.
    Private,
    /// Nobody but its owner writes it.
    Own,
}

impl Guard {
    /// Of what was opened, so that it is what is read.
    pub(super) fn check(self, path: &Path, found: &Metadata) -> Result<(), Exposed> {
        // systemd lets one user in by an access list, which shows as a group's bits, and owns what it passes on.
        let passed = env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        if found.uid() == 0 && passed.is_some_and(|passed| path.parent() == Some(&passed)) {
            return Ok(());
        }
        self.judge(path, found.mode() & 0o7777, found.uid(), rustix::process::geteuid().as_raw())
    }

    fn judge(self, path: &Path, mode: u32, owner: u32, user: u32) -> Result<(), Exposed> {
        let name = path.display().to_string();
        // Root may read everything, and checks configurations for others.
        if owner != user && owner != 0 && user != 0 {
            return Err(Exposed::Foreign(name, mode, owner, user));
        }
        match self {
            Self::Private if mode & 0o077 != 0 => Err(Exposed::Readable(name, mode)),
            Self::Own if mode & 0o022 != 0 => Err(Exposed::Writable(name, mode)),
            Self::Private | Self::Own => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_for_its_owner_alone_and_its_owner_is_us_or_root() {
        let path = Path::new("k.pem");
        let told = |guard: Guard, mode, owner, user| guard.judge(path, mode, owner, user).err().map(|exposed| exposed.to_string());
        for mode in [0o600, 0o400, 0o700] {
            assert_eq!(told(Guard::Private, mode, 7, 7), None);
        }
        for mode in [0o640, 0o604, 0o610, 0o601, 0o620, 0o644] {
            let why = format!("k.pem has mode {mode:04o}: others than its owner may use the private key; chmod 600 k.pem");
            assert_eq!(told(Guard::Private, mode, 7, 7), Some(why));
        }
        assert_eq!(told(Guard::Private, 0o400, 0, 7), None, "root's, let in by other means");
        let foreign = "k.pem (mode 0600) belongs to uid 8, neither to this process's user (uid 7) nor to root; chown 7 k.pem";
        assert_eq!(told(Guard::Private, 0o600, 8, 7).as_deref(), Some(foreign));
        assert_eq!(told(Guard::Private, 0o600, 8, 0), None, "root checks for others");
        assert!(told(Guard::Private, 0o640, 8, 0).is_some(), "but not everything");
    }

    #[test]
    fn a_directory_may_be_read_by_others_and_written_by_nobody_else() {
        let path = Path::new("keys");
        assert_eq!(Guard::Own.judge(path, 0o755, 7, 7), Ok(()));
        for mode in [0o775, 0o757, 0o1777] {
            assert_eq!(Guard::Own.judge(path, mode, 7, 7), Err(Exposed::Writable("keys".into(), mode)));
        }
    }
}
