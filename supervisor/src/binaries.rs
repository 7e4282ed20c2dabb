//! Where the components' binaries are, and which of them are executed: beside our own, and those that were there when we looked.
//!
//! Each is opened once and executed by its descriptor, so that a process that dies while a package is being installed comes back from the same file, not
//! from a newer or a half-written one. Only an upgrade looks again. What begins with `#!` is executed by its path, for its interpreter must find it.
//!
//! `GATEHOUSE_BIN_DIR` names another directory. It is a seam for tests, which put programs of their own there; nothing else sets it.

mod build;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::MetadataExt as _, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
};

use rustix::io::fcntl_dupfd_cloexec;

use crate::component::Component;

/// Above all descriptors that a child is lent: those numbers are overwritten in the child before it executes.
pub(crate) const FIRST_PIN: i32 = 64;

/// The binary of every component.
#[derive(Clone, Debug)]
pub(crate) struct Binaries(Vec<(Component, Rc<Pinned>)>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Pinned {
    program: Program,
    /// `0.1.0 (1a2b3c4d)`: differs when the file does.
    pub(crate) build: String,
}

#[derive(Debug)]
enum Program {
    Open(OwnedFd),
    Script(PathBuf),
}

impl Binaries {
    /// Those in the directory. Every problem at once.
    pub(crate) fn pin(dir: &Path) -> Result<Self, String> {
        Self::pin_or(dir, |_| Ok(None))
    }

    /// Files that are open already; the rest from the directory.
    pub(crate) fn pin_or(dir: &Path, open: impl Fn(Component) -> io::Result<Option<File>>) -> Result<Self, String> {
        let (mut pinned, mut problems) = (Vec::new(), Vec::new());
        for component in Component::OURS {
            let path = dir.join(file_name(component));
            let program = open(component).and_then(|file| file.map_or_else(|| Pinned::open(&path), |file| Pinned::of(file, &path)));
            match program {
                Ok(program) => pinned.push((component, Rc::new(program))),
                Err(error) => problems.push(format!("{} cannot be executed: {error}", path.display())),
            }
        }
        if problems.is_empty() { Ok(Self(pinned)) } else { Err(problems.join("; ")) }
    }

    /// Those that are executed by their descriptors, for a successor that may have to start them again.
    pub(crate) fn open_files(&self) -> io::Result<Vec<(Component, OwnedFd)>> {
        let files = self.0.iter().filter_map(|(component, pinned)| match &pinned.program {
            Program::Open(fd) => Some(fd.try_clone().map(|fd| (*component, fd))),
            Program::Script(_) => None,
        });
        files.collect()
    }

    /// That of one component. Redis is none of ours.
    pub(crate) fn of(&self, component: Component) -> io::Result<Rc<Pinned>> {
        let pinned = self.0.iter().find(|(ours, _)| *ours == component);
        pinned.map(|(_, pinned)| Rc::clone(pinned)).ok_or_else(|| io::Error::other("no binary of ours"))
    }

    /// The build of each, by the component's name.
    pub(crate) fn builds(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(component, pinned)| (component.name().to_owned(), pinned.build.clone())).collect()
    }

    /// From now on those builds, where they can be had: from a process that executes one, whatever became of its file, or from the directory.
    pub(crate) fn go_back(&mut self, builds: &BTreeMap<String, String>, directory: &Path, running: impl Fn(Component) -> Vec<u32>) {
        for (component, pinned) in &mut self.0 {
            let Some(build) = builds.get(component.name()).filter(|build| !is_build(&pinned.build, build)) else { continue };
            let executed = running(*component).into_iter().map(|pid| PathBuf::from(format!("/proc/{pid}/exe")));
            let mut found = executed.chain([directory.join(file_name(*component))]).filter_map(|path| Pinned::open(&path).ok());
            if let Some(before) = found.find(|found| is_build(&found.build, build)) {
                *pinned = Rc::new(Pinned { build: build.clone(), ..before });
            }
        }
    }

    /// From now on the file that this process executes: an adopted one comes back as what it was, whatever lies in the directory by now. The process of a
    /// script executes its interpreter, and comes back from the path.
    pub(crate) fn pin_running(&mut self, component: Component, pid: u32, build: &str) -> io::Result<()> {
        let entry = self.0.iter_mut().find(|(ours, _)| *ours == component).ok_or_else(|| io::Error::other("no binary of ours"))?;
        let path = format!("/proc/{pid}/exe");
        let file = File::open(&path)?;
        // One that was moved aside is told by its build, if that was told of the file that was started, and not of the process.
        let is_its_build = || Ok::<_, io::Error>(!build.starts_with('(') && is_build(build, &with_version(&build::id(&file)?)));
        if is_named(&fs::read_link(&path)?, component) || is_its_build()? {
            entry.1 = Rc::new(Pinned { program: Program::Open(high(&file)?), build: build.to_owned() });
        }
        Ok(())
    }
}

impl Pinned {
    /// That file.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::open(path)?, path)
    }

    fn of(mut file: File, path: &Path) -> io::Result<Self> {
        if file.metadata()?.mode() & 0o111 == 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut magic = Vec::new();
        (&mut file).take(2).read_to_end(&mut magic)?;
        file.rewind()?;
        let program = if magic == b"#!" { Program::Script(path.to_owned()) } else { Program::Open(high(&file)?) };
        Ok(Self { program, build: with_version(&build::id(&file)?) })
    }

    /// Whether that process executes this file, and not one with the same content: that may be removed one day. A script's process executes its interpreter, and
    /// is told by its build, whatever version that was told under.
    pub(crate) fn is_run_by(&self, pid: u32, build: &str) -> bool {
        let is_same_file = |fd: &OwnedFd| {
            let (ours, theirs) = (rustix::fs::fstat(fd)?, rustix::fs::stat(format!("/proc/{pid}/exe"))?);
            rustix::io::Result::Ok((ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino))
        };
        match &self.program {
            // One that has just ended will be started from here.
            Program::Open(fd) => is_same_file(fd).unwrap_or(true),
            Program::Script(_) => is_build(build, &self.build),
        }
    }

    /// What to execute, while this is there.
    pub(crate) fn program(&self) -> PathBuf {
        match &self.program {
            // The descriptor is closed by the exec, after the kernel has opened the file.
            Program::Open(fd) => format!("/proc/self/fd/{}", fd.as_raw_fd()).into(),
            Program::Script(path) => path.clone(),
        }
    }

    /// The same, above all of that many descriptors that begin at `first`: those numbers are overwritten before it is executed.
    pub(crate) fn above(&self, first: usize, count: usize) -> io::Result<Self> {
        let program = match &self.program {
            Program::Open(fd) => {
                Program::Open(fcntl_dupfd_cloexec(fd, i32::try_from(first + count).map_err(io::Error::other)?.max(FIRST_PIN))?)
            }
            Program::Script(path) => Program::Script(path.clone()),
        };
        Ok(Self { program, build: self.build.clone() })
    }

    /// Executes it under its usual name. Whoever adds descriptors keeps below [`FIRST_PIN`].
    pub(crate) fn command(&self, component: Component) -> Command {
        let mut command = Command::new(self.program());
        if matches!(self.program, Program::Open(_)) {
            command.arg0(file_name(component));
        }
        command
    }
}

/// The directory of the components' binaries.
pub(crate) fn directory() -> io::Result<PathBuf> {
    if let Some(dir) = env::var_os("GATEHOUSE_BIN_DIR").filter(|dir| !dir.is_empty()) {
        return Ok(dir.into());
    }
    let own = env::current_exe()?;
    own.parent().map(ToOwned::to_owned).ok_or_else(|| io::Error::other("the supervisor's own path has no directory"))
}

/// `gatehouse-edge`.
pub(crate) fn file_name(component: Component) -> String {
    format!("gatehouse-{}", component.name())
}

/// Whether what a process executes has the name of that component's binary. One that was replaced has ` (deleted)` after it.
fn is_named(executed: &Path, component: Component) -> bool {
    let name = executed.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.strip_suffix(" (deleted)").unwrap_or(name) == file_name(component)
}

/// Of the binary that a process executes: without a version, for only its supervisor knew it. Empty: unknown.
pub(crate) fn build_of(pid: u32) -> String {
    let id = File::open(format!("/proc/{pid}/exe")).and_then(|file| build::id(&file));
    id.map(|id| format!("({id})")).unwrap_or_default()
}

/// Our own: `0.1.0 (1a2b3c4d)`.
pub(crate) fn own_build() -> String {
    let id = File::open("/proc/self/exe").and_then(|file| build::id(&file));
    id.map_or_else(|_| env!("CARGO_PKG_VERSION").to_owned(), |id| with_version(&id))
}

/// Whether both are the same, whatever version they were told under.
pub(crate) fn is_build(one: &str, other: &str) -> bool {
    let id = |build: &str| build.rsplit_once('(').map(|(_, id)| id.to_owned());
    id(one).is_some() && id(one) == id(other)
}

/// A program by path or, without a slash, in PATH.
pub(crate) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

/// All binaries of a release have one version; what they were built from tells them apart.
fn with_version(id: &str) -> String {
    format!("{} ({id})", env!("CARGO_PKG_VERSION"))
}

fn high(file: &File) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(file, FIRST_PIN)?)
}

#[cfg(test)]
mod tests;
