//! A process that is told to stop finishes what it began, and leaves nothing behind.

use std::time::{Duration, Instant};

use harness::{Recipe, Upload, World, until};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

#[tokio::test]
async fn sigterm_ends_both_programs_cleanly() {
    for signal in [Signal::TERM, Signal::INT] {
        let memoric = Recipe::new().await.start().await;
        let socket = memoric.folder().join("backend.sock");
        assert!(socket.exists());
        for process in [memoric.gateway, memoric.backend] {
            process.signal(signal);
            let output = process.wait(SOON);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{signal:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        assert!(!socket.exists(), "the socket is taken away");
    }
}

#[tokio::test]
async fn a_stopping_gateway_finishes_what_it_began() {
    let mut world = World::start().await;
    let alice = world.register("alice").await;
    let (upload, http) = (Upload::begin(world.http, &alice.token).await, world.http);

    let (answer, ()) = tokio::join!(
        async {
            let is_stopping = async || TcpStream::connect(http).await.is_err();
            until("nobody listens", is_stopping).await;
            upload.end().await
        },
        world.stop_gateway()
    );

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_a_stopping_gateway() {
    let mut world = World::start().await;
    let mut idle = TcpStream::connect(world.http).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(idle.read(&mut [0; 4096]).await.unwrap() > 0);
    world.ask(reqwest::Method::GET, "/health").send().await.unwrap();

    let began = Instant::now();
    world.stop_gateway().await;

    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(
        timeout(SOON, idle.read(&mut [0; 16])).await.unwrap().unwrap_or(0),
        0,
        "it is closed"
    );
    // Once in a while the kernel connects one to itself.
    until("nobody listens", async || TcpStream::connect(world.http).await.is_err()).await;
}

#[tokio::test]
async fn a_backend_that_was_killed_is_started_again_at_the_same_place() {
    let recipe = Recipe::new().await;
    let first = recipe.program("memoric-backend").args(["serve"]).start();
    let socket = recipe.folder().join("backend.sock");
    until("it listens", async || socket.exists()).await;
    first.signal(Signal::KILL);
    first.wait(SOON);
    assert!(socket.exists(), "it could not tidy up");

    let memoric = recipe.start().await;

    assert!(
        reqwest::get(format!("http://{}/ready", memoric.http)).await.unwrap().status().is_success()
    );
}

#[tokio::test]
async fn a_second_backend_does_not_take_the_socket_of_the_first() {
    let recipe = Recipe::new().await;
    let socket = recipe.folder().join("backend.sock");
    let mut first = recipe.program("memoric-backend").args(["serve"]).start();
    until("it listens", async || socket.exists()).await;

    let second = recipe
        .program("memoric-backend")
        .env("MEMORIC_BACKEND_METRICS", "127.0.0.1:0")
        .args(["serve"])
        .run();

    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("backend.sock"));
    assert!(first.is_running() && socket.exists());
}

/// Before the grace is over that requests in flight have to end in, however busy the machine is.
const SOON: Duration = Duration::from_secs(20);
