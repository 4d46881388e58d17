//! Which way clients may come, and by which name.

use std::path::Path;

use harness::{Edge, Recipe, certificate, until};
use reqwest::{Certificate, Client, Method, StatusCode};
use rustix::process::Signal;

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

#[tokio::test]
async fn a_certificate_that_is_renewed_is_shown_without_a_restart_and_a_broken_one_never() {
    let (recipe, renewed) = (Recipe::new().await, certificate());
    let gateway = recipe.program("memoric-gateway").args(["serve"]).start();
    let pem = |folder: &Path| std::fs::read(folder.join("certificate.pem")).unwrap();
    let (old, new) = (pem(recipe.folder()), pem(renewed.path()));
    let url = format!("https://{}/health", recipe.value("MEMORIC_HTTPS"));
    let is_shown = async |certificate: &[u8]| {
        let root = Certificate::from_pem(certificate).unwrap();
        let client = Client::builder().tls_certs_only([root]).build().unwrap();
        client.get(&url).send().await.is_ok()
    };
    until("the gateway serves", async || is_shown(&old).await).await;

    for file in ["certificate.pem", "key.pem"] {
        std::fs::copy(renewed.path().join(file), recipe.folder().join(file)).unwrap();
    }
    assert!(!is_shown(&new).await, "nobody has told it");
    gateway.signal(Signal::HUP);
    until("it shows the new one", async || is_shown(&new).await).await;
    assert!(!is_shown(&old).await);

    let key = recipe.folder().join("key.pem");
    std::fs::write(&key, "no key").unwrap();
    gateway.signal(Signal::HUP);
    until("it says so", async || gateway.stdout().contains("the certificate was refused")).await;
    assert!(gateway.stdout().contains(&key.display().to_string()), "{}", gateway.stdout());
    assert!(is_shown(&new).await, "the one in force stays");
}
