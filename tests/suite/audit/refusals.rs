//! Whoever is refused is on record too.

use std::{net::SocketAddr, time::Duration};

use harness::{JWT_SECRET, signed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::*;

#[tokio::test]
async fn whatever_is_refused_is_recorded() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let bob = world.register("bob").await;
    let reader = world.person_with("reader", &["readonly"]).await;
    let mut told = Told::default();
    let denied = |who: &Person| {
        json!({
            "event_type": "authz.access.denied", "severity": "warning", "user_id": who.id(),
            "success": false, "ip_address": "127.0.0.1",
        })
    };
    let with = |mut expected: Value, more: Value| {
        expected.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        expected
    };

    let anothers = format!("/memories?user_id={}", alice.id);
    told.by(
        world.ask_as(&bob, Method::GET, &anothers),
        403,
        with(denied(&bob), json!({"owner_id": alice.id(), "resource_type": "memory"})),
    )
    .await;
    told.by(
        world.ask_as(&bob, Method::GET, "/auth/users/alice"),
        403,
        with(denied(&bob), json!({"resource_type": "user", "emitter": "backend"})),
    )
    .await;
    told.by(
        world.ask_as(&bob, Method::POST, "/policies/run"),
        403,
        with(denied(&bob), json!({"resource_type": "policy", "operation": "run_policies"})),
    )
    .await;
    told.by(
        world.ask_as(&bob, Method::GET, "/audit/logs"),
        403,
        with(denied(&bob), json!({"resource_type": "audit"})),
    )
    .await;
    told.by(
        world.ask_as(&reader, Method::POST, "/memories").json(&json!({"content": "x"})),
        403,
        with(denied(&reader), json!({"operation": "remember_memory"})),
    )
    .await;
    told.by(
        world.ask_as(&bob, Method::POST, "/memories").header("origin", "https://evil.example"),
        403,
        json!({"event_type": "authz.access.denied", "operation": "remember_memory"}),
    )
    .await;
    told.by(
        world.ask_as(&bob, Method::GET, "/nowhere"),
        404,
        json!({
            "event_type": "security.suspicious.activity", "operation": null, "request_path": null,
        }),
    )
    .await;

    told.is_all_in_the_trail(&world, &root).await;
}

#[tokio::test]
async fn whoever_does_not_get_in_is_recorded() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let mut told = Told::default();
    let login = |name: &str| {
        let sent = json!({"username": name, "password": "not-the-password"});
        world.ask(Method::POST, "/auth/login").json(&sent)
    };
    let read = |token: &str| world.ask(Method::GET, "/memories").bearer_auth(token);
    let stranger = json!({
        "user_id": null, "credential_id": null, "ip_address": "127.0.0.1", "success": false,
        "severity": "warning", "emitter": "gateway", "event_type": "auth.token.invalid",
    });
    let and = |event: &str| {
        let mut expected = stranger.clone();
        expected["event_type"] = json!(event);
        expected
    };

    told.by(
        login("alice"),
        401,
        json!({
            "event_type": "auth.login.failed", "user_id": null, "owner_id": alice.id(),
            "username": "alice", "ip_address": "127.0.0.1", "emitter": "backend",
        }),
    )
    .await;
    told.by(
        login("nobody"),
        401,
        json!({
            "event_type": "auth.login.failed", "owner_id": null, "username": null,
        }),
    )
    .await;
    let missing = world.ask(Method::GET, "/memories");
    told.by(missing, 401, and("authz.access.denied")).await;
    told.by(read("a.b.c"), 401, stranger.clone()).await;
    told.by(read(&signed(&alice, &[b'x'; 64], 3600)), 401, stranger.clone()).await;
    told.by(read(&alice.token).header("x-api-key", "mk_x"), 400, stranger.clone()).await;
    told.by(
        read(&signed(&alice, JWT_SECRET.as_bytes(), -3600)),
        401,
        json!({
            "event_type": "auth.token.expired", "user_id": alice.id(), "success": false,
            "credential_type": "access_token", "ip_address": "127.0.0.1",
        }),
    )
    .await;
    let revoked = revoked(&world, &alice).await;
    told.expect(
        &revoked,
        401,
        json!({
            "event_type": "auth.token.invalid", "user_id": alice.id(), "success": false,
            "credential_type": "access_token",
        }),
    );

    told.is_all_in_the_trail(&world, &root).await;
}

#[tokio::test]
async fn whoever_asks_too_often_is_recorded() {
    let world = World::with(|settings| {
        let quota = &mut settings.gateway.limits.identity;
        (quota.per_second, quota.burst) = (0.01, 5);
    })
    .start()
    .await;
    let (alice, root) = people(&world).await;
    let mut told = Told::default();

    let answer = until_some("she is put off", async || {
        let answer = world.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
        (answer.status() == StatusCode::TOO_MANY_REQUESTS).then_some(answer)
    })
    .await;
    told.expect(
        &answer,
        429,
        json!({
            "event_type": "security.rate_limit.exceeded", "user_id": alice.id(),
            "operation": "recall_memories", "ip_address": "127.0.0.1", "success": false,
        }),
    );

    told.is_all_in_the_trail(&world, &root).await;
}

#[tokio::test]
async fn what_was_never_a_request_is_recorded_all_the_same() {
    let world = World::start().await;
    let (_, root) = people(&world).await;

    talk(world.http, b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n").await;

    let suspicious = "/audit/logs?event_type=security.suspicious.activity";
    until("it is recorded", async || logs(&world, &root, suspicious).await.len() == 1).await;
    let record = logs(&world, &root, suspicious).await.remove(0);
    assert_eq!(record["ip_address"], "127.0.0.1");
    assert_eq!((&record["operation"], &record["user_id"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn what_a_client_calls_itself_cannot_spoil_a_record() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let agents: [&[u8]; 4] =
        [b"\xff\xfe\xed\xa0\x80", b"tab\there", &[0xc3; 2_000], "\u{202e}\u{1f4a3}".as_bytes()];

    for agent in agents {
        let head = format!(
            "GET /memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\nUser-Agent: ",
            alice.token
        );
        let answer = talk(world.http, &[head.as_bytes(), agent, b"\r\n\r\n"].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let login = json!({"username": "alice", "password": PASSWORD}).to_string();
        let head = format!(
            "POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\nUser-Agent: ",
            login.len()
        );
        let login = [head.as_bytes(), agent, b"\r\n\r\n", login.as_bytes()].concat();
        let answer = talk(world.http, &login).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }

    let of_alice = format!("/audit/logs?event_type=memory.retrieved&user_id={}", alice.id);
    until("each is recorded", async || logs(&world, &root, &of_alice).await.len() == agents.len())
        .await;
    for record in logs(&world, &root, &of_alice).await {
        let agent = record["user_agent"].as_str().unwrap();
        assert!(agent.chars().count() <= 500 && !agent.contains(char::is_control), "{agent:?}");
    }
    let by_backend =
        format!("/audit/logs?event_type=auth.login.success&limit=4&user_id={}", alice.id);
    let mut told = [by_backend, of_alice].map(|query| (query, Vec::new()));
    for (query, agents) in &mut told {
        let records = logs(&world, &root, query).await;
        agents.extend(records.iter().map(|record| record["user_agent"].to_string()));
        agents.sort();
    }
    assert_eq!(told[0].1, told[1].1, "whoever writes it down, it is written the same");
}

/// Says `bytes`, and listens until there is nothing more to hear.
async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut heard = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut heard)).await.unwrap().unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}
