//! Someone with an account and an access token.

use std::time::{SystemTime, UNIX_EPOCH};

use memoric_contract::token::{Claims, TokenKeys, TokenSigner};

use crate::JWT_SECRET;

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

/// A token that says what the `person`'s says, for `life` seconds from now, signed with `secret`.
pub fn signed(person: &Person, secret: &[u8], life: i64) -> String {
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970").as_secs();
    let ours = TokenKeys::hs256(JWT_SECRET.as_bytes());
    let claims = ours.verify(&person.token, now).expect("the token is good").clone();
    let exp = now.saturating_add_signed(life);
    let claims = Claims { iat: exp.saturating_sub(3600), exp, ..claims };
    TokenSigner::hs256(secret).sign(&claims).expect("a token")
}

/// Everyone's password.
pub const PASSWORD: &str = "correct-horse-battery";
