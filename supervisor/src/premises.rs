//! The state and runtime directories, and the proof that they are ours alone.
//!
//! Each holds a lock, for two suites may share neither. It is the kernel's and goes with the process, however that ends; no child inherits it, and a supervisor
//! that executes its successor hands it on, so that nobody comes in between.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use gatehouse_chassis::{config::Shared, exit::Fatal, sockets::Inherited};

/// In each of the two directories.
const LOCK: &str = "supervisor.lock";
/// How long whoever holds them may take to be gone: one that was killed a moment ago is not at once, and to be refused is final.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// Held while the supervisor lives.
#[derive(Debug)]
pub(crate) struct Premises {
    locks: Vec<(&'static str, PathBuf, File)>,
}

impl Premises {
    /// Makes the directories and locks them, or says whose they are.
    pub(crate) fn open(shared: &Shared, inherited: &mut Inherited) -> Result<Self, Fatal> {
        let mut locks: Vec<(&'static str, PathBuf, File)> = Vec::new();
        let until = Instant::now() + PATIENCE;
        for (name, key, dir) in [("lock.state", "state_dir", &shared.state_dir), ("lock.runtime", "runtime_dir", &shared.runtime_dir)] {
            create(key, dir)?;
            let path = dir.join(LOCK);
            // Both may be one directory.
            if !locks.iter().any(|(_, _, held)| is_at(held, &path)) {
                let lock = lock(&path, inherited.take_fd(name), until)?;
                locks.push((name, path, lock));
            }
        }
        Ok(Self { locks })
    }

    /// Makes the runtime directory again if somebody has removed it, and locks it. Whether it had to.
    pub(crate) fn restore(&mut self, shared: &Shared) -> Result<bool, Fatal> {
        let dir = &shared.runtime_dir;
        let was_gone = !dir.exists();
        if was_gone {
            create("runtime_dir", dir)?;
        }
        for (_, path, held) in self.locks.iter_mut().filter(|(_, path, _)| path.parent() == Some(dir)) {
            if !is_at(held, path) {
                *held = lock(path, None, Instant::now())?;
            }
        }
        Ok(was_gone)
    }

    /// The locks with their names, for the supervisor that is executed in our place.
    pub(crate) fn handed_on(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.locks.iter().map(|(name, _, lock)| Ok(((*name).to_owned(), lock.try_clone()?.into()))).collect()
    }
}

/// Where the operator's command finds us.
pub(crate) fn control_socket(shared: &Shared) -> PathBuf {
    shared.local_socket("supervisor", 0)
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |(open, found): (fs::Metadata, fs::Metadata)| (open.dev(), open.ino()) == (found.dev(), found.ino());
    file.metadata().and_then(|open| Ok((open, fs::metadata(path)?))).is_ok_and(same)
}

fn create(key: &str, dir: &Path) -> Result<(), Fatal> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(dir);
    made.map_err(|error| {
        let variable = format!("GATEWAY_{}", key.to_uppercase());
        Fatal::config(format!("suite.{key} {} cannot be created: {error}; create it for this user, or set {variable}", dir.display()))
    })
}

fn lock(path: &Path, handed_on: Option<OwnedFd>, until: Instant) -> Result<File, Fatal> {
    let unusable = |error: io::Error| Fatal::config(format!("{} cannot be used: {error}", path.display()));
    let open = || fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path);
    // The lock belongs to the open file: to lock it again changes nothing.
    let handed_on = handed_on.map(File::from).filter(|file| is_at(file, path));
    let mut file = handed_on.map_or_else(open, Ok).map_err(unusable)?;
    match locked(&file, until) {
        Ok(()) => {
            // In place, which takes no room on the disk; and it only makes the message of others better.
            let _unsaid = file.rewind().and_then(|()| writeln!(file, "{:>10}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // It only makes the message better.
            let _unknown = file.read_to_string(&mut holder);
            let who = if holder.trim().is_empty() { String::new() } else { format!(" (pid {})", holder.trim()) };
            Err(Fatal::config(format!("another supervisor{who} is running on {}", path.parent().unwrap_or(path).display())))
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// Nothing else is to be done before: it may block.
fn locked(file: &File, until: Instant) -> Result<(), TryLockError> {
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(PAUSE),
            tried => return tried,
        }
    }
}

#[cfg(test)]
mod tests {
    use gatehouse_chassis::config::{Config as _, Reader, Source};

    use super::*;

    #[test]
    fn a_second_supervisor_is_refused_and_told_who_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let held = lock(&path, None, Instant::now()).unwrap();
        let refused = lock(&path, None, Instant::now()).unwrap_err().to_string();
        assert_eq!(refused, format!("another supervisor (pid {}) is running on {}", std::process::id(), dir.path().display()));
        drop(held);
        lock(&path, None, Instant::now()).unwrap();
    }

    #[test]
    fn one_that_is_just_dying_is_waited_for_and_one_that_lives_is_not_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let dying = lock(&path, None, Instant::now()).unwrap();
        let gone = thread::spawn(move || {
            thread::sleep(PAUSE * 10);
            drop(dying);
        });
        let living = lock(&path, None, Instant::now() + Duration::from_secs(60)).unwrap();
        gone.join().unwrap();
        let begun = Instant::now();
        assert!(lock(&path, None, begun + PAUSE * 5).is_err() && begun.elapsed() >= PAUSE * 5);
        drop(living);
    }

    #[test]
    fn a_lock_is_handed_on_without_a_moment_in_which_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(LOCK);
        let held = lock(&path, None, Instant::now()).unwrap();
        let kept = OwnedFd::from(held.try_clone().unwrap());
        drop(held);
        assert!(lock(&path, None, Instant::now()).is_err(), "whoever executes the successor holds it until then");
        let successor = lock(&path, Some(kept), Instant::now()).unwrap();
        assert!(lock(&path, None, Instant::now()).is_err());
        drop(successor);
        // One of a file that was removed locks nothing.
        let stale = lock(&path, None, Instant::now()).unwrap();
        fs::remove_file(&path).unwrap();
        let fresh = lock(&path, Some(stale.into()), Instant::now()).unwrap();
        assert!(is_at(&fresh, &path));
    }

    #[test]
    fn two_suites_share_neither_directory_and_one_may_have_both_in_one() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |state: &Path, run: &Path| {
            let env = [("GATEWAY_STATE_DIR", state), ("GATEWAY_RUNTIME_DIR", run)].map(|(name, dir)| (name, dir.to_str().unwrap()));
            let shared = Shared::read(&mut Reader::new(Source::of("", &env))).unwrap();
            Premises::open(&shared, &mut Inherited::default())
        };
        let both = open(first.path(), first.path()).unwrap();
        assert_eq!(both.handed_on().unwrap().len(), 1);
        assert!(open(second.path(), first.path()).is_err() && open(first.path(), second.path()).is_err());
        drop(both);
        assert_eq!(open(second.path(), first.path()).unwrap().handed_on().unwrap().len(), 2);
    }
}
