//! Which way clients may come, and by which name.

use harness::Edge;
use reqwest::{Client, Method, StatusCode};

#[tokio::test]
async fn browsers_are_kept_to_tls_only_where_they_have_no_other_way() {
    for (hsts, expected) in [(None, false), (Some(true), true), (Some(false), false)] {
        let edge = Edge::with(|settings| settings.gateway.tls.hsts = hsts).await;
        let clear = reqwest::get(format!("http://{}/health", edge.http)).await.unwrap();
        let tls = edge.ask(Method::GET, "/health").send().await.unwrap();

        let is_told = tls.headers().contains_key("strict-transport-security");
        assert_eq!(is_told, expected, "{hsts:?}: it holds for the HTTP port of this host too");
        assert!(!clear.headers().contains_key("strict-transport-security"), "RFC 6797, 7.2");
    }
}

#[tokio::test]
async fn a_gateway_is_found_by_the_names_that_containers_have() {
    let edge = Edge::start().await;
    let client =
        Client::builder().no_proxy().resolve("memoric_gateway", edge.http).build().unwrap();

    let url = format!("http://memoric_gateway:{}/health", edge.http.port());
    let answer = client.get(url).send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::OK);
}
