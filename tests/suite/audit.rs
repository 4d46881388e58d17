//! Whatever happens is in the trail, for admins to read: who, from where, what, whose, and how it ended.

mod secrets;

use std::{
    collections::{HashMap, HashSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use harness::{JWT_SECRET, PASSWORD, Person, World, assertion_key, now, signed, until, until_some};
use memoric_contract::{
    ASSERTION_HEADER, Assertion, Caller, InternalOperation, RequestId, UserId,
    audit::{Emitter, EventType, Personal, Record, Report},
    spool::{Answer, Frames, Piece, Poisoned, batch},
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_postgres::Client as Session;
use uuid::Uuid;

#[tokio::test]
async fn a_read_is_recorded_with_who_read_whose() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let mut told = Told::default();

    told.by(
        world.ask_as(&alice, Method::GET, "/memories"),
        200,
        json!({
            "event_type": "memory.retrieved", "user_id": alice.id(), "owner_id": alice.id(),
            "resource_type": "memory", "action": "read", "operation": "recall_memories",
            "request_method": "GET", "request_path": "/memories", "ip_address": "127.0.0.1",
            "user_agent": AGENT, "credential_type": "access_token", "success": true,
            "severity": "info", "emitter": "gateway",
        }),
    )
    .await;
    told.by(
        world.ask_as(&alice, Method::GET, "/auth/me"),
        200,
        json!({
            "user_id": alice.id(), "owner_id": alice.id(), "resource_type": "user",
            "resource_id": alice.id(), "operation": "show_me",
        }),
    )
    .await;
    told.by(
        world.ask_as(&root, Method::GET, "/auth/users/alice"),
        200,
        json!({
            "user_id": root.id(), "owner_id": alice.id(), "resource_type": "user",
            "resource_id": alice.id(), "request_path": "/auth/users/{username}",
        }),
    )
    .await;
    let filtered = format!("/audit/logs?user_id={}", alice.id);
    told.by(
        world.ask_as(&root, Method::GET, &filtered),
        200,
        json!({
            "user_id": root.id(), "owner_id": alice.id(), "resource_type": "audit",
            "operation": "read_audit", "request_path": "/audit/logs",
        }),
    )
    .await;
    told.by(
        world.ask_as(&root, Method::GET, "/audit/statistics"),
        200,
        json!({
            "user_id": root.id(), "owner_id": null, "operation": "count_audit",
        }),
    )
    .await;

    told.is_all_in_the_trail(&world, &root).await;
    let raw = "SELECT string_agg(trail::text, '') FROM audit.trail AS trail";
    let raw: String = world.superuser().await.query_one(raw, &[]).await.unwrap().get(0);
    for personal in [AGENT, "127.0.0.1"] {
        assert!(!raw.contains(personal) && !raw.contains(&hex::encode(personal)), "{personal}");
    }
}

#[tokio::test]
async fn a_change_is_recorded_by_who_made_it_and_a_failure_by_who_saw_it() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let mut told = Told::default();
    let remember = || world.ask_as(&alice, Method::POST, "/memories");

    told.by(
        remember().json(&json!({"content": "x"})),
        200,
        json!({
            "event_type": "memory.created", "user_id": alice.id(), "owner_id": alice.id(),
            "resource_type": "memory", "resource_id": "1", "action": "create", "emitter": "backend",
        }),
    )
    .await;
    told.by(
        remember().json(&json!({})),
        422,
        json!({
            "user_id": alice.id(), "owner_id": alice.id(), "operation": "remember_memory",
            "success": false, "emitter": "gateway",
        }),
    )
    .await;
    let login = json!({"username": "alice", "password": PASSWORD});
    told.by(
        world.ask(Method::POST, "/auth/login").json(&login),
        200,
        json!({
            "event_type": "auth.login.success", "user_id": alice.id(), "username": "alice",
            "ip_address": "127.0.0.1", "emitter": "backend",
        }),
    )
    .await;
    let account = json!({"username": "carol", "email": "c@example.com", "password": PASSWORD});
    told.by(
        world.ask(Method::POST, "/auth/register").json(&account),
        201,
        json!({
            "event_type": "user.created", "username": "carol", "resource_type": "user",
        }),
    )
    .await;

    told.is_all_in_the_trail(&world, &root).await;
}

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

#[tokio::test]
async fn one_record_that_cannot_be_taken_does_not_keep_others_out_and_is_not_lost() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let good = report(&alice, OffsetDateTime::now_utc());
    let bad = report(&alice, time::Date::MIN.midnight().assume_utc());
    let frames = [bad.frame(), good.frame()];

    let first = deliver(&world, batch(frames.iter().map(Vec::as_slice))).await;
    let Some(Piece::Frame(refused)) = Frames::new(&frames[0]).next() else { panic!("a frame") };
    let kept = Poisoned::refused(refused.payload());
    let second = deliver(&world, batch([kept.frame().as_slice()])).await;

    assert_eq!((first.acknowledged, first.refused), (vec![good.record().id()], vec![0]));
    assert_eq!((second.acknowledged, second.refused), (vec![kept.id], vec![]));
    let errors = logs(&world, &root, "/audit/logs?event_type=system.error").await;
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["request_id"], json!(bad.record().request.to_string()));
}

#[tokio::test]
async fn nobody_but_a_gateway_writes_into_the_trail() {
    let world = World::start().await;
    let (alice, _) = people(&world).await;
    let body = batch([report(&alice, OffsetDateTime::now_utc()).frame().as_slice()]);
    let socket = reqwest::Client::builder().unix_socket(world.backend.clone()).build().unwrap();

    let unsigned = socket.post("http://backend/internal/audit").body(body.clone());
    let from_outside = world.ask_as(&alice, Method::POST, "/internal/audit").body(body);

    assert_eq!(unsigned.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(from_outside.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let rows = world.superuser().await;
    let rows = rows.query("SELECT FROM audit.trail WHERE event_type = 'memory.retrieved'", &[]);
    assert!(rows.await.unwrap().is_empty());
}

#[tokio::test]
async fn nobody_but_admins_reads_the_trail() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let people = [
        (alice.clone(), StatusCode::FORBIDDEN),
        (world.person_with("reader", &["readonly"]).await, StatusCode::FORBIDDEN),
        (world.person_with("nobody", &[]).await, StatusCode::FORBIDDEN),
        (root, StatusCode::OK),
    ];

    let own = format!("/audit/logs/user/{}", alice.id);
    for path in [
        "/audit/logs",
        &own,
        "/audit/logs/security",
        "/audit/statistics",
        "/audit/events/types",
        "/audit/severity/levels",
    ] {
        for (person, status) in &people {
            let answer = world.ask_as(person, Method::GET, path).send().await.unwrap();
            assert_eq!(answer.status(), *status, "{path} as {}", person.name);
        }
        let anonymous = world.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
}

/// What requests were answered, and what is to be in the trail of each.
#[derive(Default)]
struct Told(HashMap<String, Value>);

impl Told {
    async fn by(&mut self, request: RequestBuilder, status: u16, expected: Value) {
        let answer = request.header("user-agent", AGENT).send().await.unwrap();
        self.expect(&answer, status, expected);
    }

    fn expect(&mut self, answer: &Response, status: u16, mut expected: Value) {
        assert_eq!(answer.status(), status, "{expected}");
        expected["status_code"] = json!(status);
        self.0.insert(answer.headers()["x-request-id"].to_str().unwrap().to_owned(), expected);
    }

    /// Waits until each of them has a record.
    async fn is_recorded(&self, world: &World) {
        let superuser = world.superuser().await;
        let requests = || self.0.keys().map(String::as_str);
        let is_whole = async || recorded(&superuser, requests()).await.len() == self.0.len();
        until("all is recorded", is_whole).await;
    }

    /// Waits until each of them has a record, and sees that it is the one and says what it must.
    async fn is_all_in_the_trail(&self, world: &World, root: &Person) {
        self.is_recorded(world).await;
        let logs = logs(world, root, "/audit/logs?limit=1000").await;
        for (request, expected) in &self.0 {
            let found: Vec<_> = logs.iter().filter(|log| log["request_id"] == **request).collect();
            let [record] = found[..] else { panic!("{expected}: {found:?}") };
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!(&record[name], value, "{name} of {record}");
            }
            assert!(record["timestamp"].is_string());
        }
    }
}

trait Named {
    /// The id, as it is written in the trail.
    fn id(&self) -> String;
}

impl Named for Person {
    fn id(&self) -> String {
        self.id.to_string()
    }
}

/// A user and an admin.
async fn people(world: &World) -> (Person, Person) {
    (world.register("alice").await, world.person_with("root", &["admin"]).await)
}

/// Which of the requests have a record, read without leaving one.
async fn recorded(superuser: &Session, requests: impl Iterator<Item = &str>) -> HashSet<Uuid> {
    let ids: Vec<Uuid> = requests.map(|id| id.parse().unwrap()).collect();
    let found = "SELECT request_id FROM audit.trail WHERE request_id = ANY($1)";
    let rows = superuser.query(found, &[&ids]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn logs(world: &World, root: &Person, target: &str) -> Vec<Value> {
    let answer = world.ask_as(root, Method::GET, target).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let page: Value = answer.json().await.unwrap();
    page["logs"].as_array().unwrap().clone()
}

/// The answer to a token of the person's that was ended.
async fn revoked(world: &World, person: &Person) -> Response {
    let change = json!({"old_password": PASSWORD, "new_password": "another-horse-battery"});
    let ended = world.ask_as(person, Method::POST, "/auth/change-password").json(&change);
    assert_eq!(ended.send().await.unwrap().status(), StatusCode::OK);
    until_some("it has ended", async || {
        let answer = world.ask_as(person, Method::GET, "/auth/me").send().await.unwrap();
        (answer.status() == StatusCode::UNAUTHORIZED).then_some(answer)
    })
    .await
}

fn report(who: &Person, occurred_at: OffsetDateTime) -> Report {
    let event = EventType::MemoryRetrieved;
    let record = Record {
        subject: Some(UserId(who.id)),
        owner: Some(UserId(who.id)),
        status: Some(200),
        ..Record::new(RequestId::new(), Emitter::Gateway, event, occurred_at)
    };
    Report::new(record, None, Personal::default())
}

/// Delivers a batch as a gateway does.
async fn deliver(world: &World, body: Vec<u8>) -> Answer {
    let operation = InternalOperation::DeliverRecords;
    let assertion = Assertion {
        method: operation.method(),
        target: operation.path(),
        operation: operation.name(),
        request: RequestId::new(),
        client: Ipv4Addr::LOCALHOST.into(),
        caller: &Caller::Anonymous,
    };
    let client = reqwest::Client::builder().unix_socket(world.backend.clone()).build().unwrap();
    let answer = client
        .post(format!("http://backend{}", operation.path()))
        .header(ASSERTION_HEADER, assertion_key().sign(&assertion, now()))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    Answer::from_bytes(&answer.bytes().await.unwrap()).unwrap()
}

/// Says `bytes`, and listens until there is nothing more to hear.
async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut heard = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut heard)).await.unwrap().unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

const AGENT: &str = "suite/1";
