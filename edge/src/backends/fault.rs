//! What can go wrong with a request to a backend, and what a client is told of it.
//!
//! Whatever lies between the gateway and the backend (no connection, a reset, an answer that is none, `UNAVAILABLE`) is the contract's `downstream is unavailable`;
//! whatever took too long, by the gateway's clock or by the backend's (`DEADLINE_EXCEEDED`), is `downstream timed out`. Every other status is the backend's
//! own answer and is passed on with code, message and details, `UNAUTHENTICATED` and `PERMISSION_DENIED` included: the gateway cannot know better what they mean.
//! Metadata is not passed on, so that no backend speaks in the gateway's own trailers.

use gatehouse_sessions::verdict;
use tonic::{Code, Status};

use super::circuit::Verdict;

/// Why one attempt has no answer.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// No connection came about: nobody has seen the request.
    Unreached,
    /// The connection's other end said that it has not looked at the request, or it was never sent: nobody has processed it.
    Unprocessed,
    /// It was sent, and the connection broke. What became of it is not known.
    Broken,
    /// It was answered, and the answer is none: another attempt would get the same.
    Garbage,
    /// Time was up before it was sent: the connection took too long.
    Expired,
    /// It took too long, by our clock or by the backend's.
    TimedOut,
    /// The backend says that it is unavailable.
    Unavailable,
    /// The backend's own no.
    Said(Status),
}

impl Fault {
    /// A backend's status.
    pub(super) fn of(status: &Status) -> Self {
        match status.code() {
            Code::Unavailable => Self::Unavailable,
            Code::DeadlineExceeded => Self::TimedOut,
            code => Self::Said(Status::with_details(code, status.message(), status.details().to_vec().into())),
        }
    }

    /// Whether the request was certainly not processed.
    pub(super) const fn is_untouched(&self) -> bool {
        matches!(self, Self::Unreached | Self::Unprocessed | Self::Expired)
    }

    /// What it says of the endpoint.
    pub(super) const fn verdict(&self) -> Verdict {
        match self {
            Self::Said(_) => Verdict::Success,
            _ => Verdict::Failure,
        }
    }

    /// `downstream_requests_total{outcome}`.
    pub(super) const fn outcome(&self) -> Outcome {
        match self {
            Self::Said(_) => Outcome::Refused,
            Self::TimedOut | Self::Expired => Outcome::TimedOut,
            Self::Unreached | Self::Unprocessed | Self::Broken | Self::Garbage | Self::Unavailable => Outcome::Unavailable,
        }
    }

    /// What the client is told.
    pub(super) fn status(self) -> Status {
        match self {
            Self::Said(status) => status,
            Self::TimedOut | Self::Expired => verdict::downstream_timed_out(),
            Self::Unreached | Self::Unprocessed | Self::Broken | Self::Garbage | Self::Unavailable => verdict::downstream_unavailable(),
        }
    }
}

/// How a request to a backend ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Answered,
    Refused,
    Unavailable,
    TimedOut,
    Abandoned,
}

impl Outcome {
    pub(super) const ALL: [Self; 5] = [Self::Answered, Self::Refused, Self::Unavailable, Self::TimedOut, Self::Abandoned];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Answered => "ok",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Why a command has no answer.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    status: Status,
    untouched: bool,
    said: bool,
}

impl Failure {
    pub(super) fn of(fault: Fault, any_touched: bool) -> Self {
        let untouched = fault.is_untouched() && !any_touched;
        let said = matches!(fault, Fault::Said(_));
        Self { status: fault.status(), untouched, said }
    }

    /// It was not even tried.
    pub(super) fn not_tried() -> Self {
        Self { status: verdict::downstream_unavailable(), untouched: true, said: false }
    }

    /// Whether the command certainly reached nobody who could have carried it out: its request id may be used again.
    pub(crate) const fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// Whether it is the backend's own no, so that asking again would not change it.
    pub(crate) const fn is_said(&self) -> bool {
        self.said
    }

    /// What the client is told.
    pub(crate) fn into_status(self) -> Status {
        self.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_is_unavailable_and_what_the_backend_says_is_passed_on() {
        for (given, code, message, verdict) in [
            (Fault::Unreached, Code::Unavailable, "downstream is unavailable", Verdict::Failure),
            (Fault::Unprocessed, Code::Unavailable, "downstream is unavailable", Verdict::Failure),
            (Fault::Broken, Code::Unavailable, "downstream is unavailable", Verdict::Failure),
            (Fault::Expired, Code::DeadlineExceeded, "downstream timed out", Verdict::Failure),
            (Fault::TimedOut, Code::DeadlineExceeded, "downstream timed out", Verdict::Failure),
            (Fault::Garbage, Code::Unavailable, "downstream is unavailable", Verdict::Failure),
            (Fault::of(&Status::unavailable("I am full")), Code::Unavailable, "downstream is unavailable", Verdict::Failure),
            (Fault::of(&Status::deadline_exceeded("mine")), Code::DeadlineExceeded, "downstream timed out", Verdict::Failure),
            (Fault::of(&Status::cancelled("by me")), Code::Cancelled, "by me", Verdict::Success),
            (Fault::of(&Status::unauthenticated("who?")), Code::Unauthenticated, "who?", Verdict::Success),
            (Fault::of(&Status::permission_denied("no")), Code::PermissionDenied, "no", Verdict::Success),
            (Fault::of(&Status::internal("oops")), Code::Internal, "oops", Verdict::Success),
        ] {
            assert_eq!(given.verdict(), verdict, "{given:?}");
            let shown = given.status();
            assert_eq!((shown.code(), shown.message()), (code, message));
        }
    }

    #[test]
    fn a_command_is_untouched_when_no_attempt_at_it_was_seen() {
        for (fault, any_touched, untouched) in [
            (Fault::Unreached, false, true),
            (Fault::Unprocessed, false, true),
            (Fault::Unreached, true, false),
            (Fault::Broken, false, false),
            (Fault::Garbage, false, false),
            (Fault::Expired, false, true),
            (Fault::Expired, true, false),
            (Fault::TimedOut, false, false),
            (Fault::Unavailable, false, false),
            (Fault::Said(Status::not_found("")), false, false),
        ] {
            assert_eq!(Failure::of(fault.clone(), any_touched).is_untouched(), untouched, "{fault:?} {any_touched}");
        }
        assert!(Failure::not_tried().is_untouched());
    }

    #[test]
    fn a_backend_cannot_speak_in_our_trailers() {
        let mut given = Status::with_details(Code::Aborted, "m", bytes::Bytes::from_static(b"d"));
        given.metadata_mut().insert("gateway-cursor", "1-1".parse().unwrap());
        let shown = Fault::of(&given).status();
        assert!(shown.metadata().is_empty());
        assert_eq!(shown.details(), b"d");
    }
}
