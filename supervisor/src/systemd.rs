//! What the supervisor and the systemd above it say to each other about time: how long systemd waits for the drain, and that the drain goes on.
//!
//! systemd counts `TimeoutStopSec=` from its SIGTERM, or from `STOPPING=1` when the drain began without it, and kills at the end, in the middle of a stage that
//! still had time by our own count. So the sum of our budgets must fit, which is checked before the start; and each stage that begins asks for the time
//! that it may take, so that a machine that is slow between the stages is not taken for one that hangs.

use std::{env, fs, path::Path, process::Stdio, time::Duration};

use sd_notify::NotifyState;
use tokio::{process::Command, time::timeout};

/// The unit of the suite, where nobody says otherwise.
const UNIT: &str = "gatehouse.service";
/// systemd answers at once or not at all; nobody waits for it.
const BOUND: Duration = Duration::from_secs(1);

/// What is wrong with the unit's `TimeoutStopSec=` for drains of that length, if something is and systemd can be asked. `config` is the path that was
/// given to us: one that is not the unit's says nothing about the unit.
pub(crate) async fn stop_timeout_problem(budget: Duration, config: Option<&Path>) -> Option<String> {
    let unit = match own_unit() {
        Some(unit) => unit,
        // `gatehouse config check`, by hand.
        None if config.is_none() => UNIT.to_owned(),
        None => return None,
    };
    let answer = match timeout(BOUND, show(&unit)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::debug!(%error, unit, "systemd cannot be asked for TimeoutStopSec; not checked");
            return None;
        }
        Err(_) => {
            tracing::debug!(unit, "systemd did not say TimeoutStopSec within {BOUND:?}; not checked");
            return None;
        }
    };
    too_short(&unit, &answer, budget)
}

/// Says that a stage of the drain begins, which ends within that time. Both words in one message, in this order: the second is about the state that
/// the first begins, and whoever says the first alone has started systemd's clock.
pub(crate) fn extend(budget: Duration) {
    let micros = u32::try_from(budget.as_micros()).unwrap_or(u32::MAX);
    // Without systemd nobody listens.
    let _unheard = sd_notify::notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(micros)]);
}

/// The unit that runs us as its main process.
fn own_unit() -> Option<String> {
    // Of processes that systemd started itself; whatever they start inherits the variable, with their pid.
    let is_main = env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    is_main.then(|| fs::read_to_string("/proc/self/cgroup").ok()).flatten().and_then(|groups| unit_of(&groups))
}

/// The innermost service of `/proc/self/cgroup`: we may be in a group of our own below it.
fn unit_of(groups: &str) -> Option<String> {
    let path =
        groups.lines().find_map(|line| line.strip_prefix("0::").or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path)))?;
    path.rsplit('/').find(|part| part.ends_with(".service")).map(ToOwned::to_owned)
}

async fn show(unit: &str) -> std::io::Result<String> {
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=LoadState", "--property=TimeoutStopUSec", unit]);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

/// Judges what `systemctl show` answered.
fn too_short(unit: &str, answer: &str, budget: Duration) -> Option<String> {
    let property = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    if property("LoadState") != Some("loaded") {
        return None;
    }
    let text = property("TimeoutStopUSec")?;
    let patience = time_span(text)?;
    let problem = || {
        format!(
            "shutdown: the drain may take {} s, the sum of its stages, but systemd kills after {text}; raise TimeoutStopSec ({unit}: `systemctl edit`), or \
             lower the budgets in [shutdown]",
            budget.as_secs()
        )
    };
    (budget > patience).then(problem)
}

/// As systemd writes lengths of time: `1min 30s`, `infinity`. `None` for what is neither; days and more fit without being counted.
fn time_span(text: &str) -> Option<Duration> {
    if text == "infinity" { Some(Duration::MAX) } else { text.parse::<jiff::SignedDuration>().ok()?.try_into().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_service_of_our_group() {
        let cases = [
            ("0::/system.slice/gatehouse.service\n", Some("gatehouse.service")),
            ("0::/system.slice/gatehouse.service/supervisor\n", Some("gatehouse.service")),
            ("0::/system.slice/system-gatehouse.slice/gatehouse@b.service/edge-0\n", Some("gatehouse@b.service")),
            ("4:memory:/\n1:name=systemd:/system.slice/gatehouse.service\n0::/\n", Some("gatehouse.service")),
            ("0::/user.slice/user-1000.slice/session-1.scope\n", None),
            ("", None),
        ];
        for (groups, unit) in cases {
            assert_eq!(unit_of(groups).as_deref(), unit, "{groups}");
        }
    }

    #[test]
    fn budgets_fit_or_both_figures_and_both_keys_are_named() {
        let judge = |answer, seconds| too_short("gatehouse.service", answer, Duration::from_secs(seconds));
        let loaded = "TimeoutStopUSec=1min 30s\nLoadState=loaded\n";
        assert_eq!(judge(loaded, 90), None);
        assert_eq!(
            judge(loaded, 91).unwrap(),
            "shutdown: the drain may take 91 s, the sum of its stages, but systemd kills after 1min 30s; raise TimeoutStopSec (gatehouse.service: \
             `systemctl edit`), or lower the budgets in [shutdown]"
        );
        assert_eq!(judge("LoadState=loaded\nTimeoutStopUSec=infinity", 1 << 40), None);
        // What systemd does not know, or says in words of a later version, is no reason not to start.
        assert_eq!(judge("LoadState=not-found\nTimeoutStopUSec=1s", 90), None);
        assert_eq!(judge("LoadState=loaded\nTimeoutStopUSec=soon", 90), None);
        assert_eq!(judge("", 90), None);
    }

    #[test]
    fn lengths_of_time_are_read_as_systemd_writes_them() {
        let cases = [("45s", 45_000), ("1min 30s", 90_000), ("1h 2min 500ms", 3_720_500), ("2.5s", 2_500), ("300ms", 300)];
        for (text, millis) in cases {
            assert_eq!(time_span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!((time_span("infinity"), time_span("1d"), time_span("")), (Some(Duration::MAX), None, None));
    }
}
