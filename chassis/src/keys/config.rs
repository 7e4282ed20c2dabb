//! `[signer]`: which keys, and how they are changed.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::{Keys, Problem};
use crate::config::Section;

/// Between adding a key and signing with it. Twice as long as clients may keep what `/api/v1/public/keys` says.
const PUBLICATION_DELAY: Duration = Duration::from_mins(2);
const OVERLAP: Duration = Duration::from_hours(24);

/// What changes of the keys go by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// `directory`: of several keys. `None`: there is one, in a file, and it stays.
    pub directory: Option<PathBuf>,
    /// `publication_delay`: how long a key must have been published before it signs. Default 2 min.
    pub publication_delay: Duration,
    /// `overlap`: how long a retired key is still published. Default 24 h.
    pub overlap: Duration,
}

impl Rotation {
    /// From the section, of which it is a part.
    pub fn read(section: &mut Section<'_>) -> Self {
        Self {
            directory: section.key("directory").optional(),
            publication_delay: section.key("publication_delay").duration(PUBLICATION_DELAY),
            overlap: section.key("overlap").duration(OVERLAP),
        }
    }
}

impl Keys {
    /// From `[signer]`: `directory`, or `private_key_pem_path`. Loaded.
    pub fn read(section: &mut Section<'_>) -> Option<Self> {
        let rotation = Rotation::read(section);
        let file = |section: &mut Section<'_>, required| {
            let key = section.key("private_key_pem_path").env("GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH");
            if required { key.required::<InFile>() } else { key.optional() }
        };
        let Some(directory) = rotation.directory else { return file(section, true).map(|InFile(keys)| keys) };
        if file(section, false).is_some() {
            let both = "names keys besides private_key_pem_path (GATEWAY_RESPONSE_SIGNER_PRIVATE_KEY_PEM_PATH); leave one of them out";
            section.problem("directory", both);
        }
        Keys::open_directory(&directory).map_err(|problem| section.problem("directory", problem.to_string())).ok()
    }
}

/// A key that is loaded where its path is read, so that what is wrong with it is reported at the variable or the line that named it.
struct InFile(Keys);

struct NoKey(Problem);

impl fmt::Display for NoKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The path stands before it.
        match &self.0 {
            Problem::Read(_, error) => write!(f, "the response signer key cannot be read: {error}"),
            Problem::Key(_, error) => write!(f, "the response signer key is {error}"),
            problem => write!(f, "the response signer key: {problem}"),
        }
    }
}

impl FromStr for InFile {
    type Err = NoKey;

    fn from_str(path: &str) -> Result<Self, NoKey> {
        Keys::open_file(path.as_ref()).map(Self).map_err(NoKey)
    }
}
