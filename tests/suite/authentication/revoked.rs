//! Who was let in is not for ever: what ends a token, and who hears of it.

use harness::{
    Answer, Edge, Upload,
    http2::{Http2, Outcome},
    until,
};
use memoric_contract::{
    UserId,
    revocation::{Revocation, Revoked},
};

use super::*;

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

    end_all_behind_its_back(&world, &alice).await;

    eventually_refused(&world, &alice).await;
}

#[tokio::test]
async fn the_gateway_that_carried_a_revocation_knows_of_it_at_once() {
    let edge = Edge::start().await;
    let (alice, bob) = (token(7, &[Role::User]), token(8, &[Role::User]));
    end_all_by_a_change_of_password(&edge);
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
async fn what_is_said_to_its_end_right_after_a_revocation_is_not_done() {
    let edge = Edge::start().await;
    let alice = token(7, &[Role::User]);
    end_all_by_a_change_of_password(&edge);
    let change = edge.ask(Method::POST, "/auth/change-password").bearer_auth(&alice);
    let change = change.json(&json!({}));

    // Far sooner than it takes until a head is judged anew by asking around.
    let upload = Upload::begin(edge.http, &alice).await;
    assert_eq!(change.send().await.unwrap().status(), StatusCode::OK);

    let answer = upload.end().await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[tokio::test]
async fn what_a_revocation_finds_half_said_is_not_done() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let upload = Upload::begin(world.http, &alice.token).await;
    let mut http2 = Http2::connect_to(world.https, &world.certificate).await;
    http2.remember(1, &alice.token, Some(15)).await;
    http2.part(1, br#"{"content":"x""#, false).await;

    end_all_behind_its_back(&world, &alice).await;
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

/// A backend that ends all of user 7's where a password is changed. Neither Redis nor the feed has any news.
fn end_all_by_a_change_of_password(edge: &Edge) {
    let ended =
        Revocation { user: UserId(7), revoked: Revoked::Before(2), expires_at: now() + 3600 };
    edge.origin.answer_with(move |request| match request.path() {
        "/auth/change-password" => {
            let revoked = ended.message();
            format!("HTTP/1.1 200 OK\r\nx-memoric-revoked: {revoked}\r\ncontent-length: 0\r\n\r\n")
                .into_bytes()
        }
        _ => Answer::json(&json!([])),
    });
}

async fn eventually_refused(world: &World, person: &Person) {
    until("a revoked token works no more", async || {
        let answer = world.ask_as(person, Method::GET, "/memories").send().await.unwrap();
        answer.status() == StatusCode::UNAUTHORIZED
    })
    .await;
}

/// Ends what lives of `person`'s, in the database alone.
async fn end_all_behind_its_back(world: &World, person: &Person) {
    let insert = "INSERT INTO memoric.revocations (user_id, space, value, expires_at)
                  VALUES ($1, 'gen', '2', now() + interval '1 hour')";
    world.superuser().await.execute(insert, &[&person.id]).await.unwrap();
}
