//! What is tried again: only what cannot happen twice, and only what a client is told so of.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use harness::{Answer, Edge, token};
use memoric_contract::Role;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn a_change_whose_fate_is_unknown_is_not_called_one_to_try_again() {
    let edge = Edge::start().await;
    edge.origin.answer_with(|_| Vec::new());

    let changed = remember(&edge).send().await.unwrap();

    assert_eq!(changed.status(), StatusCode::BAD_GATEWAY);
    assert!(!changed.headers().contains_key("retry-after"), "it may have been done");
    assert_eq!(code(changed).await, "outcome_unknown");
    let read = recall(&edge).send().await.unwrap();
    assert_eq!(read.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(read.headers()["retry-after"], "1", "reading twice does no harm");
    assert_eq!(code(read).await, "backend_unavailable");
}

#[tokio::test]
async fn what_never_reached_the_backend_may_be_tried_again() {
    let edge = Edge::start().await;
    edge.origin.stop();

    let refused = edge.ask(Method::POST, "/auth/login").json(&json!({})).send().await.unwrap();

    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(code(refused).await, "backend_unavailable");
}

#[tokio::test]
async fn a_connection_that_turned_out_dead_costs_a_read_nothing_and_repeats_no_change() {
    let edge = Edge::start().await;
    let used = Mutex::new(HashSet::new());
    // Each connection is good for one answer, and closed over the next request.
    edge.origin.answer_with(move |request| {
        let mut used = used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.insert(request.connection) { Answer::json(&json!([])) } else { Vec::new() }
    });

    assert_eq!(recall(&edge).send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(recall(&edge).send().await.unwrap().status(), StatusCode::OK, "by another one");
    assert_eq!(edge.origin.requests().len(), 3, "asked twice");

    edge.origin.forget();
    let changed = remember(&edge).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(edge.origin.requests().len(), 1, "asked once");
}

fn recall(edge: &Edge) -> RequestBuilder {
    edge.ask(Method::GET, "/memories").bearer_auth(token(7, &[Role::User]))
}

fn remember(edge: &Edge) -> RequestBuilder {
    let memory = json!({"content": "x"});
    edge.ask(Method::POST, "/memories").bearer_auth(token(7, &[Role::User])).json(&memory)
}

async fn code(answer: Response) -> String {
    let problem: Value = answer.json().await.unwrap();
    problem["code"].as_str().unwrap().to_owned()
}
