//! Memories, as clients keep and recall them over the wire.

use std::net::SocketAddr;

use harness::World;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test]
async fn as_many_memories_come_as_are_asked_for() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    for number in 0..25 {
        world.remember(&alice, json!({"content": number.to_string()})).await;
    }
    let recall = async |query: &str| {
        let asked = world.ask_as(&alice, Method::GET, &format!("/memories{query}"));
        let answer = asked.send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };

    for (query, count) in [("", 20), ("?top_k=0", 10), ("?top_k=3", 3), ("?top_k=1000", 25)] {
        let (status, found) = recall(query).await;
        assert_eq!((status, found.as_array().unwrap().len()), (StatusCode::OK, count), "{query}");
    }
    for query in ["?top_k=1001", "?top_k=-1", "?top_k=1.5", "?top_k=many"] {
        let (status, problem) = recall(query).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        assert_eq!(problem["errors"][0]["field"], "top_k", "{query}");
    }
}

#[tokio::test]
async fn a_bad_memory_is_named_stores_nothing_and_leaves_the_connection_usable() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let mut client = Client::connect(world.http, &alice.token).await;
    let bad = [
        (r#"{}"#, "content"),
        (r#"{"content": 7}"#, "content"),
        (r#"{"content": "a\u0000b"}"#, "content"),
        (r#"{"content": "x", "metadata": "none"}"#, "metadata"),
        (r#"{"content": "x", "thread_id": ["t"]}"#, "thread_id"),
    ];

    for (body, field) in bad {
        let (status, problem) = client.post("/memories", body).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!(field)), "{body}");
    }
    for body in ["", "not JSON", r#"{"content": "half"#, r#"{"content": "\ud800"}"#] {
        let (status, problem) = client.post("/memories", body).await;
        assert_eq!(status, 422, "{body}: {problem}");
    }

    assert!(world.recall(&alice).await.is_empty());
    assert_eq!(client.post("/memories", r#"{"content": "good"}"#).await.0, 200);
    assert_eq!(world.contents(&alice).await, ["good"]);
}

/// One connection, kept for everything that is asked.
struct Client {
    stream: TcpStream,
    token: String,
}

impl Client {
    async fn connect(address: SocketAddr, token: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), token: token.to_owned() }
    }

    async fn post(&mut self, path: &str, body: &str) -> (u16, Value) {
        let Self { stream, token } = self;
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
        let mut heard = Vec::new();
        loop {
            assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "it is closed: {body}");
            if let Some(answer) = whole(&heard) {
                return answer;
            }
        }
    }
}

/// The status and the body of an answer, once all of it is there.
fn whole(heard: &[u8]) -> Option<(u16, Value)> {
    let text = std::str::from_utf8(heard).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let head = head.to_lowercase();
    let length = head.split_once("content-length: ")?.1.split("\r\n").next()?;
    let is_whole = body.len() == length.parse::<usize>().ok()?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    is_whole.then(|| (status, serde_json::from_str(body).unwrap()))
}
