//! Work that its caller may abandon and that goes on nevertheless.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
};

use gatehouse_chassis::Shutdown;

/// Runs the work in its caller's task, and when the caller is dropped before it is done, in a task of its own. It costs a box unless that happens.
pub(crate) async fn to_the_end<T: Send + 'static>(
    shutdown: &Shutdown,
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    let mut unfinished = Unfinished { work: Some(Box::pin(work)), shutdown, name };
    poll_fn(|cx| match &mut unfinished.work {
        Some(work) => {
            let polled = work.as_mut().poll(cx);
            if polled.is_ready() {
                unfinished.work = None;
            }
            polled
        }
        None => std::task::Poll::Pending,
    })
    .await
}

struct Unfinished<'a, T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    shutdown: &'a Shutdown,
    name: &'static str,
}

impl<T: Send + 'static> Drop for Unfinished<'_, T> {
    fn drop(&mut self) {
        // A panic in the work is no reason to poll it again.
        if let Some(work) = self.work.take().filter(|_| !std::thread::panicking()) {
            self.shutdown.spawn(self.name, async move {
                let _abandoned = work.await;
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_goes_on_when_its_caller_is_dropped() {
        let shutdown = Shutdown::default();
        let (go, may_go) = oneshot::channel();
        let (done, was_done) = oneshot::channel();
        let work = async move {
            may_go.await.unwrap();
            done.send("done").unwrap();
        };
        let caller = to_the_end(&shutdown, "work", work);
        assert!(futures_util::poll!(Box::pin(caller)).is_pending(), "and the box is dropped");
        go.send(()).unwrap();
        assert_eq!(was_done.await, Ok("done"));
        shutdown.finished().await;
    }

    #[tokio::test]
    async fn finished_work_is_not_run_again() {
        let shutdown = Shutdown::default();
        assert_eq!(to_the_end(&shutdown, "work", async { 7 }).await, 7);
        shutdown.finished().await;
    }
}
