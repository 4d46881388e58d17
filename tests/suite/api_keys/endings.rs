//! Which keys end with what, and who ends them.

use super::*;

#[tokio::test]
async fn a_key_of_whoever_is_let_in_no_more_stays_dead_when_they_are_again() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;
    let key = secret(&create(&world, &alice, json!({"name": "one"})).await);
    assert_eq!(use_key(&world, &key).await, StatusCode::OK);
    let let_in = async |is_active: bool| {
        let asked = world.ask_as(&root, Method::PATCH, &format!("/users/{}", alice.id));
        let changed = asked.json(&json!({ "is_active": is_active })).send().await.unwrap();
        assert_eq!(changed.status(), StatusCode::OK);
    };

    let_in(false).await;
    until_refused(&world, &key).await;
    let_in(true).await;

    assert_eq!(use_key(&world, &key).await, StatusCode::UNAUTHORIZED);
    // Another gateway has nothing to remember: it asks, as this one will in half a minute.
    let elsewhere = world.door(|_| ()).await;
    let by_key = Person { token: key, ..alice };
    let answer = elsewhere.ask_as(&by_key, Method::GET, "/memories").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let alice = world.log_in("alice").await;
    assert!(list(&world, &alice).await.is_empty(), "and nobody sees it among the living");
}

#[tokio::test]
async fn a_key_ends_itself_and_no_other() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let (stolen, other) = (
        create(&world, &alice, json!({"name": "stolen"})).await,
        create(&world, &alice, json!({"name": "other"})).await,
    );
    let revoke = async |which: &Value| {
        let asked = with(&world, &secret(&stolen), Method::DELETE, &path(which));
        asked.send().await.unwrap().status()
    };

    assert_eq!(revoke(&other).await, StatusCode::FORBIDDEN);
    assert_eq!(
        revoke(&json!({"id": "aaaaaaaaaaaa"})).await,
        StatusCode::FORBIDDEN,
        "nor says who is"
    );
    assert_eq!(use_key(&world, &secret(&other)).await, StatusCode::OK);
    let denied =
        "SELECT count(*) FROM audit.trail WHERE event_type = 'authz.access.denied' AND owner = $1";
    let superuser = world.superuser().await;
    let denied: i64 = superuser.query_one(denied, &[&alice.id]).await.unwrap().get(0);
    assert_eq!(denied, 2);

    assert_eq!(revoke(&stolen).await, StatusCode::OK);
    until_refused(&world, &secret(&stolen)).await;
    assert_eq!(use_key(&world, &secret(&other)).await, StatusCode::OK);
}
