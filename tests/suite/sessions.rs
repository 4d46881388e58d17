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

async fn ask_me(world: &World, person: &Person) -> StatusCode {
    world.ask_as(person, Method::GET, "/auth/me").send().await.unwrap().status()
}
