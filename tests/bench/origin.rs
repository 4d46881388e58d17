//! What every proxy is measured in front of: it answers each request the same, at once.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use memoric_contract::spool::{Answer, BATCH_PATH, read_batch};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{UnixListener, UnixStream},
};

/// Serves at `socket`, for as long as the runtime lives. What a gateway asks on its own behalf is
/// answered by the one behind `backend`.
pub fn serve(socket: &Path, backend: &Path) {
    let listener = UnixListener::bind(socket).expect("the folder is ours");
    let backend: Arc<Path> = backend.into();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            // Whoever goes away in the middle is missed by the count of the load.
            let attend = attend(client, Arc::clone(&backend));
            tokio::spawn(async move { drop(attend.await) });
        }
    });
}

async fn attend(mut client: UnixStream, backend: Arc<Path>) -> io::Result<()> {
    let mut unread = Vec::with_capacity(16 * 1024);
    while client.read_buf(&mut unread).await? > 0 {
        while let Some(head) = head(&unread) {
            if is_batch(&unread) {
                take_off(&mut client, &mut unread, head).await?;
            } else if unread.starts_with(b"GET /internal/") {
                return hand_on(client, &unread, backend.to_path_buf()).await;
            } else {
                client.write_all(ANSWER).await?;
                unread.drain(..head);
            }
        }
    }
    Ok(())
}

/// Takes records off a gateway's hands, so that it is the gateway that is measured and not how
/// fast a database can follow.
async fn take_off(client: &mut UnixStream, unread: &mut Vec<u8>, head: usize) -> io::Result<()> {
    let end = head + length(&unread[..head]);
    while unread.len() < end {
        client.read_buf(unread).await?;
    }
    let deliveries = read_batch(&unread[head..end]).unwrap_or_default();
    let acknowledged = deliveries.iter().flatten().map(|delivery| delivery.id()).collect();
    let answer = Answer { acknowledged, refused: Vec::new() }.to_bytes();
    unread.drain(..end);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
    client.write_all(head.as_bytes()).await?;
    client.write_all(&answer).await
}

/// A connection for such questions carries no others.
async fn hand_on(mut client: UnixStream, unread: &[u8], backend: PathBuf) -> io::Result<()> {
    let mut backend = UnixStream::connect(backend).await?;
    backend.write_all(unread).await?;
    copy_bidirectional(&mut client, &mut backend).await?;
    Ok(())
}

/// Where the first head ends, if all of it is there.
fn head(unread: &[u8]) -> Option<usize> {
    unread.windows(END.len()).position(|window| window == END).map(|at| at + END.len())
}

fn is_batch(unread: &[u8]) -> bool {
    unread.strip_prefix(b"POST ").is_some_and(|rest| rest.starts_with(BATCH_PATH.as_bytes()))
}

fn length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

const END: &[u8] = b"\r\n\r\n";

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 25\r\n\r\n{\"id\":1,\"message\":\"sure\"}";
