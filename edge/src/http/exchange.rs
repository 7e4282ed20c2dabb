//! One request and the head of its answer: waited for as long as somebody gets on, and no longer.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    errors::Problem,
    upload::{Progress, Turn},
};
use crate::config::Transfer;

/// How much later than the upload's own clock this one goes by: the upload ends itself, and the connection with it.
const GRACE: Duration = Duration::from_secs(1);

/// The head, or who is to blame. The backend's clock, `timeout`, runs from the end of the request's body on: a long upload is not its slowness.
pub(super) async fn head<T>(
    asked: impl Future<Output = Result<T, Problem>>,
    upload: &Progress,
    timeout: Duration,
    limits: &Transfer,
) -> Result<T, Problem> {
    let mut asked = pin!(asked);
    let client = limits.body_timeout.saturating_add(GRACE);
    let often = timeout.min(limits.write_timeout).min(client);
    loop {
        let (turn, since) = upload.turn();
        let limit = match turn {
            Turn::Client => client,
            Turn::Backend => limits.write_timeout,
            Turn::Over => timeout,
        };
        let due = since + limit;
        // The turn may change meanwhile, and the limit with it.
        let until = due.min(Instant::now() + often);
        match timeout_at(until, asked.as_mut()).await {
            Ok(Ok(answer)) => return Ok(answer),
            // What the client did wrong ends the connection to the backend, too, and that shows first.
            Ok(Err(problem)) => return Err(upload.fault().unwrap_or(problem)),
            Err(_) if until == due && upload.turn() == (turn, since) => {
                return Err(upload.fault().unwrap_or(match turn {
                    Turn::Client => Problem::RequestTimeout,
                    Turn::Backend | Turn::Over => Problem::GatewayTimeout,
                }));
            }
            Err(_) => {}
        }
    }
}
