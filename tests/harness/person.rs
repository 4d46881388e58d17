//! Someone with an account and an access token.

use std::net::SocketAddr;

use memoric_contract::token::{Claims, TokenKeys, TokenSigner};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use crate::{JWT_SECRET, now};

/// A person of a test.
#[derive(Clone, Debug)]
pub struct Person {
    /// The id of the account.
    pub id: i64,
    /// The user name.
    pub name: String,
    /// An access token.
    pub token: String,
}

impl Person {
    /// Someone new of the gateway at `http`, where everybody may register.
    pub async fn register(http: SocketAddr, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let account = json!({"username": name, "email": email, "password": PASSWORD});
        let made = post(http, "/auth/register", &account).await;
        assert_eq!(made.status(), StatusCode::CREATED, "{name}");
        Self::log_in(http, name).await
    }

    /// Someone whom the gateway at `http` knows.
    pub async fn log_in(http: SocketAddr, name: &str) -> Self {
        let login = json!({"username": name, "password": PASSWORD});
        Self::let_in(name, post(http, "/auth/login", &login).await).await
    }

    /// Who was answered with `login`.
    pub(crate) async fn let_in(name: &str, login: Response) -> Self {
        assert_eq!(login.status(), StatusCode::OK, "{name}");
        let login: Value = login.json().await.expect("JSON");
        Self {
            id: login["user"]["id"].as_i64().expect("a user"),
            name: name.to_owned(),
            token: login["access_token"].as_str().expect("a token").to_owned(),
        }
    }
}

async fn post(http: SocketAddr, path: &str, body: &Value) -> Response {
    let asked = Client::new().post(format!("http://{http}{path}")).json(body);
    asked.send().await.expect("the gateway answers")
}

/// A token that says what the `person`'s says, for `life` seconds from now, signed with `secret`.
pub fn signed(person: &Person, secret: &[u8], life: i64) -> String {
    let now = now();
    let ours = TokenKeys::hs256(JWT_SECRET.as_bytes());
    let claims = ours.verify(&person.token, now).expect("the token is good").clone();
    let exp = now.saturating_add_signed(life);
    let claims = Claims { iat: exp.saturating_sub(3600), exp, ..claims };
    TokenSigner::hs256(secret).sign(&claims).expect("a token")
}

/// Everyone's password.
pub const PASSWORD: &str = "correct-horse-battery";
