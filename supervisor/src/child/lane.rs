//! Lanes: no process of a slot is started twice, whoever supervises.
//!
//! A slot has two lanes, `lanes/edge-0.a` and `.b`: it may have two processes while one replaces the other. The supervisor locks the file and lets the process
//! inherit the locked descriptor, then closes its own: `flock` belongs to the open file, so the lock lives exactly as long as the process, and the kernel
//! takes it back however that ends. The file says who holds it, so that the next supervisor finds what runs. That is a convenience: when the disk was full,
//! or the supervisor died before it could write, the holder is found by its descriptor (see [`holder`]).
//!
//! The lanes of the embedded Redis lie with its data, which two servers would ruin: whatever becomes of the runtime directory, there is one lock to one set of
//! files. For the same reason it alone does not run without a lane.

mod holder;
mod record;

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    rc::Rc,
};

use tokio::task::spawn_blocking;

pub(super) use holder::{Holder, holders};
pub(super) use record::{Record, boot};

use crate::{
    component::{Component, SlotId},
    redis,
};

/// The lanes of all slots.
#[derive(Clone, Debug)]
pub(crate) struct Lanes {
    dir: PathBuf,
    redis: PathBuf,
    taken: Rc<RefCell<BTreeSet<PathBuf>>>,
}

/// A lane that is ours to give to a process.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) file: File,
    pub(super) taken: Taken,
}

/// A lane whose process is known to us. Held until that process has ended.
#[derive(Debug)]
pub(super) struct Taken {
    path: PathBuf,
    all: Rc<RefCell<BTreeSet<PathBuf>>>,
}

/// A lane as it was found.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) component: Component,
    pub(super) instance: u32,
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) is_locked: bool,
    pub(super) record: Option<Record>,
}

impl Lanes {
    /// Makes their directory. That of Redis is made with its data.
    pub(crate) fn open(runtime_dir: &Path, state_dir: &Path) -> io::Result<Self> {
        let dir = runtime_dir.join("lanes");
        let this = Self { dir, redis: redis::data(state_dir), taken: Rc::default() };
        this.restore()?;
        Ok(this)
    }

    /// Makes it again if it is gone. Locks in it are gone with it, and last as descriptors of the processes alone.
    pub(crate) fn restore(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    /// A free lane of the slot. `None` when there can be no file, as on a full disk: a process without a lane serves, too.
    pub(super) fn claim(&self, component: Component, instance: u32) -> io::Result<Option<Claim>> {
        let slot = format!("{}-{instance}", component.name());
        let (mut free, mut unusable) = (None, None);
        for path in self.paths(component, instance) {
            if self.taken.borrow().contains(&path) {
                continue;
            }
            match open(&path).and_then(|file| Ok((is_locked(&file)?, file))) {
                Ok((false, file)) => free = free.or(Some((path, file))),
                // Its process was not adopted. Beside it, another would be one too many.
                Ok((true, file)) => return Err(held(&path, &file)),
                Err(error) => unusable = Some(error),
            }
        }
        match (free, unusable) {
            (Some((path, file)), _) => Ok(Some(Claim { file, taken: self.take(path) })),
            (None, Some(error)) if component == Component::Redis => {
                Err(io::Error::new(error.kind(), format!("its data cannot be locked: {slot} in {}: {error}", self.redis.display())))
            }
            (None, Some(error)) => {
                tracing::warn!(lane = slot, %error, "no lane: a supervisor that starts after this one died would not know of the process");
                Ok(None)
            }
            (None, None) => Err(io::Error::other(format!("{slot} has two processes already"))),
        }
    }

    /// That the end of that process is in the ledger: the next supervisor is not to tell it once more.
    pub(crate) fn heard(&self, slot: SlotId, pid: u32) {
        for path in self.paths(slot.component, slot.instance) {
            // Another may have it by now, or it is gone.
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { continue };
            let is_its = Record::read(&file).is_some_and(|record| record.is_of(slot.component, slot.instance) && record.pid == pid);
            if let Some(Err(error)) = is_its.then(|| Record::cross_out(&file)) {
                tracing::warn!(lane = %path.display(), %error, "it still says that somebody holds it");
            }
        }
    }

    fn paths(&self, component: Component, instance: u32) -> [PathBuf; 2] {
        ["a", "b"].map(|letter| self.dir_of(component).join(format!("{}-{instance}.{letter}", component.name())))
    }

    fn dir_of(&self, component: Component) -> &Path {
        if component == Component::Redis { &self.redis } else { &self.dir }
    }

    /// Notes that the lane's process is known.
    pub(super) fn take(&self, path: PathBuf) -> Taken {
        self.taken.borrow_mut().insert(path.clone());
        Taken { path, all: Rc::clone(&self.taken) }
    }

    /// Every lane that there is.
    pub(super) fn all(&self) -> Vec<Met> {
        let entries = [&self.dir, &self.redis].into_iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        let met = entries.filter_map(|entry| {
            let path = entry.path();
            let (component, instance) = slot_of(path.file_name()?.to_str()?)?;
            let file = open(&path).ok()?;
            let record = Record::read(&file).filter(|record| record.is_of(component, instance));
            let is_locked = is_locked(&file).ok()?;
            Some(Met { component, instance, path, file, is_locked, record })
        });
        met.collect()
    }
}

impl Taken {
    /// `edge-0.a`.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Who still holds the lane though its process has ended: what that process forked.
    pub(super) async fn held_on(&self) -> Vec<Holder> {
        let looked = open(&self.path).and_then(|file| Ok((is_locked(&file)?, file.metadata()?)));
        let Ok((true, wanted)) = looked else { return Vec::new() };
        // Cancelled with the runtime, at the end.
        spawn_blocking(move || holders(&wanted)).await.unwrap_or_default()
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.all.borrow_mut().remove(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether another holds it; if not, this descriptor does now.
fn is_locked(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn held(path: &Path, file: &File) -> io::Error {
    let holders = file.metadata().map(|wanted| holders(&wanted)).unwrap_or_default();
    let pids: Vec<_> = holders.iter().map(|holder| holder.pid.to_string()).collect();
    let who = if pids.is_empty() { "a process that cannot be seen".to_owned() } else { format!("pid {}", pids.join(", ")) };
    io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is held by {who}, which is not ours; not started beside it", path.display()))
}

/// `pusher-1.a` is a lane of the pusher 1.
fn slot_of(name: &str) -> Option<(Component, u32)> {
    let (slot, _) = name.rsplit_once('.')?;
    let (component, instance) = slot.rsplit_once('-')?;
    Some((Component::named(component)?, instance.parse().ok()?))
}

#[cfg(test)]
mod tests;
