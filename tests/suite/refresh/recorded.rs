//! What the trail is told of refreshes.

use super::*;

#[tokio::test]
async fn a_reuse_is_in_the_trail_as_critical() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;
    let mut holder = Holder::log_in(&world, "alice").await;
    let stolen = holder.refresh.clone();
    holder.step(&world, Step::Refresh).await.unwrap();
    holder.step(&world, Step::Use).await.unwrap();
    holder.step(&world, Step::Wait).await.unwrap();

    for _ in 0..3 {
        assert_eq!(refresh(&world, &stolen).await.0, StatusCode::UNAUTHORIZED);
    }

    let logs = trail(&world, &root, "auth.token.reuse_detected").await;
    assert_eq!(logs.len(), 1);
    assert_eq!((&logs[0]["severity"], &logs[0]["success"]), (&json!("critical"), &json!(false)));
    assert_eq!(logs[0]["user_id"], alice.id.to_string());
}

#[tokio::test]
async fn whoever_holds_an_ended_sessions_token_is_in_the_trail_once() {
    let world = World::with(no_limits).start().await;
    let root = world.person_with("root", &["admin"]).await;
    world.register("alice").await;
    let [one, other] =
        [Holder::log_in(&world, "alice").await, Holder::log_in(&world, "alice").await];
    let refused = async || {
        let logs = trail(&world, &root, "auth.token.invalid").await;
        let of_backend = logs.iter().filter(|log| log["error_message"] == "the session has ended");
        (of_backend.count(), logs.len())
    };
    for holder in [&one, &other] {
        let logout = world.ask(Method::POST, "/auth/logout").bearer_auth(&holder.access);
        assert_eq!(logout.send().await.unwrap().status(), StatusCode::OK);
    }

    for _ in 0..20 {
        for holder in [&one, &other] {
            assert_eq!(refresh(&world, &holder.refresh).await.0, StatusCode::UNAUTHORIZED);
        }
    }

    assert_eq!(refresh(&world, "mrt_AAAA").await.0, StatusCode::UNAUTHORIZED);
    until("the gateway has told all that it has", async || refused().await.1 > 2).await;
    assert_eq!(refused().await, (2, 3), "one of each session, and the stranger's");
    let repeated = "memoric_backend_repeated_refusals_total{reason=\"ended_session\"}";
    assert_eq!(counted(world.backend_metrics, repeated).await, 38.0);
}

#[tokio::test]
async fn a_pair_that_is_told_again_elsewhere_is_in_the_trail_as_a_warning() {
    let world = World::with(|settings| {
        no_limits(settings);
        settings.gateway.trusted_proxies = vec!["127.0.0.1".into()];
    });
    let world = world.start().await;
    let root = world.person_with("root", &["admin"]).await;
    world.register("alice").await;
    let holder = Holder::log_in(&world, "alice").await;
    let from = async |address: &str| {
        let asked = world.ask(Method::POST, "/auth/refresh").bearer_auth(&holder.refresh);
        let answer = asked.header("x-forwarded-for", address).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{address}");
    };

    for address in ["192.0.2.1", "192.0.2.1", "198.51.100.7"] {
        from(address).await;
    }

    let mut logs = trail(&world, &root, "auth.token.refreshed").await;
    logs.sort_by_key(|log| log["id"].as_i64());
    let told: Vec<_> = logs
        .iter()
        .map(|log| (log["severity"].as_str().unwrap(), log["metadata"]["told_again"] == true))
        .collect();
    assert_eq!(told, [("info", false), ("info", true), ("warning", true)], "{logs:#?}");
}

async fn trail(world: &World, root: &Person, event: &str) -> Vec<Value> {
    let asked = world.ask_as(root, Method::GET, &format!("/audit/logs?event_type={event}"));
    let answer: Value = asked.send().await.unwrap().json().await.unwrap();
    answer["logs"].as_array().unwrap().clone()
}
