//! Whether a trace that begins here is recorded: a share of them, and at most so many in a second.

use super::context::Context;
use crate::{config::TracingConfig, telemetry::rate::AtMost};

#[derive(Debug)]
pub(super) struct Sampler {
    /// Of the 56 random bits of a trace's id, those below are recorded.
    below: u64,
    rate: AtMost,
}

impl Sampler {
    pub(super) fn new(config: &TracingConfig) -> Self {
        Self { below: threshold(config.sample_ratio), rate: AtMost::new(config.max_traces_per_second) }
    }

    /// Whether one more is within the rate.
    pub(super) fn admits(&self) -> bool {
        self.rate.take()
    }

    pub(super) fn begin(&self) -> Context {
        let context = Context::begin(true);
        if context.randomness() < self.below && self.rate.take() { context } else { Context::begin(false) }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a ratio, of 56 bits")]
fn threshold(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * f64::from(2).powi(56)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(sample_ratio: f64, max_traces_per_second: u32) -> usize {
        let sampler = Sampler::new(&TracingConfig { sample_ratio, max_traces_per_second, ..TracingConfig::default() });
        (0..1000).filter(|_| sampler.begin().is_sampled()).count()
    }

    #[test]
    fn a_share_is_recorded_and_no_more_than_a_second_may_have() {
        assert_eq!((recorded(1.0, u32::MAX), recorded(0.0, u32::MAX), recorded(1.0, 0)), (1000, 0, 0));
        assert!((50..=450).contains(&recorded(0.25, u32::MAX)), "a quarter, more or less");
        assert!((7..1000).contains(&recorded(1.0, 7)), "of each second that it took");
    }
}
