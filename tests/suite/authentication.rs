//! Who gets in: with a password, with a token, and not otherwise.

mod registration;
mod revoked;

use harness::{JWT_SECRET, PASSWORD, Person, World, now, token};
use memoric_contract::{
    Role,
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
