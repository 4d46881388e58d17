//! A change and its record are made together, or neither is.

use harness::{Deployment, PASSWORD, Person, Recipe, Servers, World, until};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// The state that the changes below would change.
const STATE: &str = "\
SELECT concat_ws(E'\\n',
    (SELECT string_agg(users::text, E'\\n' ORDER BY id) FROM memoric.users),
    (SELECT string_agg(sessions::text, E'\\n' ORDER BY id) FROM memoric.sessions),
    (SELECT string_agg(api_keys::text, E'\\n' ORDER BY id) FROM memoric.api_keys),
    (SELECT string_agg(memories::text, E'\\n' ORDER BY id) FROM memoric.memories),
    (SELECT string_agg(revocations::text, E'\\n' ORDER BY id) FROM memoric.revocations))";

#[tokio::test]
async fn a_change_that_cannot_be_recorded_is_not_made() {
    let world = World::start().await;
    let cast = Cast::of(&world).await;
    let superuser = world.superuser().await;
    let state = async || superuser.query_one(STATE, &[]).await.unwrap().get::<_, String>(0);
    let before = state().await;

    superuser.batch_execute("REVOKE INSERT ON audit.trail FROM memoric_trail").await.unwrap();
    for (change, request) in cast.changes(&world) {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR, "{change}");
        assert_eq!(state().await, before, "{change}");
    }
    assert!(!set_roles(&world, &cast.bob).await);
    assert_eq!(state().await, before, "roles");

    superuser.batch_execute("GRANT INSERT ON audit.trail TO memoric_trail").await.unwrap();
    for (change, request) in cast.changes(&world) {
        let (answer, unchanged) = (request.send().await.unwrap(), state().await);
        assert!(answer.status().is_success(), "{change}: {}", answer.status());
        assert_eq!(recorded(&superuser, change).await, 1, "{change}");
        assert_ne!(unchanged, before, "{change}");
    }
    let unchanged = state().await;
    assert!(set_roles(&world, &cast.bob).await);
    let records = "SELECT count(*) FROM audit.trail WHERE event_type = 'user.updated' AND emitter = 3 AND success";
    assert_eq!(superuser.query_one(records, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_ne!(state().await, unchanged);
}

#[tokio::test]
async fn a_backend_that_dies_in_the_middle_leaves_a_change_with_its_record_or_neither() {
    let mut memoric = Recipe::new().await.set("MEMORIC_AUTH__REGISTRATION", "open").start().await;
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol", "dave", "root"] {
        people.push(Person::register(memoric.http, name).await);
    }
    let [alice, bob, carol, dave, root] = &people[..] else { unreachable!() };
    let superuser = Servers::get().await.superuser(&memoric.database).await;
    let promote = "UPDATE memoric.users SET roles = '{admin}' WHERE username = 'root'";
    superuser.batch_execute(promote).await.unwrap();
    let root = Person::log_in(memoric.http, &root.name).await;

    // Whoever appends a record waits, with its change made and not yet committed.
    let holder = Servers::get().await.superuser(&memoric.database).await;
    holder.batch_execute("BEGIN; LOCK TABLE audit.trail IN SHARE MODE").await.unwrap();
    let mut under_way = JoinSet::new();
    for request in [
        ask(&memoric, alice, Method::POST, "/memories").json(&json!({"content": "x"})),
        ask(&memoric, bob, Method::POST, "/auth/api-keys").json(&json!({"name": "one"})),
        ask(&memoric, carol, Method::POST, "/auth/logout"),
        ask(&memoric, &root, Method::PATCH, &format!("/users/{}", dave.id))
            .json(&json!({"namespace": "staff"})),
    ] {
        under_way
            .spawn(async { request.send().await.is_ok_and(|answer| answer.status().is_success()) });
    }
    let of_backend = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = '{}' AND usename LIKE 'memoric%'",
        memoric.database
    );
    let waiting = format!("{of_backend} AND wait_event_type = 'Lock' AND query !~ 'deliver'");
    let count = async |query: &str| superuser.query_one(query, &[]).await.unwrap().get::<_, i64>(0);
    until("all of them wait for the trail", async || count(&waiting).await == 4).await;
    memoric.kill_backend();
    holder.batch_execute("COMMIT").await.unwrap();

    until("PostgreSQL has done with them", async || count(&of_backend).await == 0).await;
    assert_eq!(under_way.join_all().await, [false; 4], "nobody is told that it is done");
    for (operation, change) in [
        ("remember_memory", "SELECT count(*) FROM memoric.memories"),
        ("create_api_key", "SELECT count(*) FROM memoric.api_keys"),
        (
            "logout",
            "SELECT count(*) FROM memoric.sessions JOIN memoric.users ON users.id = user_id
             WHERE username = 'carol' AND sessions.ended_at IS NOT NULL",
        ),
        ("change_user", "SELECT count(*) FROM memoric.users WHERE namespace = 'staff'"),
    ] {
        assert_eq!(count(change).await, recorded(&superuser, operation).await, "{operation}");
    }
}

/// Who changes what, and what there is to change.
struct Cast {
    alice: Person,
    bob: Person,
    /// Bob on a device that he logs out of.
    elsewhere: Person,
    root: Person,
    refresh_token: String,
    /// Paths of Alice's.
    keys: [String; 2],
}

impl Cast {
    async fn of(world: &World) -> Self {
        let (alice, bob) = (world.register("alice").await, world.register("bob").await);
        let root = world.person_with("root", &["admin"]).await;
        let elsewhere = world.log_in("bob").await;
        let session: Value = world.try_log_in("bob", PASSWORD).await.json().await.unwrap();
        let mut keys = Vec::new();
        for name in ["rotated", "revoked"] {
            let asked = world.ask_as(&alice, Method::POST, "/auth/api-keys");
            let made = asked.json(&json!({"name": name})).send().await.unwrap();
            let made: Value = made.json().await.unwrap();
            keys.push(format!("/auth/api-keys/{}", made["id"].as_str().unwrap()));
        }
        // Keys that seal are made with the first memory, and are no change. That a session was used is noted
        // with its first request.
        for person in [&alice, &bob, &elsewhere, &root] {
            world.remember(person, json!({"content": "first"})).await;
        }
        let refresh_token = session["refresh_token"].as_str().unwrap().to_owned();
        let keys = keys.try_into().unwrap();
        Self { alice, bob, elsewhere, root, refresh_token, keys }
    }

    /// One request for each kind of change, by the name of its operation.
    fn changes(&self, world: &World) -> Vec<(&'static str, RequestBuilder)> {
        let account = |name: &str| {
            let email = format!("{name}@example.com");
            json!({"username": name, "email": email, "password": PASSWORD})
        };
        let login = json!({"username": "alice", "password": PASSWORD});
        let password = json!({"old_password": PASSWORD, "new_password": "another-horse-battery"});
        let bob = format!("/users/{}", self.bob.id);
        let rotate = format!("{}/rotate", self.keys[0]);
        let ask = |path| world.ask(Method::POST, path);
        let by = |person, path| world.ask_as(person, Method::POST, path);
        vec![
            ("register", ask("/auth/register").json(&account("carol"))),
            ("login", ask("/auth/login").json(&login)),
            ("refresh", ask("/auth/refresh").bearer_auth(&self.refresh_token)),
            ("remember_memory", by(&self.alice, "/memories").json(&json!({"content": "second"}))),
            ("create_api_key", by(&self.alice, "/auth/api-keys").json(&json!({"name": "new"}))),
            ("rotate_api_key", by(&self.alice, &rotate)),
            ("revoke_api_key", world.ask_as(&self.alice, Method::DELETE, &self.keys[1])),
            ("logout", by(&self.elsewhere, "/auth/logout")),
            ("logout_everywhere", by(&self.bob, "/auth/logout-all")),
            ("create_user", by(&self.root, "/users").json(&account("dave"))),
            (
                "change_user",
                world.ask_as(&self.root, Method::PATCH, &bob).json(&json!({"namespace": "staff"})),
            ),
            ("change_password", by(&self.alice, "/auth/change-password").json(&password)),
        ]
    }
}

/// Whether the operator could make `person` readonly.
async fn set_roles(world: &World, person: &Person) -> bool {
    let recipe = Recipe::on(Servers::get().await, world.database.clone());
    let words = ["user", "set-roles", "--user", &person.name, "--role", "readonly"];
    recipe.program("memoric-backend").args(words).run().status.success()
}

fn ask(memoric: &Deployment, person: &Person, method: Method, path: &str) -> RequestBuilder {
    let url = format!("http://{}{path}", memoric.http);
    reqwest::Client::new().request(method, url).bearer_auth(&person.token)
}

/// How many changes by `operation` the backend has recorded since the last first memory.
async fn recorded(superuser: &tokio_postgres::Client, operation: &str) -> i64 {
    const SQL: &str = "SELECT count(*) FROM audit.trail
        WHERE emitter = 2 AND success AND operation = $1
        AND id > coalesce((SELECT max(id) FROM audit.trail WHERE operation = 'remember_memory' AND subject = (SELECT id FROM memoric.users WHERE username = 'root')), 0)";
    superuser.query_one(SQL, &[&operation]).await.unwrap().get(0)
}
