//! A change and its record are made together, or neither is.

use harness::{PASSWORD, Person, Recipe, Servers, World};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::json;

/// The state that the changes below would change.
const STATE: &str = "\
SELECT concat_ws(E'\\n',
    (SELECT string_agg(users::text, E'\\n' ORDER BY id) FROM memoric.users),
    (SELECT string_agg(sessions::text, E'\\n' ORDER BY id) FROM memoric.sessions),
    (SELECT string_agg(memories::text, E'\\n' ORDER BY id) FROM memoric.memories),
    (SELECT string_agg(revocations::text, E'\\n' ORDER BY id) FROM memoric.revocations))";

#[tokio::test]
async fn a_change_that_cannot_be_recorded_is_not_made() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    // Keys are made with the first memory, and are no change.
    world.remember(&alice, json!({"content": "first"})).await;
    let superuser = world.superuser().await;
    let state = async || superuser.query_one(STATE, &[]).await.unwrap().get::<_, String>(0);
    let before = state().await;

    superuser.batch_execute("REVOKE INSERT ON audit.trail FROM memoric_trail").await.unwrap();
    for (change, request) in changes(&world, &alice) {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{change}");
        assert_eq!(state().await, before, "{change}");
    }
    assert!(!set_roles(&world, &bob).await);
    assert_eq!(state().await, before, "roles");

    superuser.batch_execute("GRANT INSERT ON audit.trail TO memoric_trail").await.unwrap();
    for (change, request) in changes(&world, &alice) {
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{change}: {}", answer.status());
        assert_eq!(recorded(&world, change).await, 1, "{change}");
    }
    assert!(set_roles(&world, &bob).await);
    assert_eq!(recorded(&world, "user.updated").await, 1);
    assert_ne!(state().await, before);
}

/// One request for each kind of change, under the name that its record has.
fn changes(world: &World, alice: &Person) -> [(&'static str, RequestBuilder); 4] {
    let carol = json!({"username": "carol", "email": "carol@example.com", "password": PASSWORD});
    let login = json!({"username": "alice", "password": PASSWORD});
    let password = json!({"old_password": PASSWORD, "new_password": "another-horse-battery"});
    let ask = |path| world.ask(Method::POST, path);
    let as_alice = |path| world.ask_as(alice, Method::POST, path);
    [
        ("user.created", ask("/auth/register").json(&carol)),
        ("auth.login.success", ask("/auth/login").json(&login)),
        ("memory.created", as_alice("/memories").json(&json!({"content": "second"}))),
        ("user.password.changed", as_alice("/auth/change-password").json(&password)),
    ]
}

/// Whether the operator could make `person` readonly.
async fn set_roles(world: &World, person: &Person) -> bool {
    let recipe = Recipe::on(Servers::get().await, world.database.clone());
    let words = ["user", "set-roles", "--user", &person.name, "--role", "readonly"];
    recipe.program("memoric-backend").args(words).run().status.success()
}

/// How many records of `event` came after the first memory's.
async fn recorded(world: &World, event: &str) -> i64 {
    let records = "SELECT count(*) FROM audit.trail WHERE event_type = $1 AND id > (SELECT min(id) FROM audit.trail WHERE event_type = 'memory.created')";
    world.superuser().await.query_one(records, &[&event]).await.unwrap().get(0)
}
