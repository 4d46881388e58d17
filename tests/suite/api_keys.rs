//! API keys: shown once, good for what they were made for, and dead when they are ended.

mod endings;
mod rotation;

use std::time::Duration;

use harness::{CHECK_SECRET, PASSWORD, Person, Program, Recipe, Upload, World, until};
use memoric_contract::api_key::{ApiKey, CheckKey};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

#[tokio::test]
async fn a_key_opens_what_its_owner_may_in_each_of_the_guides_ways() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "the safe"})).await;

    let made =
        create(&world, &alice, json!({"name": "production-api-key", "expires_days": 90})).await;

    let key = secret(&made);
    assert_eq!(made["name"], "production-api-key");
    assert_eq!(
        made["scopes"],
        json!(["memories:read", "memories:write", "clusters:read", "keys:manage"])
    );
    let ways: [fn(RequestBuilder, &str) -> RequestBuilder; 3] = [
        |asked, key| asked.header("x-api-key", key),
        |asked, key| asked.header("authorization", format!("ApiKey {key}")),
        |asked, key| asked.bearer_auth(key),
    ];
    for way in ways {
        let answer = way(world.ask(Method::GET, "/memories"), &key).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let memories: Vec<Value> = answer.json().await.unwrap();
        assert_eq!(memories[0]["content"], "the safe");
    }
    let both = world.ask_as(&alice, Method::GET, "/memories").header("x-api-key", &key);
    assert_eq!(both.send().await.unwrap().status(), StatusCode::BAD_REQUEST, "one is enough");
}

#[tokio::test]
async fn a_key_is_shown_once_and_kept_nowhere() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let key = secret(&create(&world, &alice, json!({"name": "one"})).await);

    let listed = list(&world, &alice).await;

    assert_eq!((listed.len(), &listed[0]["name"]), (1, &json!("one")));
    assert!(listed[0].get("api_key").is_none() && !listed[0].to_string().contains(&key));
    let rows = world
        .superuser()
        .await
        .query("SELECT row_to_json(api_keys)::text FROM memoric.api_keys", &[])
        .await
        .unwrap();
    let stored: String = rows[0].get(0);
    assert!(!stored.contains(&key[16..48]), "{stored}");
}

#[tokio::test]
async fn whoever_looks_for_secrets_finds_keys_by_the_published_pattern() {
    let readme = include_str!("../../README.md");
    let (_, pattern) = readme.split_once("API keys match `").unwrap();
    let pattern = pattern.split('`').next().unwrap();
    let world = World::start().await;
    let alice = world.register("alice").await;
    let key = secret(&create(&world, &alice, json!({"name": "one"})).await);

    let finds = |text: &str| {
        Program::named("grep").args(["-qxE", pattern]).input(text).run().status.success()
    };

    assert!(finds(&key));
    assert!(!finds(&key[1..]) && !finds(&format!("{key}0")) && !finds(&alice.token));
}

#[tokio::test]
async fn a_key_may_do_what_it_was_made_for_and_never_more_than_its_owner() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let reads = json!({"name": "reads", "scopes": ["memories:read"]});
    let reads = secret(&create(&world, &alice, reads).await);

    let read = with(&world, &reads, Method::GET, "/memories").send().await.unwrap();
    let write = with(&world, &reads, Method::POST, "/memories").json(&json!({"content": "x"}));
    assert_eq!(read.status(), StatusCode::OK);
    assert_eq!(write.send().await.unwrap().status(), StatusCode::FORBIDDEN);

    for (wanted, field) in [
        (json!({"name": "x", "scopes": ["audit:read"]}), "scopes"),
        (json!({"name": "x", "scopes": ["nonsense"]}), "scopes"),
        (json!({"name": "x", "scopes": []}), "scopes"),
        (json!({"name": ""}), "name"),
        (json!({"name": "a\nb"}), "name"),
        (json!({"name": "x", "expires_days": 0}), "expires_days"),
        (json!({"name": "x", "expires_days": 366}), "expires_days"),
        (json!({"name": "x", "expires_days": "90"}), "expires_days"),
        (json!({"name": "x", "allowed_addresses": ["nowhere"]}), "allowed_addresses"),
        (json!({"scopes": "memories:read"}), "name"),
    ] {
        let answer = try_create(&world, &alice, &wanted).await;
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{wanted}");
        assert_eq!(answer.json::<Value>().await.unwrap()["errors"][0]["field"], field, "{wanted}");
    }
    let reader = world.person_with("reader", &["readonly"]).await;
    let refused = try_create(&world, &reader, &json!({"name": "x"})).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN, "who may make no keys");
}

#[tokio::test]
async fn a_key_touches_no_session_no_password_and_makes_no_key() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let key = secret(&create(&world, &alice, json!({"name": "one"})).await);

    for (method, path) in [
        (Method::POST, "/auth/api-keys"),
        (Method::POST, "/auth/change-password"),
        (Method::POST, "/auth/logout"),
        (Method::POST, "/auth/logout-all"),
        (Method::GET, "/auth/sessions"),
    ] {
        let answer = with(&world, &key, method, path).json(&json!({})).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(list(&world, &alice).await.len(), 1);
}

#[tokio::test]
async fn an_admins_key_sees_accounts_and_neither_makes_nor_changes_one() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;
    let key = secret(&create(&world, &root, json!({"name": "one"})).await);
    let hers = format!("/users/{}", alice.id);
    let dave = json!({"username": "dave", "email": "d@example.com", "roles": ["admin"]});

    for (method, path, sent) in [
        (Method::POST, "/users", dave),
        (Method::PATCH, &*hers, json!({"reset_password": true})),
        (Method::PATCH, &*hers, json!({"roles": ["admin"]})),
    ] {
        let answer = with(&world, &key, method, path).json(&sent).send().await.unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::FORBIDDEN,
            "what it makes would outlive it: {sent}"
        );
    }
    for path in ["/users", &*hers] {
        let answer = with(&world, &key, Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn a_revoked_key_stops_working_and_only_its_owner_revokes_it() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let made = create(&world, &alice, json!({"name": "one"})).await;
    let (key, path) = (secret(&made), path(&made));
    assert_eq!(use_key(&world, &key).await, StatusCode::OK, "and it is remembered now");

    let by_bob = world.ask_as(&bob, Method::DELETE, &path).send().await.unwrap().status();
    assert_eq!(by_bob, StatusCode::NOT_FOUND);
    assert_eq!(use_key(&world, &key).await, StatusCode::OK);
    let by_alice = world.ask_as(&alice, Method::DELETE, &path).send().await.unwrap().status();
    assert_eq!(by_alice, StatusCode::OK);

    until_refused(&world, &key).await;
    assert!(list(&world, &alice).await.is_empty());
    let again = world.ask_as(&alice, Method::DELETE, &path).send().await.unwrap().status();
    assert_eq!(again, StatusCode::NOT_FOUND, "once");
}

#[tokio::test]
async fn a_key_ends_by_time_and_with_its_owner() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let superuser = world.superuser().await;
    let old = secret(&create(&world, &alice, json!({"name": "old"})).await);
    let ageing = "UPDATE memoric.api_keys SET expires_at = now() WHERE name = 'old'";
    superuser.execute(ageing, &[]).await.unwrap();
    assert_eq!(use_key(&world, &old).await, StatusCode::UNAUTHORIZED);

    let key = secret(&create(&world, &bob, json!({"name": "bobs"})).await);
    assert_eq!(use_key(&world, &key).await, StatusCode::OK);
    let change = "UPDATE memoric.users SET is_active = false WHERE id = $1";
    superuser.execute(change, &[&bob.id]).await.unwrap();
    let end = "SELECT credentials.end_all($1)";
    superuser.execute(end, &[&bob.id]).await.unwrap();
    until_refused(&world, &key).await;
}

#[tokio::test]
async fn a_key_survives_a_new_password_and_follows_new_roles() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let key = secret(&create(&world, &alice, json!({"name": "one"})).await);
    assert_eq!(use_key(&world, &key).await, StatusCode::OK);
    let superuser = world.superuser().await;
    let change = "UPDATE memoric.users SET roles = '{readonly}' WHERE id = $1";
    superuser.execute(change, &[&alice.id]).await.unwrap();
    superuser.execute("SELECT credentials.end_all($1)", &[&alice.id]).await.unwrap();

    until("it may not write", async || {
        let write = with(&world, &key, Method::POST, "/memories").json(&json!({"content": "x"}));
        match write.send().await.unwrap().status() {
            StatusCode::FORBIDDEN => true,
            // What was under way when it changed is refused; the next is judged anew.
            StatusCode::OK | StatusCode::UNAUTHORIZED => false,
            other => panic!("{other}"),
        }
    })
    .await;

    assert_eq!(use_key(&world, &key).await, StatusCode::OK, "reading is still allowed");
}

#[tokio::test]
async fn a_key_whose_owner_has_changed_does_not_end_what_it_began() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let key = secret(&create(&world, &alice, json!({"name": "one"})).await);
    let upload = Upload::begin(world.http, &key).await;
    let superuser = world.superuser().await;
    let change = "UPDATE memoric.users SET roles = '{readonly}' WHERE id = $1";
    superuser.execute(change, &[&alice.id]).await.unwrap();
    superuser.execute("SELECT credentials.end_all($1)", &[&alice.id]).await.unwrap();
    until("the gateway has heard", async || {
        let asked = world.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
        asked.status() == StatusCode::UNAUTHORIZED
    })
    .await;
    // What has come whole within a moment of its beginning is judged once.
    sleep(Duration::from_millis(100)).await;

    let answer = upload.end().await;

    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(use_key(&world, &key).await, StatusCode::OK, "asked anew it lives, and may read");
}

#[tokio::test]
async fn a_key_is_good_from_where_it_may_be_used() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let here = json!({"name": "here", "allowed_addresses": ["127.0.0.0/8", "::1"]});
    let elsewhere = json!({"name": "elsewhere", "allowed_addresses": ["10.0.0.0/8"]});

    let here = secret(&create(&world, &alice, here).await);
    let elsewhere = secret(&create(&world, &alice, elsewhere).await);

    assert_eq!(use_key(&world, &here).await, StatusCode::OK);
    assert_eq!(use_key(&world, &elsewhere).await, StatusCode::FORBIDDEN);
    assert_eq!(use_key(&world, &elsewhere).await, StatusCode::FORBIDDEN, "from memory too");
}

#[tokio::test]
async fn a_guess_is_refused_without_asking_anybody() {
    let mut world = World::start().await;
    let check = CheckKey::new([9; 32]);
    let guess = ApiKey::mint([[1; 16], [2; 16], [3; 16]], &check);
    let mut ours = [0; 32];
    hex::decode_to_slice(CHECK_SECRET, &mut ours).unwrap();
    let unknown = ApiKey::mint([[1; 16], [2; 16], [3; 16]], &CheckKey::new(ours));
    assert_eq!(use_key(&world, unknown.expose()).await, StatusCode::UNAUTHORIZED, "not stored");
    let other = ApiKey::mint([[4; 16], [2; 16], [3; 16]], &CheckKey::new(ours));
    world.stop_backend().await;

    assert_eq!(use_key(&world, guess.expose()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(use_key(&world, "mk_nonsense").await, StatusCode::UNAUTHORIZED);
    assert_eq!(use_key(&world, unknown.expose()).await, StatusCode::UNAUTHORIZED, "remembered");
    assert_eq!(use_key(&world, other.expose()).await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn dead_keys_of_one_end_no_good_key_of_another_behind_the_same_address() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let good = secret(&create(&world, &bob, json!({"name": "good"})).await);
    assert_eq!(use_key(&world, &good).await, StatusCode::OK);
    let mut dead = Vec::new();
    for n in 0..31 {
        dead.push(secret(&create(&world, &alice, json!({"name": format!("dead {n}")})).await));
    }
    let expire = "UPDATE memoric.api_keys SET expires_at = now() WHERE user_id = $1";
    world.superuser().await.execute(expire, &[&alice.id]).await.unwrap();

    for key in &dead[..30] {
        assert_eq!(use_key(&world, key).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(use_key(&world, &dead[30]).await, StatusCode::TOO_MANY_REQUESTS);
    let change = world.ask_as(&bob, Method::POST, "/auth/logout-all").send().await.unwrap();
    assert!(change.status().is_success(), "so that his key is asked about again at once");
    assert_eq!(use_key(&world, &good).await, StatusCode::OK);
}

#[tokio::test]
async fn every_use_of_a_key_is_in_the_trail_and_when_it_was_used_is_shown() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;
    let made = create(&world, &alice, json!({"name": "one"})).await;

    for _ in 0..3 {
        assert_eq!(use_key(&world, &secret(&made)).await, StatusCode::OK);
    }

    let used = "SELECT count(*) FROM audit.trail WHERE credential_kind = 'api_key' AND credential_id = $1 AND subject = $2";
    let id = made["id"].as_str().unwrap();
    let superuser = world.superuser().await;
    until("the trail has them all", async || {
        superuser.query_one(used, &[&id, &alice.id]).await.unwrap().get::<_, i64>(0) >= 3
    })
    .await;
    assert!(list(&world, &alice).await[0]["last_used_at"].is_string());
    let asked = world.ask_as(&root, Method::GET, "/audit/logs?event_type=apikey.created");
    let logs: Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!(logs["logs"][0]["resource_id"], id, "{logs}");
}

#[tokio::test]
async fn a_key_that_the_operator_makes_is_printed_once_and_ends_when_they_say() {
    let memoric = Recipe::new().await.start().await;
    let console = |arguments: &[&str]| {
        let run = memoric.program("memoric-backend").args(arguments.iter().copied()).run();
        let told = String::from_utf8(run.stdout).unwrap();
        assert!(run.status.success(), "{told}{}", String::from_utf8_lossy(&run.stderr));
        told
    };
    let made = memoric.program("memoric-backend").args(["user", "create", "--username", "robot"]);
    let made = made.args(["--email", "robot@example.com", "--role", "user", "--password-stdin"]);
    assert!(made.input(PASSWORD).run().status.success());

    let wanted = ["key", "create", "--user", "robot", "--name", "nightly", "--expires-days", "90"];
    let key = console(&[&wanted[..], &["--scope", "memories:read"]].concat()).trim().to_owned();

    let id = key.split('_').nth(1).unwrap().to_owned();
    let ask = async || {
        let asked = reqwest::Client::new().get(format!("http://{}/memories", memoric.http));
        asked.header("x-api-key", &key).send().await.unwrap().status()
    };
    assert_eq!(ask().await, StatusCode::OK);
    let listed = console(&["key", "list", "--user", "robot"]);
    assert!(listed.contains(&id) && listed.contains("nightly") && !listed.contains(&key));

    let beyond = ["--scope", "audit:read"];
    let beyond = memoric.program("memoric-backend").args([&wanted[..], &beyond].concat()).run();
    assert!(String::from_utf8_lossy(&beyond.stderr).contains("scopes:"), "{beyond:?}");

    console(&["key", "revoke", "--user", "robot", "--id", &id]);
    until("it opens nothing", async || ask().await != StatusCode::OK).await;
    assert_eq!(ask().await, StatusCode::UNAUTHORIZED);
}

async fn create(world: &World, person: &Person, wanted: Value) -> Value {
    let answer = try_create(world, person, &wanted).await;
    assert_eq!(answer.status(), StatusCode::CREATED, "{wanted}");
    answer.json().await.unwrap()
}

async fn try_create(world: &World, person: &Person, wanted: &Value) -> Response {
    world.ask_as(person, Method::POST, "/auth/api-keys").json(wanted).send().await.unwrap()
}

async fn list(world: &World, person: &Person) -> Vec<Value> {
    let answer = world.ask_as(person, Method::GET, "/auth/api-keys").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let listed: Value = answer.json().await.unwrap();
    listed["api_keys"].as_array().unwrap().clone()
}

fn secret(made: &Value) -> String {
    made["api_key"].as_str().unwrap().to_owned()
}

fn path(made: &Value) -> String {
    format!("/auth/api-keys/{}", made["id"].as_str().unwrap())
}

fn with(world: &World, key: &str, method: Method, path: &str) -> RequestBuilder {
    world.ask(method, path).header("x-api-key", key)
}

async fn use_key(world: &World, key: &str) -> StatusCode {
    with(world, key, Method::GET, "/memories").send().await.unwrap().status()
}

async fn until_refused(world: &World, key: &str) {
    let is_refused = async || use_key(world, key).await == StatusCode::UNAUTHORIZED;
    until("it is good no more", is_refused).await;
}
