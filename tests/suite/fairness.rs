//! Nobody can take up so much that others find no room.

use std::time::Duration;

use harness::{
    Edge, Recipe, Upload, World,
    http2::{Http2, Outcome},
    token, until,
};
use memoric_config::schema::{InFlight, Seconds};
use memoric_contract::Role;
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
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

    let mut held = vec![
        Upload::begin(world.http, &alice.token).await,
        Upload::begin(world.http, &alice.token).await,
    ];
    let third = world.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
    refused(third, StatusCode::TOO_MANY_REQUESTS, "too_many_in_flight").await;
    assert!(world.recall(&bob).await.is_empty(), "bob has room of his own");

    for person in [&bob, &bob, &carol, &carol] {
        held.push(Upload::begin(world.http, &person.token).await);
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

#[tokio::test]
async fn a_body_that_drips_is_refused_in_words() {
    let edge = slow_edge().await;
    let token = token(7, &[Role::User]);
    let mut client = TcpStream::connect(edge.http).await.unwrap();
    client.write_all(post(&token, 1000).as_bytes()).await.unwrap();
    let (mut reader, mut writer) = client.into_split();
    let drip = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });

    let mut answer = String::new();
    timeout(SOON, reader.read_to_string(&mut answer)).await.expect("cut by then").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("body_timeout"), "{answer}");
    drip.await.unwrap();

    let mut http2 = Http2::connect(&edge).await;
    http2.remember(1, &token, Some(1000)).await;
    for _ in 0..30 {
        http2.part(1, b"x", false).await;
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(http2.outcome(1).await, Outcome::Answered(408));
    assert!(edge.origin.requests().is_empty(), "neither arrived whole");
}

#[tokio::test]
async fn a_body_that_never_comes_is_cut_off() {
    let edge = slow_edge().await;
    let token = token(7, &[Role::User]);
    let began = Instant::now();
    let mut client = TcpStream::connect(edge.http).await.unwrap();
    client.write_all(post(&token, 1000).as_bytes()).await.unwrap();
    let mut http2 = Http2::connect(&edge).await;
    http2.remember(1, &token, None).await;

    let read = timeout(SOON, client.read(&mut [0; 16])).await.expect("cut by then");
    assert_eq!(read.unwrap_or(0), 0);
    assert!(matches!(http2.outcome(1).await, Outcome::Reset(_)));
    assert!(began.elapsed() > Duration::from_secs(2), "not before its time");

    http2.remember(3, &token, None).await;
    http2.part(3, b"{}", true).await;
    assert_eq!(http2.outcome(3).await, Outcome::Answered(200), "the connection lives on");
}

#[tokio::test]
async fn a_body_that_comes_steadily_may_take_its_time() {
    let edge = slow_edge().await;
    let (mut client, mut unsent) = (TcpStream::connect(edge.http).await.unwrap(), 4000);
    let began = Instant::now();
    client.write_all(post(&token(7, &[Role::User]), unsent).as_bytes()).await.unwrap();

    while unsent > 0 {
        sleep(Duration::from_millis(80)).await;
        // A little more than is asked for, however late it is.
        let due = usize::try_from(began.elapsed().as_millis() * 5 / 4).unwrap();
        let piece = due.saturating_sub(4000 - unsent).min(unsent);
        client.write_all(&vec![b'x'; piece]).await.unwrap();
        unsent -= piece;
    }
    assert!(began.elapsed() > Duration::from_secs(3), "longer than a body may keep quiet");

    let mut answer = [0; 4096];
    let length = timeout(SOON, client.read(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_gateway_goes_on_whose_log_nobody_reads() {
    let recipe = Recipe::new().await.set("MEMORIC_GATEWAY__THREADS", "1");
    let http = format!("http://{}/health", recipe.value("MEMORIC_HTTP"));
    let gateway = recipe.program("memoric-gateway").args(["serve"]);
    let gateway = gateway.output(std::process::Stdio::piped()).start();
    let client = reqwest::Client::new();
    until("it listens", async || client.get(&http).send().await.is_ok()).await;

    // Each is a line of a few hundred bytes, and a pipe holds 64 KiB.
    for request in 0..400 {
        let answer = timeout(SOON, client.get(&http).send()).await;
        let answer = answer.unwrap_or_else(|_| panic!("it stands still at request {request}"));
        answer.unwrap();
    }

    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(gateway.wait(SOON).status.code(), Some(0), "nor does it wait at its end");
}

/// A gateway that wants a body within two seconds, and 1000 bytes of it in every further one.
async fn slow_edge() -> Edge {
    Edge::with(|settings| {
        settings.gateway.timeouts.body = Seconds::whole(2);
        settings.gateway.bounds.body_rate = 1000;
    })
    .await
}

fn post(token: &str, length: usize) -> String {
    format!(
        "POST /memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Long after whatever is late is cut off, and long before anything else is.
const SOON: Duration = Duration::from_secs(20);

async fn refused(answer: Response, status: StatusCode, code: &str) {
    assert_eq!(answer.status(), status);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], code);
}
