//! Whose binaries these are. An operator may restart what runs; if they could also name binaries that they wrote themselves, they would have become the supervisor's
//! user, with the signing key. So what they name must be in the hands of root or of that user.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Writable by group or others; sticky directories let nobody replace what is another's.
const WRITABLE: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// What a directory of binaries is asked about.
const PREFIX: &str = "gatehouse";

/// What is wrong with running binaries from there, if something is. `own` is the supervisor's user.
pub(crate) fn problem(directory: &Path, own: u32) -> Option<String> {
    let check = || {
        let directory = fs::canonicalize(directory).map_err(|error| unusable(directory, &error))?;
        sound(&directory, own)?;
        for entry in fs::read_dir(&directory).map_err(|error| unusable(&directory, &error))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                let binary = fs::canonicalize(entry.path()).map_err(|error| unusable(&entry.path(), &error))?;
                sound(&binary, own)?;
            }
        }
        Ok::<(), String>(())
    };
    check().err()
}

/// Nobody but root and the supervisor's user can put something else in the place of that path.
fn sound(path: &Path, own: u32) -> Result<(), String> {
    for (i, path) in path.ancestors().map(PathBuf::from).enumerate() {
        let found = fs::symlink_metadata(&path).map_err(|error| unusable(&path, &error))?;
        let path = path.display();
        if found.uid() != 0 && found.uid() != own {
            return Err(format!("{path} belongs to uid {}; only root's binaries, or the supervisor's own user's, are run", found.uid()));
        }
        let shared = found.mode() & WRITABLE != 0 && (i == 0 || found.mode() & STICKY == 0);
        if shared {
            return Err(format!("{path} can be written by others (mode {:o})", found.mode() & 0o7777));
        }
    }
    Ok(())
}

fn unusable(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use nix::unistd::Uid;

    use super::*;

    #[test]
    fn binaries_that_others_could_replace_are_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let (own, release) = (Uid::effective().as_raw(), dir.path().join("release"));
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(problem(&release, own).unwrap().contains("No such file"));
        fs::create_dir(&release).unwrap();
        mode(&release, 0o755);
        let binary = release.join("gatehouse-edge");
        fs::write(&binary, "").unwrap();
        mode(&binary, 0o755);
        assert_eq!(problem(&release, own), None);
        symlink(&release, dir.path().join("current")).unwrap();
        assert_eq!(problem(&dir.path().join("current"), own), None, "the link's target counts");

        mode(&binary, 0o775);
        assert!(problem(&release, own).unwrap().ends_with("gatehouse-edge can be written by others (mode 775)"));
        mode(&binary, 0o755);
        mode(&release, 0o1777);
        assert!(problem(&release, own).unwrap().ends_with("release can be written by others (mode 1777)"));
        mode(&release, 0o755);
        mode(dir.path(), 0o777);
        assert!(problem(&release, own).unwrap().ends_with("can be written by others (mode 777)"), "nor those above it");
        mode(dir.path(), 0o700);
        if Uid::effective().is_root() {
            chown(&binary, Some(1), None).unwrap();
            assert!(problem(&release, own).unwrap().contains("gatehouse-edge belongs to uid 1"));
        } else {
            println!("not root: the owner of a binary is not tested");
        }
    }
}
