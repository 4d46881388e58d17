//! Whoever asks how the service is hears whether it can serve, and nothing of what it is made of.

use std::{fs, time::Duration};

use harness::{Edge, World, token, until_some};
use memoric_contract::Role;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::time::sleep;

#[tokio::test]
async fn ready_is_who_reaches_the_backend_and_its_database() {
    let mut world = World::start().await;
    let ready = world.ask(Method::GET, "/ready");
    becomes(&ready, StatusCode::OK).await;

    world.shut_database(true).await;
    let told = becomes(&ready, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(told["detail"]["details"]["database"]["healthy"], false, "{told}");
    world.shut_database(false).await;
    becomes(&ready, StatusCode::OK).await;

    world.stop_backend().await;
    let told = becomes(&ready, StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(told["detail"]["status"], "unhealthy", "{told}");
    let alive = world.ask(Method::GET, "/health").send().await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK, "which is no reason to be restarted");
}

#[tokio::test]
async fn ready_is_who_can_write_down_what_it_does() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let ready = world.ask(Method::GET, "/ready");
    becomes(&ready, StatusCode::OK).await;
    let (spool, elsewhere) = (world.folder().join("spool/known"), world.folder().join("elsewhere"));

    fs::rename(&spool, &elsewhere).unwrap();
    let me = world.ask_as(&alice, Method::GET, "/auth/me");
    assert_eq!(status(&me).await, StatusCode::SERVICE_UNAVAILABLE);
    let told = becomes(&ready, StatusCode::SERVICE_UNAVAILABLE).await.to_string();
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(status(&ready).await, StatusCode::SERVICE_UNAVAILABLE, "though nobody asks");
    fs::rename(&elsewhere, &spool).unwrap();
    becomes(&ready, StatusCode::OK).await;

    assert_eq!(status(&me).await, StatusCode::OK);
    for internal in ["spool", "disk", "folder", "known", "/tmp"] {
        assert!(!told.contains(internal), "{told}");
    }
}

#[tokio::test]
async fn while_the_spool_is_full_nothing_is_asked_of_the_backend_and_nobody_is_sent_here() {
    let edge = Edge::with(|settings| settings.audit.spool.known_bytes = 65_536).await;
    let token = token(7, &[Role::User]);
    let ask = |method, path| edge.ask(method, path).bearer_auth(&token);
    let ready = edge.ask(Method::GET, "/ready");
    becomes(&ready, StatusCode::OK).await;
    edge.origin.take_records(false);

    let refused = ask(Method::POST, "/policies/run");
    let mut asked = 0;
    while status(&refused).await != StatusCode::SERVICE_UNAVAILABLE {
        asked += 1;
        assert!(asked < 1000, "it never fills");
    }
    let change = ask(Method::POST, "/memories").json(&serde_json::json!({"content": "lost?"}));
    assert_eq!(status(&change).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(edge.origin.requests(), [], "what is not written down is not done");
    becomes(&ready, StatusCode::SERVICE_UNAVAILABLE).await;

    edge.origin.take_records(true);
    becomes(&ready, StatusCode::OK).await;
    assert_eq!(status(&change).await, StatusCode::OK);
}

#[tokio::test]
async fn health_is_told_in_the_shapes_that_clients_know_and_nothing_besides() {
    let world = World::start().await;
    let ready = world.ask(Method::GET, "/ready");
    becomes(&ready, StatusCode::OK).await;
    let component = ["healthy", "message", "status"];
    let feature = ["enabled", "status"];
    let report = ["details", "message", "status", "timestamp"];
    let checks = ["audit_logging", "authentication", "database", "redis"];
    let service = ["service", "start_time", "status", "uptime_human", "uptime_seconds"];

    let health = told(&world.ask(Method::GET, "/health")).await;
    let ready = told(&ready).await;
    let details = told(&world.ask(Method::GET, "/health/detailed")).await;
    let root = told(&world.ask(Method::GET, "/")).await;

    assert_eq!(names(&health), report);
    assert_eq!(names(&health["details"]), ["uptime_seconds"]);
    assert_eq!(names(&ready), report);
    assert_eq!(names(&root), service);
    let parts = ["backend", "database", "features", "liveness", "readiness", "redis", "service"];
    assert_eq!(names(&details), [&parts[..], &["timestamp"]].concat());
    assert_eq!(names(&details["service"]), service);
    for of in [&ready["details"], &details["readiness"]["details"]] {
        assert_eq!(names(of), checks);
        assert_eq!(
            (names(&of["database"]), names(&of["redis"])),
            (component.into(), component.into())
        );
        assert_eq!(names(&of["authentication"]), feature);
        assert_eq!(names(&of["audit_logging"]), feature);
    }
    for part in ["liveness", "readiness"] {
        assert_eq!(names(&details[part]), ["details", "healthy", "message", "status", "timestamp"]);
    }
    for part in ["backend", "database", "redis"] {
        assert_eq!(names(&details[part]), component);
    }
    assert_eq!(names(&details["features"]), ["audit_logging", "authentication", "cors", "metrics"]);
    assert!(details["features"].as_object().unwrap().values().all(Value::is_string));
}

/// Asks again and again until the answer has `wanted`; returns what it says.
async fn becomes(ask: &RequestBuilder, wanted: StatusCode) -> Value {
    until_some(&format!("it is answered with {wanted}"), async || {
        let answer = ask.try_clone().unwrap().send().await.unwrap();
        let (status, told) = (answer.status(), answer.json().await.unwrap());
        (status == wanted).then_some(told)
    })
    .await
}

async fn status(ask: &RequestBuilder) -> StatusCode {
    ask.try_clone().unwrap().send().await.unwrap().status()
}

async fn told(ask: &RequestBuilder) -> Value {
    ask.try_clone().unwrap().send().await.unwrap().json().await.unwrap()
}

/// What `value` has, in order.
fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}
