//! Who asks too often is told so, and nobody else pays for it.

use harness::{Edge, token};
use memoric_config::schema::Quota;
use memoric_contract::Role;
use reqwest::{Method, Response, StatusCode};
use serde_json::json;

#[tokio::test]
async fn a_noisy_neighbour_does_not_keep_a_probe_from_its_answer() {
    let edge = Edge::with(|settings| {
        settings.gateway.limits.address = few(3);
        settings.gateway.limits.health = few(4);
    })
    .await;
    let ask = async |path: &str| edge.ask(Method::GET, path).send().await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask("/memories").await.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(ask("/memories").await.status(), StatusCode::TOO_MANY_REQUESTS);

    for path in ["/health", "/ready", "/health/detailed", "/"] {
        assert_ne!(ask(path).await.status(), StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
    let refused = ask("/health").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "it has a bound too");
    assert_eq!(told(&refused), (r#""health";q=4;w=40000"#, r#""health";r=0"#));
}

#[tokio::test]
async fn each_class_of_operations_has_a_budget_of_its_own() {
    let edge = Edge::with(|settings| {
        settings.gateway.limits.read = few(2);
        settings.gateway.limits.write = few(1);
        settings.gateway.limits.admin = few(1);
    })
    .await;
    let (admin, other) = (token(7, &[Role::Admin]), token(8, &[Role::Admin]));
    let ask = async |token: &str, method: Method, path: &str| {
        let request = edge.ask(method.clone(), path).bearer_auth(token);
        let request = if method == Method::POST { request.json(&json!({})) } else { request };
        request.send().await.unwrap()
    };

    for (method, path, times) in [
        (Method::POST, "/memories", 1),
        (Method::GET, "/memories", 2),
        (Method::GET, "/audit/logs", 1),
    ] {
        for _ in 0..times {
            let answer = ask(&admin, method.clone(), path).await;
            assert_eq!(answer.status(), StatusCode::OK, "{method} {path}");
        }
        let refused = ask(&admin, method.clone(), path).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "{method} {path}");
        assert!(refused.headers().contains_key("retry-after"));
        let answer = ask(&other, method.clone(), path).await;
        assert_eq!(answer.status(), StatusCode::OK, "another's budget is untouched");
    }
}

#[tokio::test]
async fn the_budget_is_told_that_runs_out_first() {
    let edge = Edge::with(|settings| {
        settings.gateway.limits.address = few(90);
        settings.gateway.limits.credentials = few(2);
        settings.gateway.limits.identity = few(50);
    })
    .await;
    let log_in = async || {
        let request = edge.ask(Method::POST, "/auth/login").json(&json!({}));
        request.send().await.unwrap()
    };

    assert_eq!(told(&log_in().await), (r#""credentials";q=2;w=20000"#, r#""credentials";r=1"#));
    assert_eq!(told(&log_in().await).1, r#""credentials";r=0"#);
    let refused = log_in().await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(told(&refused), (r#""credentials";q=2;w=20000"#, r#""credentials";r=0"#));

    let read = edge.ask(Method::GET, "/memories").bearer_auth(token(7, &[Role::User]));
    assert_eq!(told(&read.send().await.unwrap()).1, r#""identity";r=49"#);
    let nowhere = edge.ask(Method::GET, "/nowhere").send().await.unwrap();
    assert_eq!(told(&nowhere).1, r#""address";r=85"#);
}

/// So many at once, and no more while a test lasts.
fn few(burst: u32) -> Quota {
    Quota { per_second: 0.0001, burst }
}

/// What an answer tells of a budget: how it is made, and what is left of it.
fn told(answer: &Response) -> (&str, &str) {
    let field = |name| answer.headers()[name].to_str().unwrap();
    (field("ratelimit-policy"), field("ratelimit"))
}
