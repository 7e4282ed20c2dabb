//! Real runtimes, real threads, a real notify socket; short windows.

use std::os::unix::net::UnixDatagram;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::*;

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);
const WINDOW: Duration = Duration::from_millis(800);

/// A runtime under watch, and who listens.
struct Kennel {
    runtime: Runtime,
    pulses: Pulses,
    ready: Arc<AtomicBool>,
    shutdown: Shutdown,
    metrics: Metrics,
    supervisor: UnixDatagram,
    _dir: TempDir,
    _watchdog: Watchdog,
}

impl Kennel {
    fn new(workers: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify.sock");
        let supervisor = UnixDatagram::bind(&path).unwrap();
        supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build().unwrap();
        let (pulses, ready, shutdown, metrics) =
            (Pulses::new(Some(WINDOW)), Arc::<AtomicBool>::default(), Shutdown::default(), Metrics::new("test", 0));
        let notifier = Notifier::to(path.as_os_str()).unwrap();
        let (pulses_, ready_, shutdown_, metrics_) = (pulses.clone(), Arc::clone(&ready), shutdown.clone(), metrics.clone());
        let setting = Setting { pulses: pulses_, ready: ready_, shutdown: shutdown_, notifier, metrics: metrics_, format: LogFormat::Json };
        let watchdog = runtime.block_on(async { Watchdog::start(setting).unwrap().unwrap() });
        Self { runtime, pulses, ready, shutdown, metrics, supervisor, _dir: dir, _watchdog: watchdog }
    }

    fn ready(workers: usize) -> Self {
        let kennel = Self::new(workers);
        kennel.ready.store(true, Ordering::Relaxed);
        assert_eq!(kennel.heard(), "WATCHDOG=1\nREADY=1\n");
        kennel
    }

    fn heard(&self) -> String {
        let mut bytes = [0; 512];
        let length = self.supervisor.recv(&mut bytes).expect("the watchdog is silent");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    /// The first message that fits.
    fn until(&self, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let heard = self.heard();
            if fits(&heard) {
                return heard;
            }
            assert!(begun.elapsed() < PATIENCE, "last: {heard}");
        }
    }

    fn trigger(&self) -> String {
        self.until(|heard| heard.contains("WATCHDOG=trigger"))
    }

    /// So many times in a row, all is well.
    fn stays_well(&self, times: u32) {
        for _ in 0..times {
            assert_eq!(self.heard(), "WATCHDOG=1\nREADY=1\n");
        }
    }
}

/// Blocks its thread until the sender is dropped.
fn block(runtime: &Runtime, times: usize) -> Vec<SyncSender<()>> {
    let (begun, all_begun) = sync_channel(times);
    let senders = (0..times).map(|_| {
        let (sender, blocked) = sync_channel::<()>(0);
        let begun = begun.clone();
        drop(runtime.handle().spawn(async move {
            begun.send(()).unwrap();
            let _released = blocked.recv();
        }));
        sender
    });
    let senders = senders.collect();
    for _ in 0..times {
        all_begun.recv_timeout(PATIENCE).unwrap();
    }
    senders
}

#[test]
fn nothing_is_said_before_the_process_is_ready_and_standing_is_repeated_after() {
    let kennel = Kennel::new(1);
    kennel.supervisor.set_read_timeout(Some(WINDOW * 2)).unwrap();
    assert!(kennel.supervisor.recv(&mut [0; 8]).is_err());
    kennel.supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    kennel.ready.store(true, Ordering::Relaxed);
    kennel.stays_well(4);
    kennel.shutdown.drain();
    kennel.until(|heard| heard == "WATCHDOG=1\nSTOPPING=1\n");
    assert!(kennel.metrics.text().contains("watchdog_lag_seconds_count{clock=\"timer\""), "{}", kennel.metrics.text());
}

#[test]
fn a_runtime_whose_workers_are_all_blocked_is_hung_and_moves_again_when_they_are_free() {
    let kennel = Kennel::ready(2);
    let blocked = block(&kennel.runtime, 2);
    let said = kennel.trigger();
    assert!(said.starts_with("STATUS=stalled: ") && said.contains("runtime, ") && said.contains("timers, "), "{said}");
    // Once.
    kennel.supervisor.set_read_timeout(Some(WINDOW * 2)).unwrap();
    assert!(kennel.supervisor.recv(&mut [0; 8]).is_err());
    kennel.supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(blocked);
    kennel.stays_well(2);
}

#[test]
fn one_blocked_worker_of_several_is_no_hang() {
    let kennel = Kennel::ready(3);
    let _blocked = block(&kennel.runtime, 1);
    kennel.stays_well(20);
}

#[test]
fn a_loop_that_stops_is_named_and_one_that_ended_is_not_missed() {
    let kennel = Kennel::ready(2);
    let reader = kennel.pulses.add("reader", Duration::from_millis(50));
    let waiting = kennel.pulses.add("waiting", Duration::from_millis(50));
    drop(kennel.runtime.handle().spawn(async move { waiting.idle::<()>().await }));
    let ended = kennel.pulses.add("ended", Duration::from_millis(50));
    drop(ended);
    let said = kennel.trigger();
    assert!(said.starts_with("STATUS=stalled: reader, 0.") && !said.contains("ended") && !said.contains("waiting"), "{said}");
    reader.beat();
    kennel.until(|heard| heard == "WATCHDOG=1\nREADY=1\n");
    drop(reader);
    kennel.stays_well(8);
}

#[test]
fn a_long_wait_with_a_bound_is_no_hang_until_the_bound_is_over() {
    let kennel = Kennel::ready(1);
    let pulse = kennel.pulses.add("scribe", Duration::from_millis(50));
    let (done, outage) = tokio::sync::oneshot::channel::<()>();
    let begun = Instant::now();
    let patience = WINDOW * 4;
    let task = kennel.runtime.handle().spawn(async move {
        pulse.during(patience, outage).await.unwrap();
    });
    kennel.trigger();
    assert!(begun.elapsed() >= patience, "{:?}", begun.elapsed());
    done.send(()).unwrap();
    kennel.runtime.block_on(task).unwrap();
    kennel.until(|heard| heard == "WATCHDOG=1\nREADY=1\n");
}

#[test]
fn steps_within_a_wait_begin_its_patience_anew() {
    let kennel = Kennel::ready(1);
    let pulse = kennel.pulses.add("scribe", Duration::from_millis(50));
    let steps = pulse.clone();
    let work = async move {
        for _ in 0..5 {
            tokio::time::sleep(WINDOW).await;
            steps.beat();
        }
    };
    let task = kennel.runtime.handle().spawn(async move { pulse.during(WINDOW * 2, work).await });
    while !task.is_finished() {
        kennel.stays_well(1);
    }
}

/// Twice as many busy processes as processors, preferred to us where we may ask for that. They end with the guard.
struct Load(Vec<std::process::Child>);

impl Load {
    fn start() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let busy = |_| {
            // With bounds of its own, should we not come to end it.
            let mut command = std::process::Command::new("nice");
            command.args(["-n", "-5", "timeout", "20", "sh", "-c", "while :; do :; done"]).stderr(std::process::Stdio::null());
            command.spawn().unwrap()
        };
        Self((0..processors * 2).map(busy).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for busy in &mut self.0 {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(busy.id()).unwrap());
            // `timeout` passes it on.
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            busy.wait().unwrap();
        }
    }
}

#[test]
fn a_busy_machine_is_no_hang_and_hides_none() {
    let kennel = Kennel::ready(2);
    let waiting = kennel.pulses.add("waiting", Duration::from_millis(50));
    drop(kennel.runtime.handle().spawn(async move { waiting.idle::<()>().await }));
    let load = Load::start();
    kennel.stays_well(10);
    let blocked = block(&kennel.runtime, 2);
    assert!(kennel.trigger().contains("runtime, "));
    drop((load, blocked));
}
