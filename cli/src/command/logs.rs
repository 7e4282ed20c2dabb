//! `gatehouse logs`: what components said, and say.

mod line;

use std::{path::Path, time::Duration};

use clap::{Args, ValueEnum, value_parser};
use gatehouse_chassis::ipc::Channel;
use gatehouse_proto::internal::v1::{LogLine, LogsRequest, supervisor_client::SupervisorClient};
use jiff::Timestamp;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use super::{
    events::{ends, known},
    supervisor::{self, BOUND, PEER},
    target::Target,
    time::Since,
};
use crate::{failure::Failure, local, output::Output, place::Place};
pub use line::{document, legible};

/// How long nobody may answer one who follows: as long as a supervisor takes to be started again.
const HANDOVER: Duration = Duration::from_secs(15);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);
/// The most that can be asked for by number.
const MOST: i64 = 100_000;

/// Which lines.
#[derive(Debug, Args)]
pub struct Wanted {
    /// edge, pusher, pusher/1, auditor, admin, redis [default: all]
    #[arg(value_name = "COMPONENT[/N]")]
    target: Option<Target>,
    /// Go on with what they say from now on
    #[arg(long, short)]
    follow: bool,
    /// From then on: 10m, 2h, 2026-11-21T09:52:16Z
    #[arg(long, value_name = "TIME", value_parser = Since::read)]
    since: Option<Since>,
    /// At least that bad; a line that does not say how bad it is counts as the worst
    #[arg(long, value_enum)]
    level: Option<Level>,
    /// The last so many [default: 100, or with --since all]
    #[arg(long, short = 'n', value_name = "N", value_parser = value_parser!(u32).range(1..=MOST))]
    lines: Option<u32>,
}

/// How bad a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// `gatehouse logs`.
pub async fn print(wanted: &Wanted, config: Option<&Path>, output: &mut Output) -> Result<(), Failure> {
    let socket = Place::find(config)?.supervisor();
    let mut request = LogsRequest {
        component: wanted.target.as_ref().map(|target| target.component().to_owned()).unwrap_or_default(),
        instance: wanted.target.as_ref().and_then(Target::instance),
        follow: wanted.follow,
        since_ms: wanted.since.map(|since| since.as_ms(Timestamp::now())),
        level: wanted.level.map(Level::as_str).unwrap_or_default().to_owned(),
        lines: wanted.lines.unwrap_or(0),
    };
    if let Some(target) = &wanted.target {
        recall(&socket, target, &request).await?;
    }
    let mut printed = Printed::default();
    let mut lines = ask(&socket, &request).await?;
    loop {
        match read(&mut lines, &mut printed, output).await {
            Ok(()) if !wanted.follow => return Ok(()),
            // The supervisor ended, or was replaced while the components went on: the next one has what was said meanwhile.
            Ok(()) | Err(Failure::Unreachable(_)) if wanted.follow => {}
            ended => return ended,
        }
        request = LogsRequest { since_ms: Some(printed.until(&request)), lines: 0, ..request };
        printed.again();
        lines = ask_next(&socket, &request).await?;
    }
}

/// Refuses one that is not there, of which no end is recorded and no line is kept.
async fn recall(socket: &Path, target: &Target, request: &LogsRequest) -> Result<(), Failure> {
    let mut supervisor = SupervisorClient::new(supervisor::open(socket).await?);
    let Err(stranger) = known(&mut supervisor, target, false).await else { return Ok(()) };
    let has_ended = !ends(&mut supervisor, Some(target), 1).await?.is_empty();
    let LogsRequest { component, instance, .. } = request.clone();
    let any = LogsRequest { component, instance, lines: 1, ..LogsRequest::default() };
    let has_spoken = async || ask(socket, &any).await?.message().await.map_err(|status| Failure::of_status(PEER, &status));
    if has_ended || has_spoken().await?.is_some() { Ok(()) } else { Err(stranger) }
}

async fn ask(socket: &Path, request: &LogsRequest) -> Result<Streaming<LogLine>, Failure> {
    let mut supervisor: SupervisorClient<Channel> = SupervisorClient::new(supervisor::open(socket).await?);
    local::answer(PEER, BOUND, supervisor.logs(request.clone())).await
}

/// The supervisor that comes after the one that went away.
async fn ask_next(socket: &Path, request: &LogsRequest) -> Result<Streaming<LogLine>, Failure> {
    let patience = Instant::now() + HANDOVER;
    loop {
        // One that is ending answers still, with nothing.
        sleep(PAUSE).await;
        match ask(socket, request).await {
            Err(Failure::Unreachable(_)) if Instant::now() < patience => {}
            answer => return answer,
        }
    }
}

/// Prints what comes until nothing does.
async fn read(lines: &mut Streaming<LogLine>, printed: &mut Printed, output: &mut Output) -> Result<(), Failure> {
    loop {
        // Whoever watches sees a line when it comes; a thousand at once are written at once.
        let next = match timeout(Duration::ZERO, lines.message()).await {
            Ok(next) => next,
            Err(_nothing_yet) => {
                output.pass_on().await?;
                lines.message().await
            }
        };
        match next.map_err(|status| Failure::of_status(PEER, &status))? {
            Some(line) if printed.is_new(&line) => show(&line, output)?,
            Some(_) => {}
            None => return output.pass_on().await,
        }
        if output.is_full() {
            output.pass_on().await?;
        }
    }
}

fn show(line: &LogLine, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() { output.document(&document(line)) } else { output.sentence(&legible(line)) }
}

/// What was printed of the last moment, so that nothing is printed twice or left out when another supervisor goes on.
#[derive(Debug, Default)]
struct Printed {
    at_ms: Option<i64>,
    lines: Vec<LogLine>,
    /// Those of them that will come once more.
    expected: Vec<LogLine>,
}

impl Printed {
    fn is_new(&mut self, line: &LogLine) -> bool {
        if let Some(position) = self.expected.iter().position(|known| known == line) {
            self.expected.swap_remove(position);
            return false;
        }
        if self.at_ms != Some(line.at_ms) {
            self.at_ms = Some(line.at_ms);
            self.lines.clear();
        }
        self.lines.push(line.clone());
        true
    }

    /// From when on to ask.
    fn until(&self, request: &LogsRequest) -> i64 {
        self.at_ms.or(request.since_ms).unwrap_or_else(|| Timestamp::now().as_millisecond())
    }

    fn again(&mut self) {
        self.expected.clone_from(&self.lines);
    }
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_from_the_next_supervisor_is_printed_once_and_the_same_words_later_again() {
        let line = |at_ms, text: &str| LogLine { at_ms, line: text.into(), ..LogLine::default() };
        let mut printed = Printed::default();
        let request = LogsRequest { since_ms: Some(3), ..LogsRequest::default() };
        assert_eq!(printed.until(&request), 3);
        assert!([line(7, "a"), line(8, "b"), line(8, "b")].iter().all(|line| printed.is_new(line)));
        assert_eq!(printed.until(&request), 8);
        printed.again();
        let again = [line(8, "b"), line(8, "b"), line(8, "b"), line(8, "c"), line(9, "b")];
        assert_eq!(again.map(|line| printed.is_new(&line)), [false, false, true, true, true]);
    }
}
