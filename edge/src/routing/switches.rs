//! Which routes operators have taken out of service, kept in a small file in the state directory, so that neither a restart nor an upgrade of the edge brings one back.
//!
//! The file is replaced as a whole: written beside, synced, renamed, the directory synced. One that cannot be read stops nothing: every route is in service
//! then, which is said in the log and by `route_switches_unreadable`, and the file is set aside when the next switch is written.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const FILE: &str = "disabled-routes.json";
const UNREADABLE: &str = "disabled-routes.json.unreadable";

/// One route that is out of service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Disabled {
    /// As it is configured: a `message_type` or a prefix.
    pub(super) name: String,
    #[serde(default)]
    pub(super) actor: String,
    #[serde(default)]
    pub(super) reason: String,
    #[serde(default)]
    pub(super) at_ms: i64,
}

impl Disabled {
    /// By nobody: it is in service.
    pub(super) const fn nobody() -> Self {
        Self { name: String::new(), actor: String::new(), reason: String::new(), at_ms: 0 }
    }
}

/// All of them, and where they are kept.
#[derive(Clone, Debug)]
pub(super) struct Switches {
    dir: PathBuf,
    disabled: Vec<Disabled>,
    unreadable: bool,
}

#[derive(Serialize, Deserialize)]
struct Document {
    disabled: Vec<Disabled>,
}

impl Switches {
    /// What is kept in that directory.
    pub(super) fn load(dir: &Path) -> (Self, Option<String>) {
        let read = || match fs::read(dir.join(FILE)) {
            Ok(bytes) => serde_json::from_slice::<Document>(&bytes).map(|document| document.disabled).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        };
        let (disabled, problem) = match read() {
            Ok(disabled) => (disabled, None),
            Err(why) => (Vec::new(), Some(format!("{}: {why}", dir.join(FILE).display()))),
        };
        (Self { dir: dir.to_owned(), disabled, unreadable: problem.is_some() }, problem)
    }

    /// The one of that name.
    pub(super) fn of(&self, name: &str) -> Option<&Disabled> {
        self.disabled.iter().find(|disabled| disabled.name == name)
    }

    pub(super) fn all(&self) -> &[Disabled] {
        &self.disabled
    }

    /// One more, in the place of what was said of it before.
    pub(super) fn disable(&mut self, disabled: Disabled) {
        self.enable(&disabled.name);
        self.disabled.push(disabled);
    }

    /// Whether it was out of service.
    pub(super) fn enable(&mut self, name: &str) -> bool {
        let before = self.disabled.len();
        self.disabled.retain(|disabled| disabled.name != name);
        self.disabled.len() < before
    }

    /// Writes it down.
    pub(super) fn save(&mut self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        if self.unreadable {
            // What stood there is for a person to look at.
            let _gone = fs::rename(self.dir.join(FILE), self.dir.join(UNREADABLE));
        }
        let text = serde_json::to_vec_pretty(&Document { disabled: self.disabled.clone() })?;
        let beside = self.dir.join(format!("{FILE}.{}.new", std::process::id()));
        let written = write(&beside, &text).and_then(|()| fs::rename(&beside, self.dir.join(FILE)));
        if written.is_err() {
            let _absent = fs::remove_file(&beside);
        }
        written?;
        self.unreadable = false;
        File::open(&self.dir)?.sync_all()
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disabled(name: &str, reason: &str) -> Disabled {
        Disabled { name: name.into(), actor: "alice (uid 1000)".into(), reason: reason.into(), at_ms: 7 }
    }

    #[test]
    fn what_was_switched_is_known_to_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let (mut switches, problem) = Switches::load(&state);
        assert!(problem.is_none() && switches.all().is_empty());
        switches.disable(disabled("orders.*", "it \"loops\"\n"));
        switches.disable(disabled("/shop", ""));
        switches.disable(disabled("/shop", "again"));
        switches.save().unwrap();
        let (mut next, problem) = Switches::load(&state);
        assert_eq!((problem, next.all()), (None, &[disabled("orders.*", "it \"loops\"\n"), disabled("/shop", "again")][..]));
        assert!(next.enable("orders.*") && !next.enable("orders.*"));
        next.save().unwrap();
        assert_eq!(Switches::load(&state).0.all().len(), 1);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_set_aside_and_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        for garbage in ["", "{\"disabled\": [{\"na", "[]", "\u{0}"] {
            fs::write(dir.path().join(FILE), garbage).unwrap();
            let (mut switches, problem) = Switches::load(dir.path());
            assert!(problem.unwrap().contains(FILE) && switches.all().is_empty());
            switches.disable(disabled("a", ""));
            switches.save().unwrap();
            assert_eq!(fs::read_to_string(dir.path().join(UNREADABLE)).unwrap(), garbage);
            assert_eq!(Switches::load(dir.path()).0.all().len(), 1);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_and_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let (mut switches, problem) = Switches::load(&file);
        assert!(problem.is_some(), "a file is no directory");
        switches.disable(disabled("a", ""));
        assert!(switches.save().is_err());
    }
}
