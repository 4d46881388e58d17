//! Where a message ends, and what becomes of one that is too large or ends unclearly.

mod http2;

use std::time::Duration;

use harness::{Edge, World, token};
use memoric_contract::Role;
use reqwest::Method;
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
    for _ in 0..105 {
        client.write_all(chunk.as_bytes()).await.unwrap();
    }

    let answer = answer(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(world.recall(&alice).await.is_empty(), "nothing is stored");
}

#[tokio::test]
async fn a_head_that_the_settings_allow_is_taken_behind_us_too() {
    let world =
        World::with(|settings| settings.gateway.bounds.header_bytes = 262_144).start().await;
    let alice = world.register("alice").await;
    let path = format!("/memories?x={}", "x".repeat(65_000));

    let asked = world.ask_as(&alice, Method::GET, &path).header("user-agent", "a".repeat(190_000));
    let answer = asked.send().await.unwrap();

    assert_eq!(answer.status(), 200, "though the assertion repeats the target");
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

#[tokio::test]
async fn a_body_is_no_longer_than_its_operation_takes() {
    let edge = Edge::start().await;
    let token = token(7, &[Role::User]);
    for is_told in [true, false] {
        for (path, bytes, status) in [
            ("/memories", 20_000, 200),
            ("/auth/change-password", 16_384, 200),
            ("/auth/change-password", 16_385, 413),
            ("/auth/login", 20_000, 413),
            ("/memories", 6_815_744 + 1, 413),
        ] {
            let answer = upload(&edge, &token, path, bytes, is_told).await;
            let expected = format!("HTTP/1.1 {status} ");
            assert!(answer.starts_with(&expected), "{bytes} to {path}, told: {is_told}: {answer}");
        }
    }

    assert_eq!(edge.origin.requests().len(), 4, "the others never came whole");
}

#[tokio::test]
async fn a_memory_may_come_with_every_character_escaped() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let longest = "\u{1}".repeat(1024 * 1024);
    let body = format!(r#"{{"content":"{}"}}"#, longest.replace('\u{1}', r"\u0001"));

    let answer = world
        .ask_as(&alice, Method::POST, "/memories")
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();

    assert_eq!(answer.status(), 200, "six bytes for each");
    assert!(world.contents(&alice).await == [longest], "it comes back as it was meant");
}

#[tokio::test]
async fn a_body_is_called_what_its_operation_takes() {
    let edge = Edge::start().await;
    let token = token(7, &[Role::User]);
    let form = Some("application/x-www-form-urlencoded");
    for (path, called, status) in [
        ("/memories", Some("application/json"), 200),
        ("/memories", Some("Application/JSON;charset=utf-8"), 200),
        ("/memories", Some("application/vnd.api+json"), 200),
        ("/memories", None, 415),
        ("/memories", form, 415),
        ("/memories", Some("text/plain"), 415),
        ("/memories", Some("text/plain; application/json"), 415),
        ("/auth/change-password", form, 415),
        ("/auth/register", form, 415),
        ("/auth/register", None, 415),
        ("/auth/login", None, 200),
        ("/auth/login", form, 200),
        ("/auth/login", Some("text/plain"), 415),
        ("/auth/login", Some("multipart/form-data; boundary=x"), 415),
    ] {
        let mut request = edge.ask(Method::POST, path).bearer_auth(&token).body("{}");
        if let Some(called) = called {
            request = request.header("content-type", called);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path} of {called:?}");
        if status == 415 {
            assert!(answer.text().await.unwrap().contains("unsupported_media_type"));
        }
    }

    let guide = edge.ask(Method::POST, "/auth/logout").bearer_auth(&token).send().await.unwrap();
    assert_eq!(guide.status(), 200, "no body is called nothing");
}

/// The answer to so many bytes, whose number is told before they come or not.
async fn upload(edge: &Edge, token: &str, path: &str, bytes: usize, is_told: bool) -> String {
    let framing = if is_told {
        format!("Content-Length: {bytes}\r\n\r\n{}", "a".repeat(bytes))
    } else {
        let body = "a".repeat(bytes);
        let chunk = |piece: &[u8]| format!("{:x}\r\n{}\r\n", piece.len(), "a".repeat(piece.len()));
        let chunks: String = body.as_bytes().chunks(1000).map(chunk).collect();
        format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
    };
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nConnection: close\r\n{framing}"
    );
    let (mut reader, mut writer) = TcpStream::connect(edge.http).await.unwrap().into_split();
    let sending = tokio::spawn(async move {
        let _ = writer.write_all(request.as_bytes()).await;
        writer
    });
    let mut heard = Vec::new();
    while let Ok(Ok(1..)) = timeout(Duration::from_secs(20), reader.read_buf(&mut heard)).await {}
    drop(sending.await);
    String::from_utf8_lossy(&heard).into_owned()
}

/// Says all of `requests` at once, and hears everything until the gateway closes.
async fn converse(world: &World, requests: &str) -> String {
    let (mut heard, mut client) = (Vec::new(), TcpStream::connect(world.http).await.unwrap());
    client.write_all(requests.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 16_384];
    // A reset after the answer is an end too.
    while let Ok(Ok(length @ 1..)) =
        timeout(Duration::from_secs(20), client.read(&mut buffer)).await
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
