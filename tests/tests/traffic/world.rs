//! What every scenario stands in.

use gatehouse_tests::{
    Builder, Load, Suite,
    load::{Backends, Report, Sizes},
};

/// A suite with its traffic, and what stands behind it.
pub struct World {
    pub suite: Suite,
    pub load: Load,
    pub backends: Backends,
}

impl World {
    pub async fn start(sizes: Sizes, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let backends = Backends::start();
        let suite = settings(backends.behind(Suite::builder())).start().await;
        let load = Load::start(&suite, sizes).await;
        Self { suite, load, backends }
    }

    /// Ends the traffic; the suite still runs, and so does what stands behind it.
    pub async fn stop(self) -> (Suite, Report, Backends) {
        let report = self.load.stop().await;
        println!("{report}");
        (self.suite, report, self.backends)
    }
}
