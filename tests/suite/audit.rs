//! Whatever happens is in the trail, for admins to read: who, from where, what, whose, and how it ended.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use harness::{
    ASSERTION_SECRET, CHECK_SECRET, DATABASE_PASSWORD, ENCRYPTION_KEY, JWT_SECRET, PASSWORD,
    Person, Recipe, Servers, World, assertion_key, now, signed, until, until_some,
};
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

#[tokio::test]
async fn no_secret_is_in_any_record_log_metric_or_file() {
    let memoric = Recipe::new()
        .await
        .set("MEMORIC_AUTH__REGISTRATION", "open")
        .set("MEMORIC_OBSERVABILITY__LOGGING__LEVEL", "TRACE")
        .start()
        .await;
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", memoric.http);
    let post = |path: &str, sent: Value| client.post(url(path)).json(&sent);
    let account = json!({
        "username": "alice", "email": "alice@example.com", "password": "Canary-password-1",
    });
    assert_eq!(status(post("/auth/register", account)).await, 201);
    let login = json!({"username": "alice", "password": "Canary-password-1"});
    let answer: Value = post("/auth/login", login).send().await.unwrap().json().await.unwrap();
    let token = answer["access_token"].as_str().unwrap().to_owned();
    let id = answer["user"]["id"].as_i64().unwrap();
    let key = json!({"name": "Key", "scopes": ["memories:read"]});
    let key = post("/auth/api-keys", key).bearer_auth(&token).send().await.unwrap();
    let key = key.json::<Value>().await.unwrap()["api_key"].as_str().unwrap().to_owned();
    let refresh = answer["refresh_token"].as_str().unwrap().to_owned();
    let device = answer["device_token"].as_str().unwrap().to_owned();
    let (mut errors, mut asked) = (String::new(), Vec::new());

    for (expected, request) in [
        (
            200,
            post(
                "/memories",
                json!({
                    "content": "Canary-content", "thread_id": "Canary-thread",
                    "metadata": {"Canary-name": "Canary-value"},
                }),
            )
            .bearer_auth(&token),
        ),
        (200, client.get(url("/memories?thread_id=Canary-thread&top_k=5")).bearer_auth(&token)),
        (422, client.get(url("/memories?top_k=Canary-number")).bearer_auth(&token)),
        (403, client.get(url("/memories?user_id=Canary-user")).bearer_auth(&token)),
        (403, client.get(url("/audit/logs?severity=Canary-severity")).bearer_auth(&token)),
        (403, client.get(url("/auth/users/Canary-name")).bearer_auth(&token)),
        (404, client.get(url("/Canary-path?Canary-query=Canary-value")).bearer_auth(&token)),
        (401, client.get(url("/memories")).bearer_auth("Canary.token.x")),
        (401, client.get(url("/memories")).bearer_auth(format!("{token}Canary-signature"))),
        (401, client.get(url("/memories")).header("x-api-key", "mk_Canary-key")),
        (200, client.get(url("/memories")).header("x-api-key", &key)),
        (401, client.get(url("/memories")).header("x-api-key", key.replace("mk_", "mk_0"))),
        (403, client.get(url("/audit/logs")).bearer_auth(&key)),
        (401, client.get(url("/memories")).bearer_auth(&refresh)),
        (401, post("/auth/refresh", json!({"refresh_token": refresh.replace("mrt_", "mrt_0")}))),
        (401, client.post(url("/auth/logout")).bearer_auth(&refresh)),
        (
            200,
            client
                .get(url("/memories"))
                .header("cookie", "session=Canary-cookie")
                .bearer_auth(&token),
        ),
        (401, client.get(url("/memories")).header("authorization", "Basic Canary-basic")),
        (
            422,
            post("/memories", json!({"content": 7, "Canary-field": "Canary-value"}))
                .bearer_auth(&token),
        ),
        (415, client.post(url("/memories")).body("Canary-body").bearer_auth(&token)),
        (
            401,
            post(
                "/auth/login",
                json!({"username": "Canary-typed-name", "password": "Canary-typed"}),
            ),
        ),
        (401, post("/auth/login", json!({"username": "alice", "password": "Canary-wrong"}))),
        (
            401,
            post(
                "/auth/login",
                json!({"username": "alice", "password": "Canary-wrong", "device_token": device}),
            ),
        ),
        (
            400,
            post(
                "/auth/reset-password",
                json!({"token": "mpr_Canary", "new_password": "Canary-new"}),
            ),
        ),
        (
            422,
            post("/auth/register", json!({"username": "Canary name", "password": "Canary-short"})),
        ),
        (
            400,
            post(
                "/auth/change-password",
                json!({"old_password": "Canary-wrong", "new_password": "Canary-password-2"}),
            )
            .bearer_auth(&token),
        ),
        (
            200,
            client
                .get(url("/memories"))
                .header("origin", "https://Canary-origin")
                .bearer_auth(&token),
        ),
    ] {
        let answer = request.send().await.unwrap();
        let (status, about) = (answer.status().as_u16(), answer.url().clone());
        asked.push(answer.headers()["x-request-id"].to_str().unwrap().to_owned());
        let told = format!("{:?} {}", answer.headers().clone(), answer.text().await.unwrap());
        assert_eq!(status, expected, "{about}: {told}");
        errors += if status == 200 { "" } else { &told };
    }
    let superuser = Servers::get().await.superuser(&memoric.database).await;
    let role = "UPDATE memoric.users SET roles = '{admin}' WHERE id = $1";
    superuser.execute(role, &[&id]).await.unwrap();
    let login = json!({"username": "alice", "password": "Canary-password-1"});
    let root: Value = post("/auth/login", login).send().await.unwrap().json().await.unwrap();
    let root = root["access_token"].as_str().unwrap().to_owned();
    let given = json!({"username": "carol", "email": "carol@example.com"});
    let given = post("/users", given).bearer_auth(&root).send().await.unwrap();
    let given = given.json::<Value>().await.unwrap()["reset_token"].as_str().unwrap().to_owned();
    let choice = json!({"token": given, "new_password": "Canary-password-3"});
    assert_eq!(status(post("/auth/reset-password", choice)).await, 200);
    let secrets = [
        "canary",
        token.rsplit('.').next().unwrap(),
        &key[key.len() - 40..],
        &refresh[refresh.len() - 40..],
        &device[device.len() - 40..],
        &given[given.len() - 40..],
        JWT_SECRET,
        ASSERTION_SECRET,
        CHECK_SECRET,
        ENCRYPTION_KEY,
        DATABASE_PASSWORD,
    ];
    until("all is recorded", async || {
        recorded(&superuser, asked.iter().map(String::as_str)).await.len() == asked.len()
    })
    .await;
    let logs = client.get(url("/audit/logs?limit=1000")).bearer_auth(&root);
    let logs = logs.send().await.unwrap().text().await.unwrap();
    assert!(asked.iter().all(|request| logs.contains(request)), "{logs}");

    let metrics = async |name| {
        let url = format!("http://{}/metrics", memoric.value(name));
        reqwest::get(url).await.unwrap().text().await.unwrap()
    };
    let dumped =
        "SELECT trail::text FROM audit.trail UNION ALL SELECT users::text FROM memoric.users
                  UNION ALL SELECT sessions::text FROM memoric.sessions
                  UNION ALL SELECT api_keys::text FROM memoric.api_keys
                  UNION ALL SELECT password_resets::text FROM memoric.password_resets";
    let rows = superuser.query(dumped, &[]).await.unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let places = [
        ("the records", logs),
        ("the tables", rows.concat()),
        ("the answers", errors),
        ("the gateway's log", memoric.gateway.stdout() + &memoric.gateway.stderr()),
        ("the backend's log", memoric.backend.stdout() + &memoric.backend.stderr()),
        ("the gateway's metrics", metrics("MEMORIC_GATEWAY_METRICS").await),
        ("the backend's metrics", metrics("MEMORIC_BACKEND_METRICS").await),
        ("the gateway's spool", contents(&memoric.folder().join("spool"))),
    ];
    for (place, told) in places {
        assert!(!told.is_empty(), "{place}");
        for secret in secrets {
            for spelt in [secret.to_owned(), hex::encode(secret), hex::encode(capital(secret))] {
                let found = told.to_lowercase().find(&spelt.to_lowercase());
                let around = found.map(|at| excerpt(&told, at));
                assert_eq!(around, None, "{secret} in {place}");
            }
        }
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

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// All that is in a folder's files.
fn contents(folder: &Path) -> String {
    let mut folders = vec![PathBuf::from(folder)];
    let mut whole = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => whole.extend(fs::read(entry.path()).unwrap_or_default()),
            }
        }
    }
    String::from_utf8_lossy(&whole).into_owned()
}

fn capital(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

fn excerpt(text: &str, at: usize) -> String {
    let lower = text.to_lowercase();
    String::from_utf8_lossy(&lower.as_bytes()[at.saturating_sub(200)..lower.len().min(at + 100)])
        .into_owned()
}

const AGENT: &str = "suite/1";
