//! Without a backend: whom Redis and the keys of tokens alone let in.

use std::time::Duration;

use harness::{CHECK_SECRET, Edge, JWT_SECRET, Redis, RedisRecipe, Upload, now, token, until};
use memoric_config::{
    Settings,
    schema::{Algorithm, JwtKey},
};
use memoric_contract::{
    Identity, PresentedBy, Role,
    api_key::{ApiKey, CheckKey},
    revocation::{Revocation, Revoked},
    token::{Claims, TokenKeys, TokenSigner},
};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use tokio::time::sleep;

use super::Service;

#[tokio::test]
async fn what_a_backend_answers_is_not_there_and_what_the_gateway_answers_is() {
    let site = Site::start().await;
    let token = token(7, &[Role::Admin]);

    for (method, path) in [
        (Method::GET, "/memories"),
        (Method::POST, "/memories"),
        (Method::POST, "/auth/login"),
        (Method::POST, "/auth/refresh"),
        (Method::POST, "/auth/logout"),
        (Method::GET, "/auth/me"),
        (Method::GET, "/audit/logs"),
        (Method::GET, "/openapi.json"),
        (Method::GET, "/internal/health"),
        (Method::GET, "/nowhere"),
    ] {
        let answer = site.edge.ask(method, path).bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/", "/health", "/ready", "/health/detailed", "/.well-known/jwks.json"] {
        assert_eq!(status(site.edge.ask(Method::GET, path)).await, StatusCode::OK, "{path}");
    }

    assert_eq!(site.service.origin.requests(), []);
    assert_eq!(site.edge.origin.bytes().concat(), b"", "nobody asks a backend that there is not");
}

#[tokio::test]
async fn a_token_of_the_ring_lets_in_and_no_other_credential_does() {
    let site = Site::start().await;

    assert_eq!(status(site.ask(&token(7, &[Role::User]))).await, StatusCode::OK);
    let [heard] = &site.service.origin.requests()[..] else { panic!("one arrives") };
    assert_eq!(heard.values("x-user-id"), ["7"]);
    site.service.origin.forget();

    let key = api_key();
    for refused in ["a.b.c", key.as_str(), "mk_a", "mrt_a", ""] {
        assert_eq!(status(site.ask(refused)).await, StatusCode::UNAUTHORIZED, "{refused}");
    }
    let by_header = site.edge.ask(Method::GET, "/tools").header("x-api-key", &key);
    assert_eq!(status(by_header).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(site.edge.ask(Method::GET, "/tools")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(site.service.origin.requests(), []);
}

#[tokio::test]
async fn a_public_key_is_all_that_it_takes_to_believe_tokens() {
    let (key, folder) =
        (KeyPair::generate_for(&PKCS_ED25519).unwrap(), tempfile::tempdir().unwrap());
    let file = folder.path().join("jwt.pub");
    std::fs::write(&file, key.public_key_pem()).unwrap();
    let site = Site::with(|settings| {
        settings.auth.jwt.environment_key = false;
        settings.auth.jwt.keys = vec![JwtKey {
            algorithm: Algorithm::EdDsa,
            secret_file: None,
            public_key_file: Some(file),
            private_key_file: None,
            signs: false,
        }];
    })
    .await;
    let by_secret = token(7, &[Role::User]);
    let public = key.der_bytes().try_into().unwrap();
    let signer = TokenSigner::ed25519(&key.serialize_der(), &public).unwrap();
    let by_key = signer.sign(&claims(&by_secret)).unwrap();

    assert_eq!(status(site.ask(&by_key)).await, StatusCode::OK);
    assert_eq!(status(site.ask(&by_secret)).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_redis_says_has_ended_is_refused_at_the_next_request() {
    let site = Site::start().await;
    let end = |identity: &Identity, which: &str| {
        let PresentedBy::AccessToken { jti, sid, generation, .. } = identity.presented else {
            panic!("{identity:?}")
        };
        let revoked = match which {
            "jti" => Revoked::Token(jti),
            "sid" => Revoked::Session(sid),
            _ => Revoked::Before(generation + 1),
        };
        Revocation { user: identity.user, revoked, expires_at: 0 }
    };
    for which in ["jti", "sid", "gen"] {
        let (ended, stays) = (token(7, &[Role::User]), token(8, &[Role::User]));
        assert_eq!(status(site.ask(&ended)).await, StatusCode::OK, "{which}");

        let revocation = end(&identity(&ended), which);
        let (key, value) =
            (format!("memoric:{}", revocation.redis_key()), revocation.redis_value());
        assert!(
            key.starts_with(&format!("memoric:revoked:{{7}}:{which}")),
            "as it is printed: {key}"
        );
        site.redis.ask::<()>(&["SET", &key, &value, "EX", "3600"]).await;
        site.service.origin.forget();
        let answer = site.ask(&ended).send().await.unwrap();

        assert_eq!(problem(answer).await, (401, "credential_revoked".to_owned()), "{which}");
        assert_eq!(site.service.origin.requests(), [], "{which}");
        assert_eq!(status(site.ask(&stays)).await, StatusCode::OK, "{which}");
        site.redis.ask::<()>(&["DEL", &key]).await;
    }
}

#[tokio::test]
async fn while_redis_is_away_nobody_is_let_in_and_nobody_is_sent_here() {
    let mut site = Site::start().await;
    let token = token(7, &[Role::User]);
    let ready = || status(site.edge.ask(Method::GET, "/ready"));
    let ended = identity(&token);
    let PresentedBy::AccessToken { sid, .. } = ended.presented else { panic!("{ended:?}") };

    site.redis.freeze();
    site.service.origin.forget();
    let answer = site.ask(&token).send().await.unwrap();
    assert_eq!(problem(answer).await, (503, "revocation_unavailable".to_owned()), "it is silent");
    until("it is not ready", async || ready().await == StatusCode::SERVICE_UNAVAILABLE).await;
    site.redis.thaw();
    until("it is ready again", async || ready().await == StatusCode::OK).await;
    site.redis.ask::<()>(&["SET", &format!("memoric:revoked:{{7}}:sid:{sid}"), "1"]).await;

    site.redis.kill();
    let answer = site.ask(&token).send().await.unwrap();
    assert_eq!(problem(answer).await, (503, "revocation_unavailable".to_owned()), "it is gone");
    let alive = status(site.edge.ask(Method::GET, "/health")).await;
    assert_eq!(alive, StatusCode::OK, "which is no reason to be restarted");
    site.redis.restart().await;
    let refused = || status(site.ask(&token));
    until("it remembers", async || refused().await == StatusCode::UNAUTHORIZED).await;
    assert_eq!(site.service.origin.requests(), []);
}

#[tokio::test]
async fn while_redis_may_forget_nobody_is_let_in() {
    let site = Site::start().await;
    let token = token(7, &[Role::User]);
    let ask = || status(site.ask(&token));
    for (setting, bad, good) in
        [("appendonly", "no", "yes"), ("maxmemory-policy", "allkeys-lru", "noeviction")]
    {
        site.redis.ask::<()>(&["CONFIG", "SET", setting, bad]).await;
        until(setting, async || ask().await == StatusCode::SERVICE_UNAVAILABLE).await;
        site.redis.ask::<()>(&["CONFIG", "SET", setting, good]).await;
        until(setting, async || ask().await == StatusCode::OK).await;
    }
}

#[tokio::test]
async fn a_revocation_that_comes_during_a_body_ends_its_request() {
    let site = Site::start().await;
    let token = token(7, &[Role::User]);
    let PresentedBy::AccessToken { jti, .. } = identity(&token).presented else { panic!("one") };
    let upload = Upload::begin_at(site.edge.http, "/tools", &token).await;

    site.redis.ask::<()>(&["SET", &format!("memoric:revoked:{{7}}:jti:{jti}"), "1"]).await;
    // What a head was judged by is good for 50 ms.
    sleep(Duration::from_millis(100)).await;
    let answer = upload.end().await;

    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert_eq!(site.service.origin.requests(), [], "it never arrived whole");
}

/// A gateway without a backend, a service at `/tools`, and a Redis that keeps what it is told.
struct Site {
    edge: Edge,
    service: Service,
    redis: Redis,
}

impl Site {
    async fn start() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let (service, redis) = (Service::start(), lasting().start().await);
        let (routes, url) = (vec![service.at("/tools", &[])], redis.url());
        let edge = Edge::with(|settings| {
            let folder = settings.audit.spool.folder.with_file_name("archive");
            alone(settings, url);
            settings.audit.archive = folder;
            settings.gateway.routes = routes;
            change(settings);
        })
        .await;
        let site = Self { edge, service, redis };
        until("it is ready", async || {
            status(site.edge.ask(Method::GET, "/ready")).await == StatusCode::OK
        })
        .await;
        site
    }

    fn ask(&self, token: &str) -> RequestBuilder {
        self.edge.ask(Method::GET, "/tools/x").bearer_auth(token)
    }
}

fn alone(settings: &mut Settings, redis: String) {
    settings.gateway.backend = "none".to_owned();
    settings.redis.url = redis;
}

/// A Redis that keeps what it is told.
pub(super) fn lasting() -> RedisRecipe {
    RedisRecipe::on_a_socket().with(&["--appendonly", "yes", "--save", ""])
}

async fn status(asked: RequestBuilder) -> StatusCode {
    asked.send().await.unwrap().status()
}

/// The status and the code of a refusal.
async fn problem(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: Value = answer.json().await.unwrap();
    (status, problem["code"].as_str().unwrap().to_owned())
}

/// A key that this gateway's check key would let pass.
fn api_key() -> String {
    let check = hex::decode(CHECK_SECRET).unwrap().try_into().unwrap();
    ApiKey::mint([[7; 16]; 3], &CheckKey::new(check)).expose().to_owned()
}

fn identity(token: &str) -> Identity {
    claims(token).identity().unwrap()
}

fn claims(token: &str) -> Claims {
    TokenKeys::hs256(JWT_SECRET.as_bytes()).verify(token, now()).unwrap()
}
