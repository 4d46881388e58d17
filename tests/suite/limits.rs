//! Who asks too often is told so, and nobody else pays for it.

use harness::{Answer, Edge, PASSWORD, World, token, until};
use memoric_config::schema::Quota;
use memoric_contract::Role;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

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

#[tokio::test]
async fn good_refreshes_of_many_behind_one_address_starve_nobody() {
    let edge = refreshing(2).await;

    for _ in 0..20 {
        let good = refresh(&edge, GOOD).await;
        assert_eq!(good.status(), StatusCode::OK);
        assert_eq!(told(&good), (r#""refresh";q=2;w=20000"#, r#""refresh";r=2"#));
    }
}

#[tokio::test]
async fn however_many_good_refreshes_come_between_bad_ones_stay_bounded() {
    let edge = refreshing(3).await;

    for left in [2, 1, 0] {
        for _ in 0..5 {
            assert_eq!(refresh(&edge, GOOD).await.status(), StatusCode::OK);
        }
        let bad = refresh(&edge, "mrt_guess").await;
        assert_eq!(bad.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(told(&bad).1, format!(r#""refresh";r={left}"#));
    }

    for token in ["mrt_guess", GOOD] {
        let refused = refresh(&edge, token).await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "nobody knows which it is");
        assert_eq!(told(&refused).1, r#""refresh";r=0"#);
    }
    assert_eq!(edge.origin.requests().len(), 18);
}

#[tokio::test]
async fn guesses_at_passwords_keep_nobody_beside_them_from_a_refresh() {
    let edge = refreshing(3).await;
    let log_in = async || {
        let request = edge.ask(Method::POST, "/auth/login").json(&json!({}));
        request.send().await.unwrap().status()
    };
    for _ in 0..3 {
        assert_eq!(log_in().await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(log_in().await, StatusCode::TOO_MANY_REQUESTS);

    assert_eq!(refresh(&edge, GOOD).await.status(), StatusCode::OK);
    for _ in 0..3 {
        assert_eq!(refresh(&edge, "mrt_guess").await.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(refresh(&edge, GOOD).await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn refreshes_on_their_way_are_charged_until_they_are_answered() {
    let edge = refreshing(2).await;
    let (mut first, second) = (begin_refresh(&edge).await, begin_refresh(&edge).await);

    let refused = async || refresh(&edge, GOOD).await.status() == StatusCode::TOO_MANY_REQUESTS;
    until("both have been charged", refused).await;
    first.write_all(b"}").await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    assert_eq!(refresh(&edge, GOOD).await.status(), StatusCode::OK, "it was good");

    // Nobody stays to hear how this one was answered.
    drop((first, second));
    let none = async || edge.counted("memoric_gateway_requests_in_flight").await == 0.0;
    until("it has ended", none).await;
    assert_eq!(told(&refresh(&edge, GOOD).await).1, r#""refresh";r=1"#, "it stays charged");
    assert_eq!(told(&refresh(&edge, "mrt_guess").await).1, r#""refresh";r=0"#);
    assert!(refused().await);
}

#[tokio::test]
async fn what_is_tried_by_who_is_known_is_at_their_own_expense() {
    let edge = Edge::with(|settings| settings.gateway.limits.credentials = few(2)).await;
    let (alice, bob) = (token(7, &[Role::User]), token(8, &[Role::User]));
    let ask = async |path: &str, token: Option<&str>| {
        let request = edge.ask(Method::POST, path).json(&json!({}));
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        request.send().await.unwrap().status()
    };
    for _ in 0..2 {
        assert_eq!(ask("/auth/login", None).await, StatusCode::OK);
    }
    assert_eq!(ask("/auth/login", None).await, StatusCode::TOO_MANY_REQUESTS);

    for path in ["/auth/api-keys", "/auth/api-keys/k/rotate"] {
        assert_eq!(ask(path, Some(&alice)).await, StatusCode::OK, "{path}");
    }
    for path in ["/auth/api-keys", "/auth/api-keys/k/rotate"] {
        assert_eq!(ask(path, Some(&alice)).await, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
    assert_eq!(ask("/auth/api-keys", Some(&bob)).await, StatusCode::OK, "another's is left");

    for _ in 0..2 {
        assert_eq!(ask("/auth/change-password", Some(&alice)).await, StatusCode::OK);
    }
    assert_eq!(ask("/auth/change-password", Some(&alice)).await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn what_a_credential_may_not_do_spends_nothing_that_its_owner_does_it_by() {
    let edge = Edge::with(|settings| {
        settings.gateway.limits.identity = few(50);
        settings.gateway.limits.write = few(2);
        settings.gateway.limits.admin = few(2);
    })
    .await;
    let (reader, admin) = (token(7, &[Role::Readonly]), token(7, &[Role::Admin]));
    let asked = [(Method::POST, "/memories"), (Method::GET, "/audit/logs")];
    let ask = async |token: &str, method: &Method, path: &str| {
        let request = edge.ask(method.clone(), path).bearer_auth(token);
        let request = if method == Method::POST { request.json(&json!({})) } else { request };
        request.send().await.unwrap()
    };

    for (method, path) in &asked {
        for _ in 0..10 {
            let refused = ask(&reader, method, path).await;
            assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        }
        assert_eq!(ask(&admin, method, path).await.status(), StatusCode::OK, "{path}");
    }
    for _ in 0..28 {
        assert_eq!(ask(&reader, &Method::POST, "/memories").await.status(), StatusCode::FORBIDDEN);
    }
    let refused = ask(&reader, &Method::POST, "/memories").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "it was charged for asking");
    assert_eq!(told(&refused).1, r#""identity";r=0"#);
}

#[tokio::test]
async fn a_stolen_key_that_asks_without_end_keeps_its_owner_from_ending_nothing() {
    let world = World::with(|settings| {
        settings.gateway.limits.identity = few(60);
        settings.gateway.limits.credentials = few(12);
        settings.gateway.limits.write = few(20);
    })
    .start()
    .await;
    let alice = world.register("alice").await;
    let wanted = json!({"name": "stolen", "scopes": ["memories:read"]});
    let made = world.ask_as(&alice, Method::POST, "/auth/api-keys").json(&wanted).send().await;
    let made: Value = made.unwrap().json().await.unwrap();
    let (id, stolen) = (made["id"].as_str().unwrap(), made["api_key"].as_str().unwrap());
    let press = async |method: Method, path: &str| {
        let request = world.ask(method.clone(), path).header("x-api-key", stolen);
        let request = if method == Method::POST { request.json(&json!({})) } else { request };
        request.send().await.unwrap().status()
    };
    let one = format!("/auth/api-keys/{id}");

    for (method, path) in [
        (Method::POST, "/auth/change-password"),
        (Method::POST, "/auth/logout-all"),
        (Method::POST, "/memories"),
        (Method::DELETE, "/auth/api-keys/aaaaaaaaaaaa"),
        (Method::GET, "/memories"),
    ] {
        for _ in 0..100 {
            if press(method.clone(), path).await == StatusCode::TOO_MANY_REQUESTS {
                break;
            }
        }
        assert_eq!(press(method, path).await, StatusCode::TOO_MANY_REQUESTS, "{path}");
    }
    let recall = world.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
    assert_eq!(recall.status(), StatusCode::TOO_MANY_REQUESTS, "what they share is spent");

    let change = json!({"old_password": PASSWORD, "new_password": "another-horse-battery"});
    let list = world.ask_as(&alice, Method::GET, "/auth/api-keys").send().await.unwrap();
    assert_eq!(list.status(), StatusCode::OK);
    let revoke = world.ask_as(&alice, Method::DELETE, &one).send().await.unwrap();
    assert!(revoke.status().is_success(), "{}", revoke.status());
    let changed = world.ask_as(&alice, Method::POST, "/auth/change-password").json(&change);
    assert_eq!(changed.send().await.unwrap().status(), StatusCode::OK);
    let again = world.try_log_in("alice", "another-horse-battery").await;
    let again: Value = again.json().await.unwrap();
    let end = world.ask(Method::POST, "/auth/logout-all");
    let end = end.bearer_auth(again["access_token"].as_str().unwrap()).send().await.unwrap();
    assert!(end.status().is_success(), "{}", end.status());
}

/// A gateway that lets an address make so many attempts, and behind it one refresh token that is good.
async fn refreshing(burst: u32) -> Edge {
    let edge = Edge::with(|settings| settings.gateway.limits.credentials = few(burst)).await;
    edge.origin.answer_with(|request| match request.values("authorization")[..] {
        [presented] if presented.ends_with(GOOD) => Answer::json(&json!({})),
        _ => b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_vec(),
    });
    edge
}

async fn refresh(edge: &Edge, token: &str) -> Response {
    edge.ask(Method::POST, "/auth/refresh").bearer_auth(token).send().await.unwrap()
}

/// All of a good refresh but its last byte.
async fn begin_refresh(edge: &Edge) -> TcpStream {
    let mut client = TcpStream::connect(edge.http).await.unwrap();
    let head = format!(
        "POST /auth/refresh HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {GOOD}\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{"
    );
    client.write_all(head.as_bytes()).await.unwrap();
    client
}

const GOOD: &str = "mrt_good";

/// So many at once, and no more while a test lasts.
fn few(burst: u32) -> Quota {
    Quota { per_second: 0.0001, burst }
}

/// What an answer tells of a budget: how it is made, and what is left of it.
fn told(answer: &Response) -> (&str, &str) {
    let field = |name| answer.headers()[name].to_str().unwrap();
    (field("ratelimit-policy"), field("ratelimit"))
}
