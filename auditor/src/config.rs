//! `[auditor]`.

use gatehouse_chassis::config::{self, Reader};

/// The auditor's part of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// `batch`: records that one transaction holds, as far as whole stream entries allow. 1000; 1 to 10,000.
    pub batch: usize,
}

impl config::Config for Config {
    fn read(reader: &mut Reader) -> Option<Self> {
        let mut section = reader.section("auditor");
        let batch = section.key("batch").within(1000, 1..=10_000);
        section.finish();
        Some(Self { batch })
    }
}

#[cfg(test)]
mod tests {
    use gatehouse_chassis::config::{Config as _, Source};

    use super::*;

    #[test]
    fn a_batch_has_bounds_and_unknown_keys_are_refused() {
        let read = |text: &str| {
            let mut reader = Reader::new(Source::of(text, &[]));
            let batch = Config::read(&mut reader).map(|config| config.batch);
            (batch, reader.into_problems().len())
        };
        assert_eq!(read(""), (Some(1000), 0));
        assert_eq!(read("[auditor]\nbatch = 7\n"), (Some(7), 0));
        for wrong in ["batch = 0", "batch = 10001", "batch = 'many'", "bach = 7"] {
            assert_eq!(read(&format!("[auditor]\n{wrong}\n")).1, 1, "{wrong}");
        }
    }
}
