//! Whatever happens is in the trail, for admins to read: who, from where, what, whose, and how it ended.

mod keeping;
mod refusals;
mod secrets;

use std::collections::{HashMap, HashSet};

use harness::{PASSWORD, Person, World, until, until_some};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
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

const AGENT: &str = "suite/1";
