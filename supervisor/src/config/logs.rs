//! `[supervisor.logs]`: what becomes of the lines that children say.

use std::path::PathBuf;

use bytesize::ByteSize;
use gatehouse_chassis::config::Section;

/// See the module's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// `files`: whether lines are written to files, too. Default true.
    pub files: bool,
    /// `dir`: where those are. Default `{state_dir}/logs`.
    pub dir: Option<PathBuf>,
    /// `max_bytes`: a file that would grow beyond is set aside and a new one begun. Default 16 MiB, at least 64 KiB.
    pub max_bytes: u64,
    /// `keep`: how many files set aside are kept of each instance. Default 4, at most 100.
    pub keep: u32,
    /// `rate`: how many bytes a second each process may say for long; what is over is dropped and counted. Default 1 MiB, at least 16 KiB.
    pub rate: u64,
}

/// The least of `max_bytes`: a file holds at least a few of the longest lines.
const LEAST_FILE: ByteSize = ByteSize::kib(64);
/// The least of `rate`: one line of the longest.
const LEAST_RATE: ByteSize = ByteSize::kib(16);

impl Logs {
    /// From `[supervisor]`.
    pub(crate) fn read(supervisor: &mut Section<'_>) -> Self {
        let mut section = supervisor.section("logs");
        let logs = Self {
            files: section.key("files").or(true),
            dir: section.key("dir").optional(),
            max_bytes: section.key("max_bytes").within(ByteSize::mib(16), LEAST_FILE..).as_u64(),
            keep: section.key("keep").within(4, 0..=100),
            rate: section.key("rate").within(ByteSize::mib(1), LEAST_RATE..).as_u64(),
        };
        section.finish();
        logs
    }
}

impl Default for Logs {
    fn default() -> Self {
        Self { files: true, dir: None, max_bytes: 16 << 20, keep: 4, rate: 1 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_chassis::config::{Reader, Source};

    fn read(text: &str) -> (Logs, Vec<String>) {
        let mut reader = Reader::new(Source::of(text, &[]));
        let mut supervisor = reader.section("supervisor");
        let logs = Logs::read(&mut supervisor);
        supervisor.finish();
        (logs, reader.into_problems().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_absent_section_is_the_defaults() {
        assert_eq!(read(""), (Logs::default(), vec![]));
    }

    #[test]
    fn every_key_is_read() {
        let text = "[supervisor.logs]\nfiles = false\ndir = \"/var/log/gatehouse\"\nmax_bytes = \"2MiB\"\nkeep = 9\nrate = 65536";
        let logs = Logs { files: false, dir: Some("/var/log/gatehouse".into()), max_bytes: 2 << 20, keep: 9, rate: 65536 };
        assert_eq!(read(text), (logs, vec![]));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let (_, problems) = read("[supervisor.logs]\nmax_bytes = \"1kB\"\nkeep = 101\nrate = \"fast\"\nkep = 1");
        let expected = [
            "gateway.toml:2: supervisor.logs.max_bytes: 1kB is outside 64.0 KiB (65536 bytes)..",
            "gateway.toml:3: supervisor.logs.keep: 101 is outside 0..=100",
            "gateway.toml:4: supervisor.logs.rate: `fast`: ",
            "gateway.toml:5: supervisor.logs.kep: unknown key; did you mean `keep`?",
        ];
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
        assert_eq!(read("[supervisor]\nlogs = 1").1, ["gateway.toml:2: supervisor.logs: is a section: write [supervisor.logs]"]);
    }
}
