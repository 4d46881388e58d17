//! Clients that cost next to nothing, for a storm that comes from the machine that it falls on.

use std::{io, net::SocketAddr, sync::Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Connections to one address, used again once their answer has been read.
pub struct Callers {
    address: SocketAddr,
    idle: Mutex<Vec<TcpStream>>,
}

/// What was answered.
#[derive(Debug)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// Whether it was said when to come back.
    pub is_told_when: bool,
}

impl Callers {
    /// None yet.
    pub fn of(address: SocketAddr) -> Self {
        Self { address, idle: Mutex::default() }
    }

    /// Posts `body`, which is JSON, in the name of the client `from`.
    pub async fn post(&self, path: &str, from: &str, body: &str) -> io::Result<Answered> {
        let (address, length) = (self.address, body.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nx-forwarded-for: {from}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let idle = self.idle.lock().expect("nobody panics with it").pop();
        let mut stream = match idle {
            Some(stream) => stream,
            None => TcpStream::connect(self.address).await?,
        };
        stream.write_all(request.as_bytes()).await?;
        let head = answer(&mut stream).await?;
        let closes = head.contains("\r\nconnection: close");
        if !closes {
            self.idle.lock().expect("nobody panics with it").push(stream);
        }
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        Ok(Answered {
            status: status.ok_or_else(|| io::Error::other("not an answer"))?,
            is_told_when: head.contains("\r\nretry-after: "),
        })
    }
}

/// Reads one answer to its end; its head, in lower case.
async fn answer(stream: &mut TcpStream) -> io::Result<String> {
    let mut read = Vec::with_capacity(2048);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or_default();
        let so_far = read.len() - end - 4;
        let mut rest = vec![0; length.saturating_sub(so_far)];
        stream.read_exact(&mut rest).await?;
        return Ok(head);
    }
}
