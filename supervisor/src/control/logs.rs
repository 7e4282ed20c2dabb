//! `Logs`: what children said, and say.

use futures_util::stream;
use gatehouse_proto::internal::v1::{LogLine, LogsRequest};
use tonic::{Status, codegen::BoxStream};

use super::component;
use crate::output::{Level, Output, Query, Wanted};

/// Lines, when neither their number nor a time is asked for.
const DEFAULT: usize = 100;
/// The most that can be asked for by number; by time there is no bound.
const MOST: usize = 100_000;

/// A stream that ends when all is told, or, for those who follow, with the suite.
pub(super) fn answer(output: &Output, request: &LogsRequest) -> Result<BoxStream<LogLine>, Status> {
    let lines = output.tell(query(request)?);
    Ok(Box::pin(stream::unfold(lines, |mut lines| async move {
        match lines.recv().await {
            Some(line) => Some((Ok(line), lines)),
            None => lines.was_cut().then(|| (Err(Status::resource_exhausted("read too slowly: the rest is left out")), lines)),
        }
    })))
}

fn query(request: &LogsRequest) -> Result<Query, Status> {
    let level = match request.level.as_str() {
        "" => None,
        name => {
            let unknown = || Status::invalid_argument(format!("no level {name:?}; there are debug, info, warn, error"));
            Some(Level::named(name).ok_or_else(unknown)?)
        }
    };
    let lines = match (request.lines, request.since_ms) {
        (0, Some(_)) => None,
        (0, None) => Some(DEFAULT),
        (lines, _) => Some(usize::try_from(lines).unwrap_or(MOST).min(MOST)),
    };
    let wanted = Wanted { component: component(&request.component)?, instance: request.instance };
    Ok(Query { wanted, level, since_ms: request.since_ms, lines, follow: request.follow })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_assumed_without_a_time_and_bounded() {
        for (lines, since_ms, expected) in
            [(0, None, Some(DEFAULT)), (0, Some(1), None), (7, Some(1), Some(7)), (u32::MAX, None, Some(MOST))]
        {
            assert_eq!(query(&LogsRequest { lines, since_ms, ..LogsRequest::default() }).unwrap().lines, expected);
        }
    }

    #[test]
    fn unknown_names_are_refused() {
        for request in [
            LogsRequest { component: "egde".into(), ..LogsRequest::default() },
            LogsRequest { level: "loud".into(), ..LogsRequest::default() },
        ] {
            assert_eq!(query(&request).unwrap_err().code(), tonic::Code::InvalidArgument, "{request:?}");
        }
        assert_eq!(query(&LogsRequest { level: "WARN".into(), ..LogsRequest::default() }).unwrap().level, Some(Level::Warn));
    }
}
