//! Where a message ends: at one place, for us and for whoever reads it after us.

use harness::{Edge, token};
use memoric_contract::Role;
use reqwest::{Method, StatusCode};

#[tokio::test]
async fn what_is_forwarded_is_what_was_judged() {
    let edge = Edge::start().await;

    let answer = edge
        .ask(Method::POST, "/memories/")
        .bearer_auth(token(7, &[Role::User]))
        .header("content-type", "application/json")
        .body(r#"{"content":"tea"}"#)
        .send()
        .await
        .unwrap();

    assert_eq!(answer.status(), StatusCode::OK);
    let [request] = &edge.origin.requests()[..] else { panic!("one request") };
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/memories"));
    assert_eq!(request.body, br#"{"content":"tea"}"#);
    assert!(edge.origin.faults().is_empty());
}
