//! Keys that are given another secret: whatever was promised to the one before is kept.

use super::*;

#[tokio::test]
async fn a_rotated_key_works_with_both_secrets_for_a_while() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let made = create(&world, &alice, json!({"name": "one"})).await;

    let rotated = rotate(&world, &alice, &made, json!({})).await;

    assert_eq!(rotated["id"], made["id"]);
    assert_ne!(secret(&rotated), secret(&made));
    assert_eq!(use_key(&world, &secret(&rotated)).await, StatusCode::OK);
    assert_eq!(use_key(&world, &secret(&made)).await, StatusCode::OK, "for a day");

    let made = create(&world, &alice, json!({"name": "two"})).await;
    rotate(&world, &alice, &made, json!({"overlap_seconds": 60})).await;
    let passing = "UPDATE memoric.api_keys SET earlier_until = ARRAY[now()] WHERE name = 'two'";
    world.superuser().await.execute(passing, &[]).await.unwrap();
    assert_eq!(use_key(&world, &secret(&made)).await, StatusCode::UNAUTHORIZED, "and no longer");
}

#[tokio::test]
async fn a_key_rotated_twice_keeps_what_each_rotation_promised() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let made = create(&world, &alice, json!({"name": "one"})).await;

    let second = rotate(&world, &alice, &made, json!({})).await;
    let newest = rotate(&world, &alice, &made, json!({"overlap_seconds": 3600})).await;

    for each in [&made, &second, &newest] {
        assert_eq!(use_key(&world, &secret(each)).await, StatusCode::OK, "{}", each["id"]);
    }
    let until = |rotated: &Value| rotated["previous_expires_at"].as_str().unwrap().to_owned();
    assert!(until(&newest) < until(&second), "of the secret that was replaced just now");
    let ageing = "UPDATE memoric.api_keys SET earlier_until = ARRAY[earlier_until[1], now()]";
    world.superuser().await.execute(ageing, &[]).await.unwrap();
    let elsewhere = world.door(|_| ()).await;
    let by = async |made: &Value| {
        let by_key = Person { token: secret(made), ..alice.clone() };
        elsewhere.ask_as(&by_key, Method::GET, "/memories").send().await.unwrap().status()
    };
    assert_eq!(by(&made).await, StatusCode::OK);
    assert_eq!(by(&second).await, StatusCode::UNAUTHORIZED, "each by its own time");
    assert_eq!(by(&newest).await, StatusCode::OK);
}

#[tokio::test]
async fn a_fifth_secret_waits_until_the_first_has_ended() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let made = create(&world, &alice, json!({"name": "one"})).await;
    let mut secrets = vec![secret(&made)];
    for _ in 0..4 {
        secrets.push(secret(&rotate(&world, &alice, &made, json!({"overlap_seconds": 600})).await));
    }

    let refused = try_rotate(&world, &alice, &made, &json!({})).await;

    assert_eq!(refused.status(), StatusCode::CONFLICT);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((500..=600).contains(&wait), "{wait}");
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "rotated_too_often");
    for each in &secrets {
        assert_eq!(use_key(&world, each).await, StatusCode::OK, "nothing has changed");
    }

    let ageing = "UPDATE memoric.api_keys SET earlier_until[1] = now()";
    world.superuser().await.execute(ageing, &[]).await.unwrap();
    let newest = rotate(&world, &alice, &made, json!({})).await;
    assert_eq!(use_key(&world, &secret(&newest)).await, StatusCode::OK);
    let kept = "SELECT cardinality(earlier_hashes) FROM memoric.api_keys";
    let kept: i32 = world.superuser().await.query_one(kept, &[]).await.unwrap().get(0);
    assert_eq!(kept, 4, "what has ended is kept no longer");
}

async fn rotate(world: &World, person: &Person, made: &Value, wanted: Value) -> Value {
    let rotated = try_rotate(world, person, made, &wanted).await;
    assert_eq!(rotated.status(), StatusCode::OK);
    rotated.json().await.unwrap()
}

async fn try_rotate(world: &World, person: &Person, made: &Value, wanted: &Value) -> Response {
    let asked = world.ask_as(person, Method::POST, &format!("{}/rotate", path(made)));
    asked.json(wanted).send().await.unwrap()
}
