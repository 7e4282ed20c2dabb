//! What a process has used.

use std::time::Duration;

use gatehouse_tests::Suite;
use procfs::{WithCurrentSystemInfo as _, process::Process};

/// CPU time of a process with all its threads, ended ones too, in seconds. The kernel counts it in ticks of 10 ms.
#[must_use]
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = process(pid).stat().expect("read /proc/PID/stat");
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

/// CPU time of a process's present threads, to the nanosecond.
#[must_use]
pub fn precise_cpu(pid: u32) -> Duration {
    let tasks = process(pid).tasks().expect("read /proc/PID/task");
    let ran = tasks.filter_map(|task| Some(task.ok()?.schedstat().ok()?.sum_exec_runtime));
    Duration::from_nanos(ran.sum())
}

/// Its share of memory in MiB: pages that it shares with others are counted by halves, thirds and so on.
#[must_use]
pub fn pss_mib(pid: u32) -> f64 {
    let rollup = process(pid).smaps_rollup().expect("read /proc/PID/smaps_rollup");
    let bytes: u64 = rollup.memory_map_rollup.0.iter().filter_map(|map| map.extension.map.get("Pss")).sum();
    bytes as f64 / f64::from(1 << 20)
}

/// Its resident memory in MiB.
#[must_use]
pub fn rss_mib(pid: u32) -> f64 {
    let stat = process(pid).stat().expect("read /proc/PID/stat");
    stat.rss_bytes().get() as f64 / f64::from(1 << 20)
}

fn process(pid: u32) -> Process {
    Process::new(i32::try_from(pid).unwrap()).expect("the process under test runs")
}

/// CPU seconds of all running processes whose name begins so.
pub async fn cpu_of(suite: &Suite, component: &str) -> f64 {
    suite.pids().await.iter().filter(|(name, _)| name.starts_with(component)).map(|(_, pid)| cpu_seconds(*pid)).sum()
}
