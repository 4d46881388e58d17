//! What browsers are told about TLS.

use harness::Edge;
use reqwest::Method;

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
