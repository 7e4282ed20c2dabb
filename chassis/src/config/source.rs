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

impl Source {
    /// Reads the file and the process's environment.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => String::new(),
            Err(error) => return Err(format!("{}: cannot be read: {error}", path.display())),
        };
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
