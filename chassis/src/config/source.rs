//! Where values come from: the file's text and the environment, read once.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

/// Read when `--config` is not given. A missing default file is an empty one; a missing named file is a problem.
pub const DEFAULT_PATH: &str = "/etc/gatehouse/gateway.toml";

/// A file and an environment.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file's name as the operator gave it, for messages.
    pub path: PathBuf,
    /// The file's text; empty when there is none.
    pub text: String,
    /// The environment. Values that are not UTF-8 are left out, for no variable of ours can hold one.
    pub env: BTreeMap<String, String>,
}

/// Where a running process has its configuration from, so that it can read it again.
#[derive(Clone, Debug)]
pub struct Origin {
    /// `--config`.
    pub path: Option<PathBuf>,
    /// What it began with. Its environment is the process's for ever.
    pub first: Source,
}

impl Origin {
    /// What the file says now. A file that was there and is no more is a problem, not an empty one.
    pub fn again(&self) -> Result<Source, String> {
        let required = self.path.is_some() || !self.first.text.is_empty();
        let text = read(self.path.as_deref().unwrap_or(Path::new(DEFAULT_PATH)), required)?;
        Ok(Source { text, ..self.first.clone() })
    }
}

impl Source {
    /// Reads the file and the process's environment.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = read(path, named)?;
        let utf8 = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Ok(Self { path: path.to_owned(), text, env: std::env::vars_os().filter_map(utf8).collect() })
    }

    /// From parts, for tests.
    #[must_use]
    pub fn of(text: &str, env: &[(&str, &str)]) -> Self {
        let env = env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { path: "gateway.toml".into(), text: text.to_owned(), env }
    }
}

fn read(path: &Path, required: bool) -> Result<String, String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(String::new()),
        Err(error) => Err(format!("{}: cannot be read: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_there_must_be_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gateway.toml");
        fs::write(&path, "a = 1").unwrap();
        let origin = Origin { path: Some(path.clone()), first: Source::of("", &[("A", "b")]) };
        let again = origin.again().unwrap();
        assert_eq!((again.text.as_str(), again.env.get("A").map(String::as_str)), ("a = 1", Some("b")));
        fs::remove_file(&path).unwrap();
        assert!(origin.again().unwrap_err().contains("cannot be read"));
    }
}
