//! A body on its way, but for its last byte.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// JSON that is being sent over HTTP/1.1, but for its last byte.
pub struct Upload(TcpStream);

impl Upload {
    /// Begins to send a memory to `address`, and waits until the gateway has asked for the body.
    pub async fn begin(address: SocketAddr, token: &str) -> Self {
        Self::begin_at(address, "/memories", token).await
    }

    /// The same at another `path`.
    pub async fn begin_at(address: SocketAddr, path: &str, token: &str) -> Self {
        let client = TcpStream::connect(address).await.expect("somebody listens");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: 15\r\nExpect: 100-continue\r\n\r\n"
        );
        let mut upload = Self(client);
        upload.say(head.as_bytes()).await;
        let answer = upload.hear().await;
        assert!(answer.starts_with("HTTP/1.1 100"), "it is not wanted: {answer}");
        upload.say(br#"{"content":"x""#).await;
        upload
    }

    /// Sends the last byte, and returns the answer.
    pub async fn end(mut self) -> String {
        self.say(b"}").await;
        self.hear().await
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("it is heard");
    }

    async fn hear(&mut self) -> String {
        let mut heard = vec![0; 4096];
        let read = timeout(PATIENCE, self.0.read(&mut heard)).await;
        let length = read.expect("an answer in time").expect("it is readable");
        String::from_utf8_lossy(&heard[..length]).into_owned()
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);
