//! A Redis client of our own, as foreign writers have one: arbitrary bytes in, nothing known of the code under test.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// An answer of the Redis protocol, version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `+OK`, or a bulk string.
    Bytes(Vec<u8>),
    /// `:1`.
    Number(i64),
    /// No value.
    Nil,
    /// An array.
    List(Vec<Answer>),
}

impl Answer {
    /// As text; of what is none, its debug form.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Number(number) => number.to_string(),
            other => format!("{other:?}"),
        }
    }
}

trait Socket: Read + Write + Send {}
impl<T: Read + Write + Send> Socket for T {}

/// A blocking connection. Every command is answered within ten seconds or fails.
pub struct Resp(BufReader<Box<dyn Socket>>);

impl std::fmt::Debug for Resp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resp")
    }
}

const BOUND: Option<Duration> = Some(Duration::from_secs(10));

impl Resp {
    /// Over a unix socket, authenticated.
    pub fn unix(path: &Path, password: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(BOUND)?;
        Self::authenticated(Box::new(stream), password)
    }

    /// Over TCP, authenticated.
    pub fn tcp(port: u16, password: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(BOUND)?;
        stream.set_nodelay(true)?;
        Self::authenticated(Box::new(stream), password)
    }

    fn authenticated(stream: Box<dyn Socket>, password: &str) -> io::Result<Self> {
        let mut client = Self(BufReader::new(stream));
        client.command(&["AUTH", password])?;
        Ok(client)
    }

    /// One command; an error answer is an error.
    pub fn command(&mut self, words: &[impl AsRef<[u8]>]) -> io::Result<Answer> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            request.extend(format!("${}\r\n", word.len()).into_bytes());
            request.extend(word);
            request.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&request)?;
        self.answer()
    }

    /// `XADD stream * field value …`; the new entry's id.
    pub fn xadd(&mut self, stream: &str, fields: &[(&[u8], &[u8])]) -> io::Result<String> {
        let mut words: Vec<&[u8]> = vec![b"XADD", stream.as_bytes(), b"*"];
        for (name, value) in fields {
            words.extend([*name, *value]);
        }
        self.command(&words).map(|id| id.text())
    }

    fn answer(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let malformed = || io::Error::other("not the Redis protocol");
        let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(malformed)?;
        let number = || rest.parse::<i64>().map_err(|_| malformed());
        match kind {
            "+" => Ok(Answer::Bytes(rest.into())),
            "-" => Err(io::Error::other(rest.to_owned())),
            ":" => number().map(Answer::Number),
            "$" | "*" if rest == "-1" => Ok(Answer::Nil),
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()?).map_err(|_| malformed())? + 2];
                self.0.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(Answer::Bytes(bytes))
            }
            "*" => (0..number()?).map(|_| self.answer()).collect::<io::Result<_>>().map(Answer::List),
            _ => Err(malformed()),
        }
    }
}
