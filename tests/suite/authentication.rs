//! Who gets in: with a password, with a token, and not otherwise.

use harness::{
    Answer, Edge, JWT_SECRET, PASSWORD, Person, Upload, World,
    http2::{Http2, Outcome},
    now, token, until,
};
use memoric_contract::{
    Role, UserId,
    revocation::{Revocation, Revoked},
    token::{Claims, ISSUER, TokenKeys, TokenSigner},
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use uuid::Uuid;

#[tokio::test]
async fn a_request_without_a_credential_is_refused_as_rfc_6750_says() {
    let world = World::start().await;

    let answer = world.ask(Method::GET, "/memories").send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let challenge = answer.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert!(challenge.starts_with("Bearer") && !challenge.contains("error="), "{challenge}");
    let problem = problem(answer).await;
    assert_eq!(problem["status"], 401);
    assert_eq!(problem["code"], "unauthenticated");
}

#[tokio::test]
async fn a_password_is_traded_for_a_token_that_opens_ones_own_memories() {
    let world = World::start().await;
    let alice = world.register("alice").await;

    let me: Value =
        json_of(world.ask_as(&alice, Method::GET, "/auth/me").send().await.unwrap()).await;

    assert_eq!(me["username"], "alice");
    assert_eq!(me["roles"], json!(["user"]));
    assert!(world.recall(&alice).await.is_empty());
}

#[tokio::test]
async fn a_login_answers_as_existing_clients_expect() {
    let world = World::start().await;
    world.register("alice").await;

    let answer: Value = json_of(world.try_log_in("alice@example.com", PASSWORD).await).await;

    assert_eq!(answer["token_type"], "bearer");
    assert_eq!(answer["expires_in"], 3600);
    let user = answer["user"].as_object().unwrap();
    let names: Vec<_> = user.keys().map(String::as_str).collect();
    let expected = [
        "id",
        "username",
        "email",
        "full_name",
        "namespace",
        "roles",
        "is_active",
        "is_verified",
        "created_at",
        "updated_at",
        "last_login_at",
        "metadata",
    ];
    assert_eq!(names, expected);
    assert!(user["last_login_at"].is_string(), "the login before this one");
    let claims = TokenKeys::hs256(JWT_SECRET.as_bytes())
        .verify(answer["access_token"].as_str().unwrap(), now())
        .unwrap();
    assert_eq!(claims.sub, user["id"].to_string());
}

#[tokio::test]
async fn two_logins_in_one_second_are_two_tokens() {
    let world = World::start().await;
    let first = world.register("alice").await;
    let second = world.log_in("alice").await;

    assert_ne!(first.token, second.token);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_get_the_same_answer() {
    let world = World::start().await;
    world.register("alice").await;

    let mut answers = Vec::new();
    for (name, password) in
        [("alice", "not-the-password"), ("nobody", PASSWORD), ("nobody@example.com", PASSWORD)]
    {
        let answer = world.try_log_in(name, password).await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let mut problem = problem(answer).await;
        problem.as_object_mut().unwrap().remove("request_id");
        answers.push(problem);
    }

    assert_eq!(answers[0]["detail"], "Invalid credentials", "the guide's sentence");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn the_backend_believes_nobody_but_the_gateway() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let origin = "http://backend/memories";
    let client = reqwest::Client::builder().unix_socket(world.backend.clone()).build().unwrap();

    for assertion in ["", "AAAA", "AQ.AQ"] {
        let answer = client
            .get(origin)
            .bearer_auth(&alice.token)
            .header("x-memoric-assertion", assertion)
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED, "{assertion:?}");
    }
    let answer =
        client.get(origin).bearer_auth(&alice.token).header("x-user-id", "1").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "none at all");
}

#[tokio::test]
async fn a_client_cannot_bring_its_own_assertion() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    world.remember(&alice, json!({"content": "mine"})).await;

    for name in ["x-memoric-assertion", "X_Memoric_Assertion", "x-user-id", "X-Forwarded-User"] {
        let answer = world
            .ask_as(&bob, Method::GET, "/memories")
            .header(name, alice.id.to_string())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{name} is not looked at");
        assert_eq!(answer.json::<Value>().await.unwrap(), json!([]), "{name}");
    }
}

#[tokio::test]
async fn only_a_token_of_ours_gets_in() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let [header, claims, signature] =
        alice.token.split('.').collect::<Vec<_>>().try_into().unwrap();
    let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let foreign = TokenSigner::hs256(&[b'x'; 64]).sign(&claims_of(&alice)).unwrap();

    let hostile = [
        "x".to_owned(),
        format!("{none}.{claims}."),
        format!("{none}.{claims}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}.{signature}="),
        format!("{header}..{signature}"),
        foreign,
        "a".repeat(5000),
    ];

    for token in hostile {
        let answer = world.ask(Method::GET, "/auth/me").bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{token}");
        assert!(
            answer.headers()["www-authenticate"].to_str().unwrap().contains("invalid_token"),
            "{token}"
        );
        assert_eq!(problem(answer).await["detail"], "Invalid credentials");
    }
}

#[tokio::test]
async fn an_expired_token_is_called_expired() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let claims = Claims { iat: now() - 7200, exp: now() - 3600, ..claims_of(&alice) };
    let token = TokenSigner::hs256(JWT_SECRET.as_bytes()).sign(&claims).unwrap();

    let answer = world.ask(Method::GET, "/memories").bearer_auth(token).send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(problem(answer).await["detail"], "Token expired", "the guide's sentence");
}

#[tokio::test]
async fn two_credentials_are_an_attack_and_not_a_choice() {
    let world = World::start().await;
    let alice = world.register("alice").await;

    let twice = world
        .ask_as(&alice, Method::GET, "/memories")
        .bearer_auth(&alice.token)
        .send()
        .await
        .unwrap();
    let both = world
        .ask_as(&alice, Method::GET, "/memories")
        .header("x-api-key", "mk_x")
        .send()
        .await
        .unwrap();

    assert_eq!(twice.status(), StatusCode::BAD_REQUEST);
    assert_eq!(both.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_changed_password_ends_every_token_and_session() {
    let world = World::start().await;
    let (phone, laptop) = (world.register("alice").await, world.log_in("alice").await);
    assert!(world.recall(&phone).await.is_empty(), "the token is known to the gateway's cache");

    let change = json!({"old_password": PASSWORD, "new_password": "another-horse-battery"});
    let answer = world
        .ask_as(&laptop, Method::POST, "/auth/change-password")
        .json(&change)
        .send()
        .await
        .unwrap();

    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(json_of(answer).await["message"], "Password changed successfully");
    for person in [&phone, &laptop] {
        eventually_refused(&world, person).await;
    }
    assert_eq!(world.try_log_in("alice", PASSWORD).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(world.try_log_in("alice", "another-horse-battery").await.status(), StatusCode::OK);
    let open: i64 =
        count(&world, "SELECT count(*) FROM memoric.sessions WHERE ended_at IS NULL").await;
    assert_eq!(open, 1, "the new login's");
}

#[tokio::test]
async fn a_password_is_not_changed_without_the_old_one() {
    let world = World::start().await;
    let alice = world.register("alice").await;

    let change =
        json!({"old_password": "not-the-password", "new_password": "another-horse-battery"});
    let answer = world
        .ask_as(&alice, Method::POST, "/auth/change-password")
        .json(&change)
        .send()
        .await
        .unwrap();

    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        problem(answer).await["detail"],
        "Password change failed. Check your current password."
    );
    assert!(world.recall(&alice).await.is_empty(), "the token lives on");
}

#[tokio::test]
async fn a_revocation_reaches_the_gateway_without_redis() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    assert!(world.recall(&alice).await.is_empty());

    insert_revocation(
        &world,
        &Revocation {
            user: UserId(alice.id),
            revoked: Revoked::Before(2),
            expires_at: now() + 3600,
        },
    )
    .await;

    eventually_refused(&world, &alice).await;
}

#[tokio::test]
async fn the_gateway_that_carried_a_revocation_knows_of_it_at_once() {
    let edge = Edge::start().await;
    let (alice, bob) = (token(7, &[Role::User]), token(8, &[Role::User]));
    let ended =
        Revocation { user: UserId(7), revoked: Revoked::Before(2), expires_at: now() + 3600 };
    // Neither Redis nor the feed has any news.
    edge.origin.answer_with(move |request| match request.path() {
        "/auth/change-password" => {
            let revoked = ended.message();
            format!("HTTP/1.1 200 OK\r\nx-memoric-revoked: {revoked}\r\ncontent-length: 0\r\n\r\n")
                .into_bytes()
        }
        _ => Answer::json(&json!([])),
    });
    let recall = async |token: &str| {
        edge.ask(Method::GET, "/memories").bearer_auth(token).send().await.unwrap().status()
    };
    assert_eq!(recall(&alice).await, StatusCode::OK);

    let change = edge.ask(Method::POST, "/auth/change-password").bearer_auth(&alice);
    let changed = change.json(&json!({})).send().await.unwrap();

    assert_eq!(changed.status(), StatusCode::OK);
    assert!(!changed.headers().contains_key("x-memoric-revoked"), "it is for the gateway alone");
    assert_eq!(recall(&alice).await, StatusCode::UNAUTHORIZED);
    assert_eq!(recall(&bob).await, StatusCode::OK, "and of nobody else");
}

#[tokio::test]
async fn what_a_revocation_finds_half_said_is_not_done() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let upload = Upload::begin(world.http, &alice.token).await;
    let mut http2 = Http2::connect_to(world.https, &world.certificate).await;
    http2.remember(1, &alice.token, Some(15)).await;
    http2.part(1, br#"{"content":"x""#, false).await;

    insert_revocation(
        &world,
        &Revocation {
            user: UserId(alice.id),
            revoked: Revoked::Before(2),
            expires_at: now() + 3600,
        },
    )
    .await;
    eventually_refused(&world, &alice).await;

    let answer = upload.end().await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    // The stream is left open: the backend would not wait for its end.
    http2.part(1, b"}", false).await;
    assert_eq!(http2.outcome(1).await, Outcome::Answered(401));
    assert_eq!(count(&world, "SELECT count(*) FROM memoric.memories").await, 0);
}

#[tokio::test]
async fn a_token_that_ends_in_the_middle_of_a_request_is_not_good_for_the_rest() {
    let edge = Edge::start().await;
    let alice = Person { id: 7, name: "alice".to_owned(), token: String::new() };
    let claims = Claims { exp: now() + 4, ..claims_of(&alice) };
    let token = TokenSigner::hs256(JWT_SECRET.as_bytes()).sign(&claims).unwrap();
    let upload = Upload::begin(edge.http, &token).await;

    until("it has ended", async || now() > claims.exp).await;
    let answer = upload.end().await;

    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert!(answer.contains("Token expired"), "{answer}");
    assert!(edge.origin.requests().is_empty(), "nothing has been asked");
}

#[tokio::test]
async fn a_gateway_that_cannot_learn_of_revocations_lets_nobody_in() {
    let mut world = World::start().await;
    let alice = world.register("alice").await;
    assert!(world.recall(&alice).await.is_empty());

    world.stop_backend().await;

    until("it says why", async || {
        let answer = world.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
        assert!(answer.status().is_server_error(), "{}", answer.status());
        problem(answer).await["code"] == "revocation_unavailable"
    })
    .await;
}

#[tokio::test]
async fn a_bcrypt_hash_of_the_python_server_logs_in_once_and_is_argon2_after() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    // python: bcrypt.hashpw(b"SecurePass123", bcrypt.gensalt(4))
    let hash = "$2b$04$UNp9QzZD/Ow7vENR8ropY.fU7OQWiPl9DnfRj3Lc16/udZOsJpYYa";
    let superuser = world.superuser().await;
    superuser
        .execute("UPDATE memoric.users SET password_hash = $2 WHERE id = $1", &[&alice.id, &hash])
        .await
        .unwrap();

    assert_eq!(world.try_log_in("alice", "SecurePass123").await.status(), StatusCode::OK);

    let row = superuser
        .query_one("SELECT password_hash FROM memoric.users WHERE id = $1", &[&alice.id])
        .await
        .unwrap();
    assert!(row.get::<_, String>(0).starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    assert_eq!(
        world.try_log_in("alice", "SecurePass123").await.status(),
        StatusCode::OK,
        "and again"
    );
    assert_eq!(world.try_log_in("alice", "SecurePass124").await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn registration_is_closed_unless_it_is_opened() {
    let world = World::with(|settings| {
        settings.auth.registration = memoric_config::schema::Registration::Closed
    })
    .start()
    .await;
    let account = json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});

    let answer = world.ask(Method::POST, "/auth/register").json(&account).send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(problem(answer).await["code"], "registration_closed");
    assert_eq!(count(&world, "SELECT count(*) FROM memoric.users").await, 0);
}

#[tokio::test]
async fn whoever_registers_is_a_user_without_a_namespace() {
    let world = World::start().await;
    let account = json!({
        "username": "mallory", "email": "m@example.com", "password": PASSWORD,
        "namespace": "company_a", "roles": ["admin"], "is_verified": true,
    });

    let answer = world.ask(Method::POST, "/auth/register").json(&account).send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::CREATED);
    let answer = json_of(answer).await;
    assert_eq!(
        (&answer["roles"], &answer["namespace"], &answer["is_verified"]),
        (&json!(["user"]), &Value::Null, &json!(false))
    );
}

#[tokio::test]
async fn a_bad_registration_names_the_field_and_echoes_nothing() {
    let world = World::start().await;
    world.register("taken").await;
    let account = |field: &str, value: Value| {
        let mut account =
            json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});
        account[field] = value;
        account
    };
    let bad = [
        ("username", json!("al")),
        ("username", json!("a".repeat(51))),
        ("username", json!("alice@example.com")),
        ("username", json!("12345")),
        ("username", json!("al\u{0}ice")),
        ("username", json!(7)),
        ("username", Value::Null),
        ("email", json!("not-an-address")),
        ("email", json!("a\u{0}@example.com")),
        ("password", json!("short-QQ")),
        ("password", json!("q".repeat(129))),
        ("password", json!(["planted-canary"])),
        ("full_name", json!("n".repeat(256))),
        ("full_name", json!("n\u{0}planted-canary")),
    ];

    for (field, value) in bad {
        let answer = world
            .ask(Method::POST, "/auth/register")
            .json(&account(field, value.clone()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{field} {value}");
        let body = answer.text().await.unwrap();
        assert!(
            !body.contains("planted-canary")
                && !body.contains("short-QQ")
                && !body.contains(PASSWORD),
            "{body}"
        );
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["errors"][0]["field"], field, "{body}");
        assert!(problem["detail"].is_string(), "{body}");
    }
    for (field, value) in [("username", json!("taken")), ("email", json!("TAKEN@example.com"))] {
        let answer = world
            .ask(Method::POST, "/auth/register")
            .json(&account(field, value))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{field} is taken");
    }
    assert_eq!(count(&world, "SELECT count(*) FROM memoric.users").await, 1, "nothing is stored");
}

#[tokio::test]
async fn an_access_token_lives_as_long_as_the_settings_say() {
    let world = World::with(|settings| settings.auth.access_token_ttl = 120).start().await;
    let alice = world.register("alice").await;

    let answer: Value = world.try_log_in("alice", PASSWORD).await.json().await.unwrap();

    assert_eq!(answer["expires_in"], 120);
    let claims = TokenKeys::hs256(JWT_SECRET.as_bytes());
    for token in [answer["access_token"].as_str().unwrap(), &alice.token] {
        let claims = claims.verify(token, now()).unwrap();
        assert_eq!(claims.exp - claims.iat, 120);
    }
}

async fn eventually_refused(world: &World, person: &Person) {
    until("a revoked token works no more", async || {
        let answer = world.ask_as(person, Method::GET, "/memories").send().await.unwrap();
        answer.status() == StatusCode::UNAUTHORIZED
    })
    .await;
}

async fn insert_revocation(world: &World, revocation: &Revocation) {
    let insert = "INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES ($1, $2, $3, now() + interval '1 hour')";
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
        [&revocation.user.0, &revocation.space(), &revocation.value()];
    world.superuser().await.execute(insert, &values).await.unwrap();
}

fn claims_of(person: &Person) -> Claims {
    Claims {
        sub: person.id.to_string(),
        roles: [Role::User].into_iter().collect(),
        namespace: None,
        iat: now(),
        exp: now() + 60,
        jti: Uuid::new_v4(),
        sid: Uuid::new_v4(),
        ctr: 0,
        generation: 1,
        iss: ISSUER.to_owned(),
        nbf: None,
        aud: None,
    }
}

async fn problem(answer: Response) -> Value {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
    let problem = json_of(answer).await;
    assert_eq!(problem["request_id"], id);
    problem
}

async fn json_of(answer: Response) -> Value {
    answer.json().await.unwrap()
}

async fn count(world: &World, query: &str) -> i64 {
    world.superuser().await.query_one(query, &[]).await.unwrap().get(0)
}
