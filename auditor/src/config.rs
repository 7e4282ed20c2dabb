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
