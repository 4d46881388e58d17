//! Which access tokens are believed, by which keys, and how keys come and go.

mod attacks;
mod issuers;
mod presented;
mod rotation;

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use harness::{JWT_SECRET, Person, Program, Recipe, World, now};
use hmac::{Hmac, KeyInit as _, Mac as _};
use memoric_config::schema::{Algorithm, Jwt, JwtKey, Settings};
use memoric_contract::token::{TokenKey, TokenKeys};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;

/// An Ed25519 key pair, in files as an operator makes them.
struct Pair {
    key: KeyPair,
    folder: TempDir,
}

impl Pair {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("jwt.pem"), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("jwt.pub"), key.public_key_pem()).unwrap();
        Self { key, folder }
    }

    fn public(&self) -> [u8; 32] {
        self.key.der_bytes().try_into().unwrap()
    }

    fn kid(&self) -> String {
        TokenKey::ed25519(&self.public()).kid().to_owned()
    }

    fn setting(&self, signs: bool) -> JwtKey {
        JwtKey {
            algorithm: Algorithm::EdDsa,
            secret_file: None,
            public_key_file: Some(self.folder.path().join("jwt.pub")),
            private_key_file: Some(self.folder.path().join("jwt.pem")),
            signs,
        }
    }

    /// The same in the words of a file of settings.
    fn yaml(&self, signs: bool) -> String {
        let at = self.folder.path().display();
        format!(
            "    - algorithm: EdDSA\n      public_key_file: {at}/jwt.pub\n      \
             private_key_file: {at}/jwt.pem\n      signs: {signs}\n"
        )
    }
}

#[tokio::test]
async fn where_all_keys_are_secret_the_world_is_told_of_none() {
    let world = World::start().await;

    assert_eq!(public_keys(&world).await, json!({"keys": []}));
    let head = world.ask(Method::HEAD, "/.well-known/jwks.json").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-length"], "11");
    assert_eq!(head.text().await.unwrap(), "");
}

#[tokio::test]
async fn what_the_world_is_told_is_enough_to_verify_a_token_and_no_more() {
    let pair = Pair::new();
    let (world, public) = (with_keys(vec![pair.setting(true)]).await, pair.public());
    let alice = world.register("alice").await;

    let told = public_keys(&world).await;

    let x = BASE64.encode(public);
    let key = json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": pair.kid(),
                     "alg": "EdDSA", "use": "sig"});
    assert_eq!(told, json!({ "keys": [key] }), "the secret beside it is not told");
    let claims = TokenKeys::from_iter([TokenKey::ed25519(&public)]).verify(&alice.token, now());
    assert_eq!(claims.unwrap().sub, alice.id.to_string());
    assert_eq!(header_of(&alice.token), json!({"alg": "EdDSA", "typ": "JWT", "kid": pair.kid()}));
}

#[tokio::test]
async fn by_eddsa_the_gateway_works_and_holds_nothing_that_signs() {
    let pair = Pair::new();
    let recipe = Recipe::new().await.unset("MEMORIC_JWT_SECRET");
    let file = settings_file(recipe.folder(), &pair.yaml(true));
    let recipe = recipe.set("MEMORIC_CONFIG", &file);
    let elsewhere = pair.yaml(true).replace("jwt.pem", "nowhere.pem");
    let without = settings_file(pair.folder.path(), &elsewhere);

    let checked = |program: Program, file: &str| {
        let output = program.env("MEMORIC_CONFIG", file).args(["check"]).run();
        format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
    };
    let gateway = checked(recipe.program("memoric-gateway"), &without);
    let backend = checked(recipe.program("memoric-backend"), &without);
    assert!(gateway.contains(&format!("token key: {} EdDSA", pair.kid())), "{gateway}");
    assert!(!gateway.contains("keys[0].private_key_file: "), "it does not look for it: {gateway}");
    assert!(backend.contains("auth.jwt.keys[0].private_key_file: "), "{backend}");

    let memoric = recipe.set("MEMORIC_AUTH__REGISTRATION", "open").start().await;
    let alice = rotation::Client::register(memoric.http, "alice").await;
    assert_eq!(alice.ask().await, StatusCode::OK);
}

#[tokio::test]
async fn a_gateway_without_a_secret_starts_only_where_another_key_signs() {
    let pair = Pair::new();
    let recipe = Recipe::new().await.unset("MEMORIC_JWT_SECRET");
    for keys in ["".to_owned(), pair.yaml(false)] {
        let file = settings_file(recipe.folder(), &keys);
        for name in ["memoric-gateway", "memoric-backend"] {
            let program = recipe.program(name).env("MEMORIC_CONFIG", &file);
            let refused = String::from_utf8(program.args(["serve"]).run().stderr).unwrap();
            assert!(refused.contains("MEMORIC_JWT_SECRET: is not set"), "{name}: {refused}");
            assert_eq!(refused.lines().count(), 1, "{refused}");
        }
    }
}

/// A world in which these keys stand beside `MEMORIC_JWT_SECRET`.
async fn with_keys(keys: Vec<JwtKey>) -> World {
    World::with(move |settings: &mut Settings| {
        settings.auth.jwt = Jwt { environment_key: true, keys };
    })
    .start()
    .await
}

async fn public_keys(world: &World) -> Value {
    let answer = world.ask(Method::GET, "/.well-known/jwks.json").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
    answer.json().await.unwrap()
}

/// Writes settings of these keys into `folder`, and says where.
fn settings_file(folder: &Path, keys: &str) -> String {
    let file = folder.join("memoric.yaml");
    let keys = if keys.is_empty() { "      []\n" } else { keys };
    std::fs::write(&file, format!("auth:\n  jwt:\n    keys:\n{keys}")).unwrap();
    file.display().to_string()
}

fn claims_of(person: &Person) -> Value {
    part(&person.token, 1)
}

fn header_of(token: &str) -> Value {
    part(token, 0)
}

fn part(token: &str, which: usize) -> Value {
    let part = token.split('.').nth(which).unwrap();
    serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
}

/// HMAC-SHA256 of `message`.
fn hmac(secret: &[u8], message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}
