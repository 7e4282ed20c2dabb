//! Both outputs of one process, read until it has ended and nothing is left in the pipes.
//!
//! The child's end of a pipe is open for reading, too: there is always a reader, so that writing to it never fails, not even after our death. What is said
//! then waits in the pipe, and the next supervisor opens it by `/proc/PID/fd`. Only a full pipe that nobody reads holds a writer up; our components write
//! through a queue, and `redis-server` is given an end that does not wait.

mod reader;
mod sink;

use std::{
    collections::VecDeque,
    fs::OpenOptions,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    },
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use self::{
    reader::Reader,
    sink::{LineSink, Sink, TrailSink},
};
use super::{
    Speaker, Stream,
    lines::{Line, cut, legible, plain},
};
use crate::component::Component;

/// What a pipe may hold, where the system allows it: what is said between two supervisors.
const PIPE: usize = 1 << 20;
/// After the exit, how long what was said last may take to be read. A grandchild may hold the pipe and speak for ever.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Lines kept of each process.
const KEPT: usize = 10;
/// What the ledger keeps of each.
const KEPT_BYTES: usize = 500;

/// Not read yet.
#[derive(Debug)]
pub(crate) struct Capture {
    speaker: Speaker,
    ends: Vec<(Stream, OwnedFd)>,
}

/// It is being read.
#[derive(Debug)]
pub(crate) struct Said {
    words: Words,
    ended: watch::Sender<bool>,
    drained: Vec<oneshot::Receiver<()>>,
}

/// The last lines of one process; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(Arc<Mutex<LastLines>>);

/// Of each output, for a flood of one must not wash away what was said on the other, and which of two pipes is read first says nothing.
#[derive(Debug, Default)]
struct LastLines {
    stdout: VecDeque<Arc<Line>>,
    stderr: VecDeque<Arc<Line>>,
}

impl Capture {
    /// For a process that is about to be started: its stdout, its stderr.
    pub(crate) fn new(speaker: Speaker) -> io::Result<(Stdio, Stdio, Self)> {
        let ((stdout, out), (stderr, err)) = (pipe(speaker.slot.component)?, pipe(speaker.slot.component)?);
        let ends = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
        Ok((out, err, Self { speaker, ends }))
    }

    /// Of a process that another supervisor started. The caller holds its pidfd, so that the number is not another's. An output that is no pipe is
    /// left alone.
    pub(crate) fn reopen(pid: u32, speaker: Speaker) -> io::Result<Self> {
        let mut ends = Vec::new();
        for (stream, number) in [(Stream::Stdout, 1), (Stream::Stderr, 2)] {
            let path = format!("/proc/{pid}/fd/{number}");
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.file_type().is_fifo() => {
                    let end = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
                    ends.push((stream, end.into()));
                }
                Ok(_) => {}
                // It has closed that one.
                Err(error) if error.kind() == io::ErrorKind::NotFound && std::fs::exists(format!("/proc/{pid}/fd"))? => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { speaker, ends })
    }

    /// Of a process that cannot be heard.
    pub(crate) const fn nothing(speaker: Speaker) -> Self {
        Self { speaker, ends: Vec::new() }
    }

    /// Begins to read, in tasks that end when nobody can say anything any more.
    pub(crate) fn read(self) -> io::Result<Said> {
        let Self { speaker, ends } = self;
        let (words, (ended, _)) = (Words::default(), watch::channel(false));
        let mut drained = Vec::new();
        for (stream, end) in ends {
            let (all_read, read) = oneshot::channel();
            drained.push(read);
            let sink = match (speaker.slot.component, stream) {
                (Component::Auditor, Stream::Stdout) => Sink::Trail(TrailSink::new(speaker.clone(), stream)),
                _ => Sink::Lines(LineSink::new(speaker.clone(), stream, words.clone())),
            };
            let reader = Reader::new(end, sink)?;
            speaker.output.0.readers.spawn("output", reader.run(ended.subscribe(), all_read));
        }
        Ok(Said { words, ended, drained })
    }
}

impl Said {
    /// What it says; to be asked at any time.
    pub(crate) fn words(&self) -> Words {
        self.words.clone()
    }

    /// The process has ended. Resolves when everything that it said has been read: a pipe that is empty then had nothing more.
    pub(crate) async fn all(self) {
        let Self { ended, drained, .. } = self;
        // No reader is left.
        let _over = ended.send(true);
        let all = async {
            for read in drained {
                // Its reader has ended: nothing more can come.
                let _over = read.await;
            }
        };
        let _late = timeout(LAST_WORDS, all).await;
    }
}

impl Words {
    fn push(&self, stream: Stream, line: Arc<Line>) {
        let mut last = self.last_lines();
        let lines = match stream {
            Stream::Stdout => &mut last.stdout,
            Stream::Stderr => &mut last.stderr,
        };
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The last of them, in plain words. Complaints go to stderr.
    pub(crate) fn last(&self) -> Option<String> {
        let last = self.last_lines();
        last.stderr.back().or_else(|| last.stdout.back()).map(|line| plain(&line.text))
    }

    /// The last of both, oldest first, as people read them, cut to what the ledger keeps.
    pub(crate) fn all(&self) -> Vec<String> {
        let last = self.last_lines();
        let rest = last.stdout.iter().rev().take(KEPT - last.stderr.len());
        let mut lines: Vec<_> = last.stderr.iter().chain(rest).collect();
        lines.sort_by_key(|line| line.seq);
        lines.into_iter().map(|line| cut(&legible(&line.text), KEPT_BYTES)).collect()
    }

    fn last_lines(&self) -> MutexGuard<'_, LastLines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our end and the child's.
fn pipe(component: Component) -> io::Result<(OwnedFd, Stdio)> {
    let (ours, theirs) = io::pipe()?;
    // Less will do: it is the user's limit on all pipes that forbids it.
    let _smaller = fcntl(&ours, FcntlArg::F_SETPIPE_SZ(i32::try_from(PIPE).unwrap_or(i32::MAX)));
    let flags = if component == Component::Redis { OFlag::O_NONBLOCK } else { OFlag::empty() };
    let theirs = reopen_both_ways(&theirs, flags)?;
    Ok((ours.into(), theirs.into()))
}

/// A description of its own, so that its flags are the child's alone.
fn reopen_both_ways(end: &impl AsFd, flags: OFlag) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", end.as_fd().as_raw_fd());
    Ok(OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?.into())
}

#[cfg(test)]
mod tests;
