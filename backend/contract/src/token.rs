//! Access tokens: their claims, and the one way to believe them (RFC 7519, RFC 8725).

mod key;
#[cfg(test)]
mod wycheproof;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use uuid::Uuid;

pub use self::key::{TokenKey, TokenSigner};
use crate::{Identity, PresentedBy, Roles, UserId};

/// Who mints our tokens.
pub const ISSUER: &str = "memoric";

/// The longest life of an access token, in seconds. A revoked generation is remembered this long.
pub const MAX_LIFETIME: u64 = 86_400;

/// What an access token says. A stranger's word, until [`TokenKeys::verify`] has returned it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Claims {
    /// The user, as a decimal string.
    pub sub: String,
    /// Their roles when it was minted.
    pub roles: Roles,
    /// Their namespace when it was minted.
    #[serde(default)]
    pub namespace: Option<String>,
    /// When it was minted, in epoch seconds.
    pub iat: u64,
    /// When it ends, in epoch seconds.
    pub exp: u64,
    /// Its own id.
    pub jti: Uuid,
    /// The session it belongs to.
    pub sid: Uuid,
    /// The refresh counter it was minted at.
    pub ctr: u32,
    /// The user's generation it was minted in.
    #[serde(rename = "gen")]
    pub generation: u64,
    /// Who minted it.
    pub iss: String,
    /// When it begins, in epoch seconds. We never set it; one that is set is kept to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// For whom it is. We never set it, so one that has it is for someone else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aud: Option<Value>,
}

/// The ring of keys that tokens are believed by. One of them signs, all of them verify.
#[derive(Clone)]
pub struct TokenKeys {
    keys: Vec<TokenKey>,
}

/// Why a token was not believed.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum TokenError {
    /// It is not a token of ours: what is wrong.
    #[error("the token is malformed: {0}")]
    Malformed(&'static str),
    /// It names a key that we do not have, or another algorithm than that key's.
    #[error("the token names a key that is not ours")]
    UnknownKey,
    /// We did not sign it.
    #[error("the token has a bad signature")]
    Forged,
    /// It was good once, and said this.
    #[error("the token has expired")]
    Expired(Box<Claims>),
    /// It begins in the future.
    #[error("the token is from the future")]
    Early,
}

/// The header, every member of which we know. An unknown one is refused, `crit`, `jku`, `jwk`
/// and `x5u` with it: a token never says how it wants to be verified.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    #[serde(default)]
    typ: Option<&'a str>,
}

impl TokenKeys {
    /// Believes what is signed with one HS256 secret.
    pub fn hs256(secret: &[u8]) -> Self {
        Self { keys: vec![TokenKey::hs256(secret)] }
    }

    /// The keys of the ring.
    pub fn keys(&self) -> &[TokenKey] {
        &self.keys
    }

    /// What others need to verify our tokens: the public keys as a set (RFC 7517, section 5). Of a
    /// key that is secret nothing is told.
    pub fn to_jwks(&self) -> Value {
        json!({ "keys": self.keys.iter().filter_map(TokenKey::to_jwk).collect::<Vec<_>>() })
    }

    /// Believes `token` only if one of our keys signed it, by that key's own algorithm, and `now`
    /// (epoch seconds) is within its life.
    pub fn verify(&self, token: &str, now: u64) -> Result<Claims, TokenError> {
        let claims: Claims = serde_json::from_slice(&self.open(token)?)
            .map_err(|_| TokenError::Malformed("its claims are not ours"))?;
        claims.ensure_valid(now)?;
        if claims.exp <= now { Err(TokenError::Expired(Box::new(claims))) } else { Ok(claims) }
    }

    /// What `token` says, if one of our keys signed it (RFC 7515, section 5.2).
    fn open(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        if token.len() > MAX_LENGTH {
            return Err(TokenError::Malformed("it is too long"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(NOT_THREE_PARTS)?;
        let (header, payload) = message.split_once('.').ok_or(NOT_THREE_PARTS)?;
        let key = self.key_for(&decode(header)?)?;
        decode(signature)?;
        match key.signed(message.as_bytes(), signature) {
            true => decode(payload),
            false => Err(TokenError::Forged),
        }
    }

    fn key_for(&self, header: &[u8]) -> Result<&TokenKey, TokenError> {
        let header: Header<'_> = serde_json::from_slice(header)
            .map_err(|_| TokenError::Malformed("its header is not ours"))?;
        if header.typ.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(TokenError::Malformed("it is of another type"));
        }
        let key =
            self.keys.iter().find(|key| key.kid() == header.kid).ok_or(TokenError::UnknownKey)?;
        if key.algorithm() == header.alg { Ok(key) } else { Err(TokenError::UnknownKey) }
    }
}

impl FromIterator<TokenKey> for TokenKeys {
    fn from_iter<I: IntoIterator<Item = TokenKey>>(keys: I) -> Self {
        Self { keys: keys.into_iter().collect() }
    }
}

impl Claims {
    fn ensure_valid(&self, now: u64) -> Result<(), TokenError> {
        if self.iss != ISSUER {
            return Err(TokenError::Malformed("it has another issuer"));
        }
        if self.aud.is_some() {
            return Err(TokenError::Malformed("it is for another audience"));
        }
        if UserId::parse(&self.sub).is_none() {
            return Err(TokenError::Malformed("its subject is not a user"));
        }
        if self.exp.saturating_sub(self.iat) > MAX_LIFETIME || self.exp <= self.iat {
            return Err(TokenError::Malformed("its life is not one that we give"));
        }
        if self.iat.max(self.nbf.unwrap_or_default()) > now.saturating_add(LEEWAY) {
            return Err(TokenError::Early);
        }
        Ok(())
    }

    /// The identity that verified claims stand for.
    pub fn identity(&self) -> Option<Identity> {
        Some(Identity {
            user: UserId::parse(&self.sub)?,
            roles: self.roles,
            namespace: self.namespace.clone().filter(|namespace| !namespace.is_empty()),
            presented: PresentedBy::AccessToken {
                jti: self.jti,
                sid: self.sid,
                ctr: self.ctr,
                generation: self.generation,
                expires_at: self.exp,
            },
        })
    }
}

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(TokenKey::kid)).finish()
    }
}

/// Decodes canonical base64url alone: a token has one spelling (the engine refuses padding and
/// bits that decode to nothing).
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64.decode(part).map_err(|_| TokenError::Malformed("it is not base64url"))
}

const NOT_THREE_PARTS: TokenError = TokenError::Malformed("it has not three parts");

/// Bytes. Ours are below 700; a namespace of 128 characters may need four bytes each.
const MAX_LENGTH: usize = 4096;

/// Seconds that the backend's clock may be ahead of ours.
const LEEWAY: u64 = 5;

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, crypto};

    use super::*;
    use crate::Role;

    #[test]
    fn a_token_of_ours_is_believed() {
        let claims = claims();
        let token = TokenSigner::hs256(SECRET).sign(&claims).unwrap();
        assert_eq!(keys().verify(&token, NOW), Ok(claims.clone()));
        assert_eq!(claims.identity().unwrap().user, UserId(3));
    }

    #[test]
    fn a_token_ends_when_it_says() {
        let token = TokenSigner::hs256(SECRET).sign(&claims()).unwrap();
        assert!(keys().verify(&token, NOW + 3599).is_ok());
        let expired = TokenError::Expired(Box::new(claims()));
        assert_eq!(keys().verify(&token, NOW + 3600), Err(expired), "and says whose it was");
        assert!(keys().verify(&token, NOW - 5).is_ok(), "the clocks may differ a little");
        assert_eq!(keys().verify(&token, NOW - 6), Err(TokenError::Early));
    }

    #[test]
    fn a_header_cannot_choose_how_it_is_verified() {
        let kid = TokenKey::hs256(SECRET).kid().to_owned();
        let ours = json!({"alg": "HS256", "typ": "JWT", "kid": kid});
        assert!(signed(&ours.to_string(), &claims_json()).is_ok());
        let hostile = [
            json!({"alg": "none", "typ": "JWT", "kid": kid}).to_string(),
            json!({"alg": "None", "kid": kid}).to_string(),
            json!({"alg": "HS512", "kid": kid}).to_string(),
            json!({"alg": "RS256", "kid": kid}).to_string(),
            json!({"alg": "HS256"}).to_string(),
            json!({"alg": "HS256", "kid": ""}).to_string(),
            json!({"alg": "HS256", "kid": "../../dev/null"}).to_string(),
            json!({"alg": "HS256", "kid": kid, "crit": ["exp"]}).to_string(),
            json!({"alg": "HS256", "kid": kid, "jku": "https://evil.example/keys"}).to_string(),
            json!({"alg": "HS256", "kid": kid, "jwk": {"kty": "oct", "k": ""}}).to_string(),
            json!({"alg": "HS256", "kid": kid, "x5u": "https://evil.example/"}).to_string(),
            json!({"alg": "HS256", "kid": kid, "typ": "dpop+jwt"}).to_string(),
            format!(r#"{{"alg":"HS256","alg":"HS256","kid":"{kid}"}}"#),
            "[]".to_owned(),
            String::new(),
        ];
        for header in hostile {
            assert!(signed(&header, &claims_json()).is_err(), "{header}");
        }
    }

    #[test]
    fn claims_are_the_ones_we_mint_or_nothing() {
        let without = |name: &str| {
            let mut claims: Value = serde_json::from_str(&claims_json()).unwrap();
            claims.as_object_mut().unwrap().remove(name);
            claims.to_string()
        };
        let with = |name: &str, value: Value| {
            let mut claims: Value = serde_json::from_str(&claims_json()).unwrap();
            claims[name] = value;
            claims.to_string()
        };
        assert!(claimed(&without("namespace")).is_ok());
        assert!(claimed(&with("later_claim", json!(1))).is_ok(), "a newer backend may say more");
        for name in ["sub", "roles", "iat", "exp", "jti", "sid", "ctr", "gen", "iss"] {
            assert!(claimed(&without(name)).is_err(), "without {name}");
            assert!(claimed(&with(name, Value::Null)).is_err(), "{name} null");
        }
        let hostile = [
            with("sub", json!("")),
            with("sub", json!(3)),
            with("sub", json!("03")),
            with("sub", json!("-3")),
            with("sub", json!("3 or 1=1")),
            with("exp", json!((NOW + 60) as f64 + 0.5)),
            with("exp", json!("1800000600")),
            with("exp", json!(-1)),
            with("exp", json!(u64::MAX)),
            with("exp", json!(NOW + MAX_LIFETIME + 1)),
            with("exp", json!(NOW - 1)),
            with("iat", json!(NOW + 6)),
            with("nbf", json!(NOW + 6)),
            with("aud", json!("memoric")),
            with("aud", json!([])),
            with("iss", json!("https://evil.example")),
            with("iss", json!(["memoric"])),
            with("roles", json!("administrator")),
            with("roles", json!(["root"])),
            with("jti", json!("3_1795485811")),
            with("ctr", json!(-1)),
            with("gen", json!(1.0)),
            claims_json().replacen('{', r#"{"sub":"1","#, 1),
            claims_json().replacen('{', r#"{"exp":1900000000,"#, 1),
            "{}".to_owned(),
            "null".to_owned(),
        ];
        for claims in hostile {
            assert!(claimed(&claims).is_err(), "{claims}");
        }
    }

    #[test]
    fn a_token_has_one_spelling() {
        let token = TokenSigner::hs256(SECRET).sign(&claims()).unwrap();
        let mut last_bits = token.clone().into_bytes();
        *last_bits.last_mut().unwrap() += 1;
        let respelt = [
            format!("{token}="),
            format!("{token}."),
            format!("{token}.x"),
            format!(" {token}"),
            format!("{token}\n"),
            token.replacen('.', "..", 1),
            String::from_utf8(last_bits).unwrap(),
        ];
        for spelling in respelt {
            assert!(keys().verify(&spelling, NOW).is_err(), "{spelling}");
        }
        assert!(keys().verify(&"a".repeat(MAX_LENGTH + 1), NOW).is_err());
        assert!(keys().verify("", NOW).is_err());
    }

    #[test]
    fn another_secret_is_another_key() {
        let token = TokenSigner::hs256(&[b'x'; 64]).sign(&claims()).unwrap();
        assert_eq!(keys().verify(&token, NOW), Err(TokenError::UnknownKey));
    }

    fn keys() -> TokenKeys {
        TokenKeys::hs256(SECRET)
    }

    fn claims() -> Claims {
        Claims {
            sub: "3".to_owned(),
            roles: [Role::User].into_iter().collect(),
            namespace: None,
            iat: NOW,
            exp: NOW + 3600,
            jti: Uuid::from_u128(1),
            sid: Uuid::from_u128(2),
            ctr: 0,
            generation: 1,
            iss: ISSUER.to_owned(),
            nbf: None,
            aud: None,
        }
    }

    fn claims_json() -> String {
        serde_json::to_string(&claims()).unwrap()
    }

    fn claimed(claims: &str) -> Result<Claims, TokenError> {
        signed(
            &json!({"alg": "HS256", "typ": "JWT", "kid": TokenKey::hs256(SECRET).kid()})
                .to_string(),
            claims,
        )
    }

    fn signed(header: &str, claims: &str) -> Result<Claims, TokenError> {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature =
            crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256)
                .unwrap();
        keys().verify(&format!("{message}.{signature}"), NOW)
    }

    const SECRET: &[u8] = &[b's'; 64];
    const NOW: u64 = 1_800_000_000;
}
