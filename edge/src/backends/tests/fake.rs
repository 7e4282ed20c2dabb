//! A server that speaks HTTP/2 in frames of the test's choice.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{BufMut as _, Bytes, BytesMut};
use gatehouse_chassis::Shutdown;
use gatehouse_proto::downstream::v1::ExecuteResponse;
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, UnixListener},
};

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What is done with a request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// This message, and `grpc-status: 0`.
    Message(Bytes),
    /// The payload that came, back.
    Echo,
    /// This status, in trailers alone.
    Status(u8),
    /// The stream is reset with this code.
    Reset(u32),
    /// Everything after that stream was not looked at.
    GoAway(u32),
    /// These bytes as one frame after the other: its type, its flags and its payload. Then the connection is cut, if so.
    Frames(Vec<(u8, u8, Vec<u8>)>, bool),
    /// The connection is cut at once.
    Cut,
    /// Nothing.
    Hang,
}

/// See the module's head. Dropped, it is as a killed process.
pub(super) struct Fake {
    address: String,
    shared: Arc<Shared>,
    shutdown: Shutdown,
}

struct Shared {
    act: Mutex<Act>,
    once: Mutex<Option<Act>>,
    requests: AtomicUsize,
    accepted: AtomicUsize,
    open: AtomicUsize,
    max_streams: Option<u32>,
}

impl Fake {
    pub(super) async fn start(act: Act) -> Self {
        Self::limited(act, None).await
    }

    pub(super) async fn with_max_streams(act: Act, max_streams: u32) -> Self {
        Self::limited(act, Some(max_streams)).await
    }

    async fn limited(act: Act, max_streams: Option<u32>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (shared, shutdown) = (shared(act, max_streams), Shutdown::default());
        let (acting, spawner) = (Arc::clone(&shared), shutdown.clone());
        shutdown.spawn("fake", async move {
            while let Ok((socket, _)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                spawner.spawn("connection", serve(socket, Arc::clone(&acting)));
            }
        });
        Self { address, shared, shutdown }
    }

    pub(super) fn unix(path: &Path, act: Act) -> Self {
        // A predecessor that was killed leaves its file behind.
        let _absent = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let (shared, shutdown) = (shared(act, None), Shutdown::default());
        let (acting, spawner) = (Arc::clone(&shared), shutdown.clone());
        shutdown.spawn("fake", async move {
            while let Ok((socket, _)) = listener.accept().await {
                spawner.spawn("connection", serve(socket, Arc::clone(&acting)));
            }
        });
        Self { address: format!("unix:{}", path.display()), shared, shutdown }
    }

    pub(super) fn address(&self) -> String {
        self.address.clone()
    }

    /// From now on.
    pub(super) fn act(&self, act: Act) {
        *self.shared.act.lock().unwrap() = act;
    }

    /// With the next request alone.
    pub(super) fn once(&self, act: Act) {
        *self.shared.once.lock().unwrap() = Some(act);
    }

    /// How many came so far.
    pub(super) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(super) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub(super) fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Ends everything, and waits until it has.
    pub(super) async fn kill(self) {
        self.shutdown.abort();
        self.shutdown.finished().await;
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}

fn shared(act: Act, max_streams: Option<u32>) -> Arc<Shared> {
    let zero = AtomicUsize::default;
    Arc::new(Shared { act: Mutex::new(act), once: Mutex::default(), requests: zero(), accepted: zero(), open: zero(), max_streams })
}

/// An answer's message.
pub(super) fn answer(payload: &[u8]) -> Bytes {
    ExecuteResponse { result_code: "done".into(), payload_bytes: payload.to_vec().into() }.encode_to_vec().into()
}

/// A message with its prefix.
pub(super) fn prefixed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend(message);
    bytes
}

/// `:status: 200` and `grpc-status`, as blocks of headers.
pub(super) fn ok() -> Vec<u8> {
    vec![0x88]
}

pub(super) fn grpc_status(code: u8) -> Vec<u8> {
    let code = code.to_string();
    let mut block = vec![0, 11];
    block.extend(b"grpc-status");
    block.push(u8::try_from(code.len()).unwrap());
    block.extend(code.as_bytes());
    block
}

struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    shared.accepted.fetch_add(1, Ordering::SeqCst);
    shared.open.fetch_add(1, Ordering::SeqCst);
    let _gone = Gone(Arc::clone(&shared));
    // Whatever ends a connection ends it for the test, too.
    let _ended = converse(socket, &shared).await;
}

async fn converse(mut socket: impl AsyncRead + AsyncWrite + Unpin, shared: &Shared) -> std::io::Result<()> {
    socket.read_exact(&mut [0; 24]).await?;
    let mut settings = Vec::new();
    if let Some(most) = shared.max_streams {
        settings.extend(3_u16.to_be_bytes());
        settings.extend(most.to_be_bytes());
    }
    socket.write_all(&frame(4, 0, 0, &settings)).await?;
    let mut body = BytesMut::new();
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await?;
        match (head[3], head[4]) {
            (4, 0) => socket.write_all(&frame(4, 1, 0, &[])).await?,
            (6, 0) => socket.write_all(&frame(6, 1, 0, &payload)).await?,
            (0, flags) => {
                body.extend_from_slice(&payload);
                if length > 0 {
                    socket.write_all(&frame(8, 0, 0, &length.to_be_bytes())).await?;
                }
                if flags & END_STREAM == 0 {
                    socket.write_all(&frame(8, 0, stream, &length.to_be_bytes())).await?;
                    continue;
                }
                shared.requests.fetch_add(1, Ordering::SeqCst);
                let once = shared.once.lock().unwrap().take();
                let act = once.unwrap_or_else(|| shared.act.lock().unwrap().clone());
                let Some(reply) = reply(&act, stream, &body) else { return Ok(()) };
                socket.write_all(&reply).await?;
                if matches!(act, Act::Frames(_, true)) {
                    return Ok(());
                }
                body.clear();
            }
            _ => {}
        }
    }
}

/// What is written; nothing when the connection is cut.
fn reply(act: &Act, stream: u32, body: &[u8]) -> Option<Vec<u8>> {
    let message = |message: &[u8]| {
        let mut bytes = frame(1, END_HEADERS, stream, &ok());
        for chunk in prefixed(message).chunks(16_384) {
            bytes.extend(frame(0, 0, stream, chunk));
        }
        bytes.extend(frame(1, END_HEADERS | END_STREAM, stream, &grpc_status(0)));
        bytes
    };
    Some(match act {
        Act::Message(bytes) => message(bytes),
        Act::Echo => {
            let request = gatehouse_proto::downstream::v1::ExecuteRequest::decode(&body[5..]).unwrap();
            message(&answer(&request.payload_bytes))
        }
        Act::Status(code) => frame(1, END_HEADERS | END_STREAM, stream, &[ok(), grpc_status(*code)].concat()),
        Act::Reset(code) => frame(3, 0, stream, &code.to_be_bytes()),
        Act::GoAway(last) => {
            let mut payload = last.to_be_bytes().to_vec();
            payload.extend(0_u32.to_be_bytes());
            frame(7, 0, 0, &payload)
        }
        Act::Frames(frames, _) => frames.iter().flat_map(|(kind, flags, payload)| frame(*kind, *flags, stream, payload)).collect(),
        Act::Cut => return None,
        Act::Hang => Vec::new(),
    })
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(9 + payload.len());
    bytes.put_uint(payload.len() as u64, 3);
    bytes.put_u8(kind);
    bytes.put_u8(flags);
    bytes.put_u32(stream);
    bytes.extend(payload);
    bytes
}
