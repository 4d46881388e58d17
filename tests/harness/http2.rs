//! A client that speaks HTTP/2 frame by frame, as well or as badly as a test wants.

use std::{fmt, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::Edge;

/// A connection on which nothing is checked before it is sent.
pub struct Http2 {
    reader: ReadHalf<TlsStream<TcpStream>>,
    writer: WriteHalf<TlsStream<TcpStream>>,
    unread: Vec<u8>,
}

/// One frame, as it goes over the wire.
#[derive(Clone, Eq, PartialEq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was answered with this status.
    Answered(u16),
    /// It was reset with this error code.
    Reset(u32),
    /// The connection was ended with this error code.
    WentAway(u32),
    /// The connection was cut.
    Cut,
}

impl Http2 {
    /// Connects and says hello.
    pub async fn connect(edge: &Edge) -> Self {
        Self::connect_to(edge.https, &edge.certificate).await
    }

    /// Connects to whoever shows `certificate` at `address`, and says hello.
    pub async fn connect_to(address: SocketAddr, certificate: &Path) -> Self {
        let mut client = Self::open(address, certificate).await;
        // Without a table of what was said before, every answer is spelt out.
        let no_table = [0, 1, 0, 0, 0, 0];
        client.send(PREFACE).await;
        client.send(&Frame::new(Frame::SETTINGS, 0, 0, &no_table).bytes()).await;
        // All answers together may be as long as they like.
        client.send(&Frame::new(Frame::WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0]).bytes()).await;
        client
    }

    /// Connects and says nothing.
    pub async fn connect_silently(edge: &Edge) -> Self {
        Self::open(edge.https, &edge.certificate).await
    }

    async fn open(address: SocketAddr, certificate: &Path) -> Self {
        let tcp = TcpStream::connect(address).await.expect("the gateway listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = trusting(certificate).connect(name, tcp).await.expect("a handshake");
        let (reader, writer) = split(tls);
        Self { reader, writer, unread: Vec::new() }
    }

    /// Sends `bytes`. `false`: the gateway does not take them any more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        let sending = async { self.writer.write_all(bytes).await.and(self.writer.flush().await) };
        matches!(timeout(PATIENCE, sending).await, Ok(Ok(())))
    }

    /// Asks on `stream`, with nothing behind the fields.
    pub async fn ask(&mut self, stream: u32, fields: &[(&str, &str)]) -> bool {
        let flags = Frame::END_HEADERS | Frame::END_STREAM;
        let block = block(fields);
        self.send(&Frame::new(Frame::HEADERS, flags, stream, &block).bytes()).await
    }

    /// Begins to store a memory on `stream`, of whose body `length` bytes are promised, or as many
    /// as will come.
    pub async fn remember(&mut self, stream: u32, token: &str, length: Option<usize>) -> bool {
        let (authorization, length) = (format!("Bearer {token}"), length.map(|n| n.to_string()));
        let mut fields = vec![
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", "/memories"),
            ("authorization", &authorization),
            ("content-type", "application/json"),
        ];
        fields.extend(length.as_deref().map(|length| ("content-length", length)));
        let head = Frame::new(Frame::HEADERS, Frame::END_HEADERS, stream, &block(&fields));
        self.send(&head.bytes()).await
    }

    /// Sends a part of the body on `stream`, the last one if `is_last`.
    pub async fn part(&mut self, stream: u32, bytes: &[u8], is_last: bool) -> bool {
        let flags = if is_last { Frame::END_STREAM } else { 0 };
        self.send(&Frame::new(Frame::DATA, flags, stream, bytes).bytes()).await
    }

    /// Waits until the gateway has taken everything that was sent. `false`: it takes no more.
    pub async fn is_heard(&mut self) -> bool {
        self.send(&Frame::new(Frame::PING, 0, 0, &[7; 8]).bytes()).await;
        while let Some(frame) = self.hear().await {
            if frame.kind == Frame::PING && frame.flags & Frame::ACK != 0 {
                return true;
            }
        }
        false
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, length)) = Frame::first(&self.unread) {
                self.unread.drain(..length);
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.reader.read_buf(&mut self.unread)).await;
            match read.expect("the gateway says something, or closes") {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    /// What becomes of the request on `stream`.
    pub async fn outcome(&mut self, stream: u32) -> Outcome {
        while let Some(frame) = self.hear().await {
            match frame.kind {
                Frame::HEADERS if frame.stream == stream => {
                    return Outcome::Answered(status(&frame.payload));
                }
                Frame::RST_STREAM if frame.stream == stream => {
                    return Outcome::Reset(number(&frame.payload));
                }
                Frame::GOAWAY if number(&frame.payload[4..]) != 0 => {
                    return Outcome::WentAway(number(&frame.payload[4..]));
                }
                _ => {}
            }
        }
        Outcome::Cut
    }
}

impl Frame {
    /// A type.
    pub const DATA: u8 = 0;
    /// A type.
    pub const HEADERS: u8 = 1;
    /// A type.
    pub const RST_STREAM: u8 = 3;
    /// A type.
    pub const SETTINGS: u8 = 4;
    /// A type.
    pub const PING: u8 = 6;
    /// A type.
    pub const GOAWAY: u8 = 7;
    /// A type.
    pub const WINDOW_UPDATE: u8 = 8;
    /// A type.
    pub const CONTINUATION: u8 = 9;
    /// A flag.
    pub const ACK: u8 = 1;
    /// A flag.
    pub const END_STREAM: u8 = 1;
    /// A flag.
    pub const END_HEADERS: u8 = 4;

    /// A frame of any kind.
    pub fn new(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Self {
        Self { kind, flags, stream, payload: payload.to_vec() }
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).expect("a small frame").to_be_bytes();
        let head = [&length[1..], &[self.kind, self.flags], &self.stream.to_be_bytes()].concat();
        [head, self.payload.clone()].concat()
    }

    fn first(bytes: &[u8]) -> Option<(Self, usize)> {
        let (head, rest) = bytes.split_first_chunk::<9>()?;
        let [a, b, c, kind, flags, stream @ ..] = *head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        let payload = rest.get(..length)?;
        Some((Self::new(kind, flags, stream, payload), 9 + length))
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, flags, stream, payload } = self;
        write!(f, "{kind} {flags:#x} {stream} {:?}", String::from_utf8_lossy(payload))
    }
}

/// Fields as HPACK spells them that nobody is to remember (RFC 7541, section 6.2.2).
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            push_length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn push_length(block: &mut Vec<u8>, mut length: usize) {
    const PREFIX: usize = 0x7f;
    if length < PREFIX {
        return block.push(length as u8);
    }
    block.push(PREFIX as u8);
    length -= PREFIX;
    while length >= 0x80 {
        block.push((length % 0x80) as u8 | 0x80);
        length /= 0x80;
    }
    block.push(length as u8);
}

/// The status that begins `block`, which knows no table but the fixed one.
fn status(block: &[u8]) -> u16 {
    const KNOWN: [(u8, u16); 7] =
        [(8, 200), (9, 204), (10, 206), (11, 304), (12, 400), (13, 404), (14, 500)];
    let block = &block[block.iter().take_while(|byte| **byte >> 5 == 1).count()..];
    if let Some((_, status)) = KNOWN.iter().find(|(index, _)| block[0] == index | 0x80) {
        return *status;
    }
    assert!([0x08, 0x18, 0x48].contains(&block[0]), "no status: {block:x?}");
    let text = &block[2..2 + usize::from(block[1] & 0x7f)];
    if block[1] & 0x80 == 0 {
        return String::from_utf8_lossy(text).parse().expect("a status");
    }
    let bits = text.iter().fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut left = text.len() * 8;
    let mut take = |count: usize| {
        left -= count;
        (bits >> left) & ((1 << count) - 1)
    };
    // 0 to 2 take five bits, the other digits six (RFC 7541, appendix B).
    (0..3).fold(0, |status, _| {
        let first = take(5);
        let digit = if first < 3 { first } else { (first << 1 | take(1)) - 0x19 + 3 };
        status * 10 + u16::try_from(digit).expect("a digit")
    })
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().expect("four bytes"))
}

/// Who speaks HTTP/2 to whoever shows `certificate`.
pub fn trusting(certificate: &Path) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).expect("a certificate")).expect("good");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("there are some")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long the gateway may say nothing.
const PATIENCE: Duration = Duration::from_secs(20);
