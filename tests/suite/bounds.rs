//! Where a message ends, and what becomes of one that is too large or ends unclearly.

mod http2;

use std::time::Duration;

use harness::World;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
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

#[tokio::test]
async fn a_request_whose_end_is_unclear_takes_its_connection_with_it() {
    let world = World::start().await;
    let misframed = [
        ("two lengths", "Content-Length: 5\r\nContent-Length: 5\r\n"),
        ("length and chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        ("chunked behind another coding", "Transfer-Encoding: gzip, chunked\r\n"),
        ("a length that is no number", "Content-Length: +5\r\n"),
        ("a bare line feed", "X-Any: thing\n"),
    ];

    for (case, fields) in misframed {
        let request =
            format!("POST /auth/login HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n0\r\n\r\n");
        let answers = converse(&world, &format!("{request}{VICTIM}")).await;
        assert!(answers.starts_with("HTTP/1.1 400"), "{case}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{case}: {answers}");
    }
}

#[tokio::test]
async fn a_request_sent_early_is_answered_in_its_turn() {
    let world = World::start().await;
    let first = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";

    let answers = converse(&world, &format!("{first}{VICTIM}")).await;

    assert!(answers.starts_with("HTTP/1.1 404"), "{answers}");
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
}

#[tokio::test]
async fn a_refused_body_is_read_to_its_end_and_never_as_a_request() {
    let world = World::start().await;
    let refused = |body: &str| {
        format!(
            "POST /memories HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };

    let small = converse(&world, &format!("{}{VICTIM}", refused(VICTIM))).await;
    assert!(small.starts_with("HTTP/1.1 401"), "{small}");
    assert_eq!(
        small.matches("HTTP/1.1 200").count(),
        1,
        "the body is none, what follows is: {small}"
    );
    let large = converse(&world, &format!("{}{VICTIM}", refused(&VICTIM.repeat(2000)))).await;
    assert!(large.starts_with("HTTP/1.1 401"), "{large}");
    assert_eq!(large.matches("HTTP/1.1 200").count(), 0, "too much to read: {large}");
}

/// Says all of `requests` at once, and hears everything until the gateway closes.
async fn converse(world: &World, requests: &str) -> String {
    let (mut heard, mut client) = (Vec::new(), TcpStream::connect(world.http).await.unwrap());
    client.write_all(requests.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 16_384];
    // A reset after the answer is an end too.
    while let Ok(Ok(length @ 1..)) = timeout(Duration::from_secs(5), client.read(&mut buffer)).await
    {
        heard.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

/// What comes behind, of somebody else behind a proxy that shares its connection.
const VICTIM: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

async fn answer(client: &mut TcpStream) -> String {
    let mut answer = vec![0; 4096];
    let length = client.read(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}
