//! Writes the state file on a thread of its own: a disk that stands still for seconds must stop neither restarts nor `status`. What is handed over while it
//! writes waits, and the newest takes the place of what waits.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use prometheus::IntCounter;

/// The way to the thread, which ends with it.
#[derive(Debug)]
pub(super) struct Writer(Arc<Shared>);

/// For somebody who waits for one write.
#[derive(Clone, Debug)]
pub(super) struct Writing {
    shared: Arc<Shared>,
    number: u64,
}

#[derive(Debug, Default)]
struct Shared {
    desk: Mutex<Desk>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct Desk {
    waiting: Option<Vec<u8>>,
    /// What was handed over so far, and what of it was tried or overtaken.
    handed: u64,
    tried: u64,
    /// The last try was a success.
    written: bool,
    closed: bool,
}

impl Writer {
    /// Writes nothing yet.
    pub(super) fn open(path: PathBuf, failures: IntCounter) -> io::Result<Self> {
        let shared = Arc::new(Shared { desk: Mutex::new(Desk { written: true, ..Desk::default() }), moved: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("state".to_owned()).spawn(move || theirs.run(&path, &failures))?;
        Ok(Self(shared))
    }

    /// To be written, as soon as that can be.
    pub(super) fn hand_over(&self, bytes: Vec<u8>) {
        let mut desk = self.0.desk();
        desk.waiting = Some(bytes);
        desk.handed += 1;
        self.0.moved.notify_all();
    }

    /// Whether what was handed over last was tried, and whether that was a success.
    pub(super) fn outcome(&self) -> Option<bool> {
        self.0.desk().outcome_of_all()
    }

    /// What was handed over last.
    pub(super) fn newest(&self) -> Writing {
        Writing { shared: Arc::clone(&self.0), number: self.0.desk().handed }
    }
}

impl Writing {
    /// Blocks until it was tried, but no longer than that.
    pub(super) fn wait(&self, bound: Duration) {
        let is_untried = |desk: &mut Desk| desk.tried < self.number;
        drop(self.shared.moved.wait_timeout_while(self.shared.desk(), bound, is_untried));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.desk().closed = true;
        self.0.moved.notify_all();
    }
}

impl Desk {
    fn outcome_of_all(&self) -> Option<bool> {
        (self.tried == self.handed).then_some(self.written)
    }
}

impl Shared {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, path: &Path, failures: &IntCounter) {
        let mut failing = false;
        loop {
            let idle = |desk: &mut Desk| desk.waiting.is_none() && !desk.closed;
            let mut desk = self.moved.wait_while(self.desk(), idle).unwrap_or_else(PoisonError::into_inner);
            let Some(bytes) = desk.waiting.take() else { return };
            let number = desk.handed;
            drop(desk);
            let written = replace(path, &bytes);
            match &written {
                Ok(()) if failing => tracing::info!("{} is written again", path.display()),
                Ok(()) => {}
                Err(error) => {
                    failures.inc();
                    if !failing {
                        let path = path.display();
                        tracing::error!(%error, "{path} not written; a supervisor that starts after this one died would not know the latest history");
                    }
                }
            }
            failing = written.is_err();
            let mut desk = self.desk();
            (desk.tried, desk.written) = (number, written.is_ok());
            self.moved.notify_all();
        }
    }
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("json.new");
    fs::write(&draft, bytes)?;
    fs::rename(&draft, path)
}
