//! Sessions: seen by their owner, ended by their owner, and dead everywhere at once.

use harness::{Person, World};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn a_logout_ends_the_session_and_nothing_else() {
    let world = World::start().await;
    let here = world.register("alice").await;
    let elsewhere = world.log_in("alice").await;

    let answer = world.ask_as(&here, Method::POST, "/auth/logout").send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    assert_eq!(ask_me(&world, &here).await, StatusCode::UNAUTHORIZED, "at once");
    assert_eq!(ask_me(&world, &elsewhere).await, StatusCode::OK, "another session lives on");
}

#[tokio::test]
async fn a_logout_everywhere_ends_every_session_and_the_next_login_lives() {
    let world = World::start().await;
    let (bob, here) = (world.register("bob").await, world.register("alice").await);
    let elsewhere = world.log_in("alice").await;

    let answer = world.ask_as(&here, Method::POST, "/auth/logout-all").send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
    assert_eq!(ask_me(&world, &here).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask_me(&world, &elsewhere).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask_me(&world, &bob).await, StatusCode::OK, "another user's session");
    let again = world.log_in("alice").await;
    assert_eq!(ask_me(&world, &again).await, StatusCode::OK);
}

#[tokio::test]
async fn sessions_are_listed_for_their_owner_with_where_they_began() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.log_in("alice").await;
    let bob = world.register("bob").await;

    let listed = list(&world, &alice).await;

    assert_eq!(listed.len(), 2);
    assert_eq!(listed.iter().filter(|session| session["current"] == true).count(), 1);
    assert!(listed.iter().all(|session| session["address"] == "127.0.0.1"), "{listed:?}");
    assert_eq!(list(&world, &bob).await.len(), 1);
    let stored: Vec<u8> = world
        .superuser()
        .await
        .query_one("SELECT personal FROM memoric.sessions LIMIT 1", &[])
        .await
        .unwrap()
        .get(0);
    assert!(!stored.windows(9).any(|bytes| bytes == b"127.0.0.1"), "sealed at rest");
}

#[tokio::test]
async fn one_session_is_ended_by_its_owner_and_by_nobody_else() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let lost = world.log_in("alice").await;
    let bob = world.register("bob").await;
    let sessions = list(&world, &alice).await;
    let other = sessions.iter().find(|session| session["current"] == false).unwrap();
    let path = format!("/auth/sessions/{}", other["id"].as_str().unwrap());

    let by_bob = world.ask_as(&bob, Method::DELETE, &path).send().await.unwrap().status();
    assert_eq!(by_bob, StatusCode::NOT_FOUND, "it does not tell whether there is one");
    assert_eq!(ask_me(&world, &lost).await, StatusCode::OK);
    let by_alice = world.ask_as(&alice, Method::DELETE, &path).send().await.unwrap().status();
    assert_eq!(by_alice, StatusCode::OK);

    assert_eq!(ask_me(&world, &lost).await, StatusCode::UNAUTHORIZED);
    assert_eq!(ask_me(&world, &alice).await, StatusCode::OK);
    let again = world.ask_as(&alice, Method::DELETE, &path).send().await.unwrap().status();
    assert_eq!(again, StatusCode::NOT_FOUND, "once");
}

#[tokio::test]
async fn a_logout_is_in_the_trail() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;

    world.ask_as(&alice, Method::POST, "/auth/logout").send().await.unwrap();

    let asked = world.ask_as(&root, Method::GET, "/audit/logs?event_type=auth.logout");
    let logs: Value = asked.send().await.unwrap().json().await.unwrap();
    assert_eq!((&logs["total"], &logs["logs"][0]["success"]), (&json!(1), &json!(true)));
    assert_eq!(logs["logs"][0]["user_id"], alice.id.to_string());
}

#[tokio::test]
async fn an_admin_sees_and_ends_the_sessions_of_another_on_the_record() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;
    let lost = world.log_in("alice").await;
    let bob = world.register("bob").await;
    let of_alice = format!("/auth/sessions?user_id={}&reason=a%20lost%20phone", alice.id);

    let shown = world.ask_as(&root, Method::GET, &of_alice).send().await.unwrap();
    assert_eq!(shown.status(), StatusCode::OK);
    let shown: Value = shown.json().await.unwrap();
    let shown = shown["sessions"].as_array().unwrap();
    assert_eq!(shown.len(), 2);
    assert!(shown.iter().all(|it| it["address"] == "127.0.0.1" && it["current"] == false));

    // The one used last is first.
    let one = format!("/auth/sessions/{}", shown[0]["id"].as_str().unwrap());
    let of_bob = format!("{one}?user_id={}", bob.id);
    let not_his = world.ask_as(&root, Method::DELETE, &of_bob).send().await.unwrap().status();
    assert_eq!(not_his, StatusCode::NOT_FOUND);
    assert_eq!(ask_me(&world, &lost).await, StatusCode::OK);
    let ended = format!("{one}?user_id={}", alice.id);
    let ended = world.ask_as(&root, Method::DELETE, &ended).send().await.unwrap().status();
    assert_eq!(ended, StatusCode::OK);
    assert_eq!(ask_me(&world, &lost).await, StatusCode::UNAUTHORIZED, "at once");
    assert_eq!(ask_me(&world, &alice).await, StatusCode::OK);

    let all = format!("/auth/logout-all?user_id={}", alice.id);
    assert_eq!(
        world.ask_as(&root, Method::POST, &all).send().await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(ask_me(&world, &alice).await, StatusCode::UNAUTHORIZED, "at once");
    for other in [&root, &bob] {
        assert_eq!(ask_me(&world, other).await, StatusCode::OK, "{}", other.name);
    }
    assert_eq!(
        crossings(&world).await,
        [
            format!(
                "authz.access.granted {} {} an admin crossed over to user {1}, list_sessions: a lost phone",
                root.id, alice.id
            ),
            format!(
                "auth.logout {} {} an admin crossed over to user {1}, end_session: no reason given",
                root.id, alice.id
            ),
            format!(
                "auth.logout {} {} an admin crossed over to user {1}, logout_everywhere: no reason given",
                root.id, alice.id
            ),
        ]
    );
}

#[tokio::test]
async fn nobody_else_sees_or_ends_the_sessions_of_another() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let (bob, reader) =
        (world.register("bob").await, world.person_with("reader", &["readonly"]).await);
    let was_admin = world.person_with("former", &["admin"]).await;
    let session = list(&world, &alice).await[0]["id"].as_str().unwrap().to_owned();
    // The token still says so; the database does not.
    let demote = "UPDATE memoric.users SET roles = '{user}' WHERE id = $1";
    world.superuser().await.execute(demote, &[&was_admin.id]).await.unwrap();

    for other in [&bob, &reader, &was_admin] {
        for (method, path) in [
            (Method::GET, "/auth/sessions".to_owned()),
            (Method::DELETE, format!("/auth/sessions/{session}")),
            (Method::POST, "/auth/logout-all".to_owned()),
        ] {
            let path = format!("{path}?user_id={}", alice.id);
            let asked = world.ask_as(other, method.clone(), &path).send().await.unwrap();
            assert_eq!(asked.status(), StatusCode::FORBIDDEN, "{} {method} {path}", other.name);
        }
        let own = format!("/auth/sessions?user_id={}", other.id);
        let own = world.ask_as(other, Method::GET, &own).send().await.unwrap();
        assert_eq!(own.status(), StatusCode::OK, "one's own id is no other's");
    }
    assert_eq!(ask_me(&world, &alice).await, StatusCode::OK);
    let root = world.person_with("root", &["admin"]).await;
    let nobody = world.ask_as(&root, Method::GET, "/auth/sessions?user_id=999999");
    assert_eq!(nobody.send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn readonly_may_log_out() {
    let world = World::start().await;
    let reader = world.person_with("reader", &["readonly"]).await;

    let answer = world.ask_as(&reader, Method::POST, "/auth/logout").send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::OK);
}

async fn list(world: &World, person: &Person) -> Vec<Value> {
    let answer = world.ask_as(person, Method::GET, "/auth/sessions").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let listed: Value = answer.json().await.unwrap();
    listed["sessions"].as_array().unwrap().clone()
}

/// What the backend has written down of who came to somebody else's sessions.
async fn crossings(world: &World) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', event_type, subject, owner, description) FROM audit.trail
               WHERE emitter = 2 AND owner <> subject ORDER BY id";
    let rows = world.superuser().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn ask_me(world: &World, person: &Person) -> StatusCode {
    world.ask_as(person, Method::GET, "/auth/me").send().await.unwrap().status()
}
