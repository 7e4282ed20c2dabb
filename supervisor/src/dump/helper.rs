//! The helper process: plain, single-threaded, short-lived.

use std::{
    env,
    ffi::OsString,
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use gatehouse_chassis::exit;

use super::{FLAG, prune, stacks, threads, writing};

/// Dumps, if this process was started for that. `main` asks before anything else.
#[must_use]
pub fn run() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != *FLAG {
        return None;
    }
    let Some((pid, path, why)) = parse(arguments) else { return Some(ExitCode::from(exit::USAGE)) };
    let code = match dump(pid, &path, &why) {
        Ok(()) => exit::OK,
        Err(_) => exit::TRY_AGAIN,
    };
    Some(ExitCode::from(code))
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<(i32, PathBuf, String)> {
    let pid = arguments.next()?.to_str()?.parse().ok()?;
    let (path, why) = (arguments.next()?.into(), arguments.next()?.to_string_lossy().into_owned());
    arguments.next().is_none().then_some((pid, path, why))
}

/// The quick part first: when the rest takes too long, it is there.
pub(super) fn dump(pid: i32, path: &Path, why: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
    let threads = threads::read(pid);
    file.write_all(writing::head(pid, why).as_bytes())?;
    file.write_all(writing::threads(&threads).as_bytes())?;
    write_stacks(pid, &threads, &mut file)?;
    path.parent().into_iter().for_each(prune);
    Ok(())
}

fn write_stacks(pid: i32, threads: &[threads::Thread], file: &mut File) -> io::Result<()> {
    let text = match stacks::read(pid, threads) {
        Ok(stacks) => writing::stacks(&stacks),
        Err(refused) => writing::no_stacks(&refused),
    };
    file.write_all(text.as_bytes())
}
