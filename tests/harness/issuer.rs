//! Somebody else who mints tokens, and tells their keys on loopback.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use memoric_config::schema;
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// An issuer of tokens on a port of its own, for as long as it is there.
pub struct Issuer {
    /// Where its keys are.
    pub address: SocketAddr,
    state: Arc<State>,
    server: tokio::task::JoinHandle<()>,
}

struct State {
    keys: Mutex<Vec<(String, KeyPair)>>,
    /// What it answers instead, if anything.
    instead: Mutex<Option<(u16, String)>>,
    asked: AtomicUsize,
}

impl Issuer {
    /// One with one key, `first`.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            keys: Mutex::new(vec![key("first")]),
            instead: Mutex::new(None),
            asked: AtomicUsize::new(0),
        });
        let shared = Arc::clone(&state);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("it listens");
                let state = Arc::clone(&shared);
                let answer = service_fn(move |_| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(state.answer()) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { address, state, server }
    }

    /// The settings by which it is believed.
    pub fn settings(&self) -> schema::Issuer {
        schema::Issuer {
            issuer: self.name(),
            audience: "memoric-test".to_owned(),
            jwks_url: format!("http://{}/keys", self.address),
            algorithms: vec!["EdDSA".to_owned()],
            may_grant_roles: false,
            ca: None,
        }
    }

    /// What it calls itself.
    pub fn name(&self) -> String {
        format!("https://issuer.test/{}", self.address.port())
    }

    /// The claims of a good token for `subject`.
    pub fn claims(&self, subject: &str, now: u64) -> Value {
        json!({"iss": self.name(), "aud": "memoric-test", "sub": subject, "iat": now,
               "exp": now + 600, "jti": uuid::Uuid::new_v4()})
    }

    /// A token that says `claims`, signed with the newest key.
    pub fn mint(&self, claims: &Value) -> String {
        let keys = self.state.keys.lock().expect("nobody panicked");
        let (kid, key) = keys.last().expect("there is one");
        let header = json!({"alg": "EdDSA", "kid": kid, "typ": "at+jwt"}).to_string();
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims.to_string()));
        let signature = key.sign(message.as_bytes()).expect("it is a private key");
        format!("{message}.{}", BASE64.encode(signature))
    }

    /// Signs with a new key from now on; the others are told no more.
    pub fn rotate(&self, kid: &str) {
        *self.state.keys.lock().expect("nobody panicked") = vec![key(kid)];
    }

    /// Answers with a status and a body instead of its keys; `None`: with its keys again.
    pub fn answer_instead(&self, instead: Option<(u16, &str)>) {
        *self.state.instead.lock().expect("nobody panicked") =
            instead.map(|(status, body)| (status, body.to_owned()));
    }

    /// How often it was asked for its keys.
    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl State {
    fn answer(&self) -> Response<Full<Bytes>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let Some((status, body)) = &*self.instead.lock().expect("nobody panicked") {
            let answer = Response::builder().status(*status).header("location", body);
            return answer.body(Full::from(body.clone())).expect("a good answer");
        }
        let keys = self.keys.lock().expect("nobody panicked");
        let jwk = |(kid, key): &(String, KeyPair)| {
            json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "alg": "EdDSA",
                   "x": BASE64.encode(key.der_bytes())})
        };
        let set = json!({"keys": keys.iter().map(jwk).collect::<Vec<_>>()});
        Response::new(Full::from(set.to_string()))
    }
}

fn key(kid: &str) -> (String, KeyPair) {
    (kid.to_owned(), KeyPair::generate_for(&PKCS_ED25519).expect("a key"))
}
