//! Nobody can take up so much that others find no room.

use std::time::Duration;

use harness::{Person, World};
use memoric_config::schema::InFlight;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

#[tokio::test]
async fn requests_that_do_not_end_take_no_more_than_their_share() {
    let world = World::with(|settings| {
        settings.gateway.in_flight = InFlight { total: 6, per_address: 6, per_identity: 2 };
    })
    .start()
    .await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let (carol, dave) = (world.register("carol").await, world.register("dave").await);

    let mut held = vec![Upload::begin(&world, &alice).await, Upload::begin(&world, &alice).await];
    let third = world.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
    refused(third, StatusCode::TOO_MANY_REQUESTS, "too_many_in_flight").await;
    assert!(world.recall(&bob).await.is_empty(), "bob has room of his own");

    for person in [&bob, &bob, &carol, &carol] {
        held.push(Upload::begin(&world, person).await);
    }
    let seventh = world.ask_as(&dave, Method::GET, "/memories").send().await.unwrap();
    refused(seventh, StatusCode::SERVICE_UNAVAILABLE, "overloaded").await;
    let ready = world.ask(Method::GET, "/ready").send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::OK, "which is no reason to be restarted");

    for upload in held {
        assert!(upload.end().await.starts_with("HTTP/1.1 200"), "what was begun is finished");
    }
    assert_eq!(world.contents(&alice).await, ["x", "x"], "and there is room again");
}

/// A memory that is being sent, but for its last byte.
struct Upload(TcpStream);

impl Upload {
    /// Begins, and waits until the gateway has asked for the body.
    async fn begin(world: &World, person: &Person) -> Self {
        let mut client = TcpStream::connect(world.http).await.unwrap();
        let head = format!(
            "POST /memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 15\r\nExpect: 100-continue\r\n\r\n",
            person.token
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let mut upload = Self(client);
        assert!(upload.hear().await.starts_with("HTTP/1.1 100"), "it is wanted");
        upload.0.write_all(br#"{"content":"x""#).await.unwrap();
        upload
    }

    /// Sends the last byte, and returns the answer.
    async fn end(mut self) -> String {
        self.0.write_all(b"}").await.unwrap();
        self.hear().await
    }

    async fn hear(&mut self) -> String {
        let mut heard = vec![0; 4096];
        let read = timeout(Duration::from_secs(20), self.0.read(&mut heard));
        let length = read.await.expect("an answer in time").unwrap();
        String::from_utf8_lossy(&heard[..length]).into_owned()
    }
}

async fn refused(answer: Response, status: StatusCode, code: &str) {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], code);
}
