//! What is too large is refused with an answer that says so.

use harness::World;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test]
async fn a_body_that_turns_out_too_large_is_answered_even_after_it_was_invited() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let mut client = TcpStream::connect(world.http).await.unwrap();
    let head = format!(
        "POST /memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
        alice.token
    );
    client.write_all(head.as_bytes()).await.unwrap();
    assert!(answer(&mut client).await.starts_with("HTTP/1.1 100"), "it is wanted");

    let chunk = format!("{:x}\r\n{}\r\n", 65_536, "a".repeat(65_536));
    for _ in 0..33 {
        client.write_all(chunk.as_bytes()).await.unwrap();
    }

    let answer = answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(world.recall(&alice).await.is_empty(), "nothing is stored");
}

async fn answer(client: &mut TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let length = client.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
