//! When a client's acknowledgement of our shutdown is read: after what it had queued behind it.
//!
//! A server that leaves in good order sends GOAWAY with the largest stream id and a PING; the PING's acknowledgement says that the client opens no more streams,
//! and with it the server names the last stream that it will answer (RFC 9113 §6.8). But some clients, h2 of Rust's hyper and tonic among them, write a PING's
//! acknowledgement before the requests that they have queued: these come right behind it, are thrown away, and most libraries fail them instead of sending them
//! again. So the acknowledgement is passed on only when nothing more can be behind it.

use std::{
    future::Future as _,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::ReadBuf,
    time::{Sleep, sleep},
};

use super::{
    flood::{Flood, Head},
    traffic::Traffic,
};

/// What a client of HTTP/2 says first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADER: usize = 9;
/// The frame, with the payload that h2 gives the PING of its graceful shutdown.
const PONG: [u8; 17] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
/// Of a frame's header: its type.
const TYPE: usize = 3;
/// A type that nobody has defined: such frames are discarded (RFC 9113 §5.5).
const IGNORED: u8 = 0xfb;

/// Looks through all that is read from one connection.
#[derive(Debug)]
pub(super) struct Pong {
    delay: Duration,
    place: Place,
    /// Between a request's HEADERS and the last of its CONTINUATION nothing else may come (RFC 9113 §6.10).
    in_block: bool,
    held: Option<Pin<Box<Sleep>>>,
    /// So much of it has been handed on.
    given: usize,
    flood: Flood,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// So much of the preface was there.
    Preface(usize),
    Header {
        bytes: [u8; HEADER],
        have: usize,
    },
    /// So much of a frame is to come.
    Payload(usize),
    /// Not HTTP/2.
    Elsewhere,
}

impl Place {
    const BOUNDARY: Self = Self::Header { bytes: [0; HEADER], have: 0 };
}

impl Pong {
    /// Holds it back for so long, and counts frames.
    pub(super) fn after(delay: Duration) -> Self {
        Self::new(delay, Place::Preface(0))
    }

    /// Does neither: the other side is ours.
    pub(super) fn of_ours() -> Self {
        Self::new(Duration::ZERO, Place::Elsewhere)
    }

    fn new(delay: Duration, place: Place) -> Self {
        Self { delay, place, in_block: false, held: None, given: 0, flood: Flood::new() }
    }

    /// What was just read. Hides the acknowledgement, if it is there in one piece, which it is unless somebody cut it up on purpose.
    pub(super) fn pass(&mut self, mut read: &mut [u8], traffic: &Traffic) {
        while !read.is_empty() {
            let taken = match &mut self.place {
                Place::Elsewhere => return,
                Place::Preface(have) => {
                    let taken = read.len().min(PREFACE.len() - *have);
                    if read[..taken] != PREFACE[*have..*have + taken] {
                        self.place = Place::Elsewhere;
                        return;
                    }
                    *have += taken;
                    if *have == PREFACE.len() {
                        self.place = Place::BOUNDARY;
                    }
                    taken
                }
                Place::Header { bytes, have } => {
                    if *have == 0 && self.held.is_none() && read.starts_with(&PONG) {
                        read[TYPE] = IGNORED;
                        self.held = Some(Box::pin(sleep(self.delay)));
                    }
                    let taken = read.len().min(HEADER - *have);
                    bytes[*have..*have + taken].copy_from_slice(&read[..taken]);
                    *have += taken;
                    if *have == HEADER {
                        let header = *bytes;
                        self.in_block = leaves_block_open(self.in_block, header);
                        if !self.flood.bears(head(header), traffic) {
                            traffic.condemn();
                            return;
                        }
                        self.place = behind(header);
                    }
                    taken
                }
                Place::Payload(left) => {
                    let taken = read.len().min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.place = Place::BOUNDARY;
                    }
                    taken
                }
            };
            read = &mut read[taken..];
        }
    }

    /// The rest of what was begun to be handed on, before anything else is read; or nothing more is there to be read now: then it begins when it is time.
    /// Whether something was added to `buf`.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<()> {
        if self.given == 0 {
            let is_between = matches!(self.place, Place::Header { have: 0, .. }) && !self.in_block;
            match &mut self.held {
                Some(held) if is_between => ready!(held.as_mut().poll(cx)),
                _ => return Poll::Pending,
            }
        }
        let part = &PONG[self.given..][..buf.remaining().min(PONG.len() - self.given)];
        buf.put_slice(part);
        self.given += part.len();
        if self.given == PONG.len() {
            (self.held, self.given) = (None, 0);
        }
        Poll::Ready(())
    }

    /// Whether part of it is still to be handed on.
    pub(super) const fn is_begun(&self) -> bool {
        self.given > 0
    }
}

fn head(header: [u8; HEADER]) -> Head {
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    Head { kind: header[TYPE], flags: header[TYPE + 1], length }
}

fn behind(header: [u8; HEADER]) -> Place {
    match head(header).length {
        0 => Place::BOUNDARY,
        length => Place::Payload(length),
    }
}

fn leaves_block_open(before: bool, header: [u8; HEADER]) -> bool {
    const HEADERS: u8 = 1;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;
    match header[TYPE] {
        HEADERS | CONTINUATION => header[TYPE + 1] & END_HEADERS == 0,
        _ => before,
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Waker};

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const OTHER_PONG: [u8; 17] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    fn hidden() -> [u8; 17] {
        let mut hidden = PONG;
        hidden[TYPE] = IGNORED;
        hidden
    }

    fn is_due(pong: &mut Pong) -> bool {
        pong.poll_due(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut [0; 32])).is_ready()
    }

    /// In parts, as small as the rest of a buffer may be.
    async fn due(pong: &mut Pong) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let mut bytes = [0; 5];
            let mut buf = ReadBuf::new(&mut bytes);
            poll_fn(|cx| pong.poll_due(cx, &mut buf)).await;
            all.extend_from_slice(buf.filled());
            if !pong.is_begun() {
                return all;
            }
        }
    }

    #[tokio::test]
    async fn only_the_acknowledgement_of_the_shutdown_is_held_back() {
        let data = [&[0, 0, 20, 0, 0, 0, 0, 0, 1][..], &[b' '; 3], &PONG].concat();
        let sent = [&PREFACE[..], &SETTINGS, &data, &OTHER_PONG, &PONG, &SETTINGS].concat();
        let expected = [&PREFACE[..], &SETTINGS, &data, &OTHER_PONG, &hidden(), &SETTINGS].concat();
        // However it is cut up, but for the acknowledgement itself.
        for cut in 0..=sent.len() - PONG.len() - SETTINGS.len() {
            let mut pong = Pong::after(SHORT);
            let mut read = sent.clone();
            let (one, other) = read.split_at_mut(cut);
            pong.pass(one, &Traffic::new());
            assert!(!is_due(&mut pong), "it was not there");
            pong.pass(other, &Traffic::new());
            assert_eq!((&read, due(&mut pong).await), (&expected, PONG.to_vec()), "{cut}");
            assert!(!is_due(&mut pong), "once");
        }
    }

    #[test]
    fn frames_are_counted_also_where_nothing_is_waited_for_and_not_among_ourselves() {
        for (mut pong, hostile) in [(Pong::after(Duration::ZERO), true), (Pong::of_ours(), false)] {
            let traffic = Traffic::new();
            let mut flood = [&PREFACE[..], &SETTINGS.repeat(100_000)].concat();
            pong.pass(&mut flood, &traffic);
            assert_eq!(traffic.is_hostile(), hostile);
        }
    }

    #[tokio::test]
    async fn it_comes_later_and_not_into_the_middle_of_a_frame() {
        let begin = [&PREFACE[..], &PONG].concat();
        let mut pong = Pong::after(Duration::from_mins(10));
        pong.pass(&mut begin.clone(), &Traffic::new());
        assert!(!is_due(&mut pong), "not yet");
        let mut pong = Pong::after(SHORT);
        pong.pass(&mut [&begin, &SETTINGS[..4]].concat(), &Traffic::new());
        sleep(SHORT * 2).await;
        assert!(!is_due(&mut pong), "in the middle");
        pong.pass(&mut SETTINGS[4..].to_vec(), &Traffic::new());
        assert_eq!(due(&mut pong).await, PONG);
    }

    #[tokio::test]
    async fn it_does_not_come_between_a_request_s_headers_and_their_continuation() {
        let frame = |kind, flags| [0, 0, 0, kind, flags, 0, 0, 0, 1];
        let mut pong = Pong::after(SHORT);
        pong.pass(&mut [&PREFACE[..], &PONG, &frame(1, 1)].concat(), &Traffic::new());
        sleep(SHORT * 2).await;
        assert!(!is_due(&mut pong));
        pong.pass(&mut frame(9, 0).to_vec(), &Traffic::new());
        assert!(!is_due(&mut pong));
        pong.pass(&mut frame(9, 4).to_vec(), &Traffic::new());
        assert_eq!(due(&mut pong).await, PONG);
    }

    #[test]
    fn what_is_not_http2_is_left_alone() {
        let mut pong = Pong::after(SHORT);
        let sent = [b"PRI * HTTP/1.1\r\n\r\n", &PONG[..]].concat();
        let mut read = sent.clone();
        pong.pass(&mut read, &Traffic::new());
        assert_eq!(read, sent);
    }
}
