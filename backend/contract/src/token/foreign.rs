//! Tokens that others have minted: issuers that the operator trusts, and the Python server.

use std::{collections::HashMap, fmt};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{ISSUER, LEEWAY, MAX_LIFETIME, TokenError, TokenKeys, malformed, parts::Parts};
use crate::{FieldWriter, Role, Roles, UserId, audit::uuid_of};

/// Who a token says has minted it. A stranger's word: it selects the keys that judge the token, and
/// those of another never do (RFC 8725, section 3.8).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Minter {
    /// We have.
    Us,
    /// Another issuer has.
    Other(String),
    /// It names nobody, as those of the Python server.
    Nobody,
}

/// How an issuer of the operator's choice signs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum IssuerAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256, of 2048 bits at least.
    #[serde(rename = "RS256")]
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// The public keys of one issuer.
#[derive(Clone)]
pub struct IssuerKeys {
    keys: Vec<IssuerKey>,
}

/// What a verified token of somebody else's says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Foreign {
    /// Who minted it. `None`: the Python server, whose users are ours by their ids.
    pub issuer: Option<String>,
    /// Whom it speaks of, in the issuer's words.
    pub subject: String,
    /// The roles that it claims, as far as there are such.
    pub roles: Roles,
    /// Made of what it says, so that it is the same in every spelling.
    pub id: Uuid,
    /// Whether it has a `jti`, which tells it from every other of its minter's.
    pub is_named: bool,
    /// When it was minted, by its minter's word, in epoch seconds.
    pub issued_at: Option<u64>,
    /// When it ends, in epoch seconds.
    pub expires_at: u64,
}

/// Whom a token of somebody else's speaks of, as the backend is asked about it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Subject {
    /// Who minted it. `None`: the Python server.
    pub issuer: Option<String>,
    /// In the issuer's words.
    pub subject: String,
}

/// Which user of ours a [`Subject`] is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Linked {
    /// The user.
    pub user: UserId,
    /// Their roles.
    pub roles: Roles,
    /// Their namespace.
    pub namespace: Option<String>,
    /// Their generation.
    pub generation: u64,
    /// When all that was theirs ended for the last time, in epoch seconds. `None`: it never did.
    pub ended_at: Option<u64>,
}

#[derive(Clone)]
struct IssuerKey {
    kid: String,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
    #[serde(default)]
    typ: Option<String>,
    #[serde(flatten)]
    others: HashMap<String, IgnoredAny>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: u64,
    #[serde(default)]
    iat: Option<u64>,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    jti: Option<Value>,
    #[serde(default)]
    roles: Value,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// What the Python server said, and nothing else.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LegacyClaims {
    sub: String,
    roles: Value,
    #[serde(rename = "namespace", default)]
    _namespace: Option<String>,
    iat: u64,
    exp: u64,
    jti: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LegacyHeader<'a> {
    alg: &'a str,
    typ: &'a str,
}

/// A key of an issuer's (RFC 7517, section 4; RFC 7518, section 6; RFC 8037, section 2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    /// Of a private key.
    #[serde(default)]
    d: Option<IgnoredAny>,
}

impl Minter {
    /// Whom `token` names. Its signature is not looked at.
    pub fn of(token: &str) -> Result<Self, TokenError> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(default)]
            iss: Option<String>,
        }
        let claims = Parts::of(token)?.payload()?;
        let named: Named =
            serde_json::from_slice(&claims).map_err(|_| malformed("its claims are not ours"))?;
        Ok(match named.iss {
            None => Self::Nobody,
            Some(issuer) if issuer == ISSUER => Self::Us,
            Some(issuer) => Self::Other(issuer),
        })
    }
}

impl IssuerKeys {
    /// Those of a set of JSON Web Keys that are for signing by one of `algorithms`. `None`: it is no such
    /// set, there is none in it, or two of them have one name.
    pub fn read(set: &[u8], algorithms: &[IssuerAlgorithm]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(set).ok()?;
        let jwks = set.keys.into_iter().take(MOST_KEYS);
        let keys: Vec<_> = jwks
            .filter_map(|jwk| serde_json::from_value::<Jwk>(jwk).ok()?.key(algorithms))
            .collect();
        let is_one_of_two = |(place, key): (usize, &IssuerKey)| {
            keys.iter().skip(place + 1).any(|other| other.kid == key.kid)
        };
        let is_clear = !keys.is_empty() && !keys.iter().enumerate().any(is_one_of_two);
        is_clear.then_some(Self { keys })
    }

    /// Whether the key that `token` names is among them.
    pub fn know_key_of(&self, token: &str) -> bool {
        let header = Parts::of(token).and_then(|parts| parts.header::<Header>());
        header.is_ok_and(|header| self.keys.iter().any(|key| key.kid == header.kid))
    }

    /// Believes `token` only if one of these keys signed it, by that key's own algorithm, if `issuer`
    /// minted it for `audience`, and if `now` (epoch seconds) is within its life.
    pub fn verify(
        &self,
        token: &str,
        (issuer, audience): (&str, &str),
        now: u64,
    ) -> Result<Foreign, TokenError> {
        let claims: Claims = serde_json::from_slice(&self.open(token)?)
            .map_err(|_| malformed("its claims are not understood"))?;
        claims.foreign(issuer, audience, now)
    }

    /// What `token` says, if one of these keys signed it.
    fn open(&self, token: &str) -> Result<Vec<u8>, TokenError> {
        let parts = Parts::of(token)?;
        let header: Header = parts.header()?;
        if !header.is_of_a_token() {
            return Err(malformed("its header is not one that is understood"));
        }
        let key = self.keys.iter().find(|key| key.kid == header.kid);
        let key = key.ok_or(TokenError::UnknownKey)?;
        if key.spelling() != header.alg {
            return Err(TokenError::UnknownKey);
        }
        if key.signed(&parts) { parts.payload() } else { Err(TokenError::Forged) }
    }
}

impl TokenKeys {
    /// Believes a token of the Python server only if one of our secrets signed it and `now` is within
    /// its life.
    pub fn verify_legacy(&self, token: &str, now: u64) -> Result<Foreign, TokenError> {
        let parts = Parts::of(token)?;
        let bytes = parts.header_bytes()?;
        let header: LegacyHeader<'_> =
            serde_json::from_slice(&bytes).map_err(|_| malformed("its header is not ours"))?;
        if (header.alg, header.typ) != ("HS256", "JWT") {
            return Err(malformed("its header is not ours"));
        }
        let mut secrets = self.keys.iter().filter(|key| key.algorithm() == "HS256");
        if !secrets.any(|key| key.signed(parts.message.as_bytes(), parts.signature)) {
            return Err(TokenError::Forged);
        }
        let claims: LegacyClaims = serde_json::from_slice(&parts.payload()?)
            .map_err(|_| malformed("its claims are not those of the Python server"))?;
        claims.foreign(now)
    }
}

impl Header {
    fn is_of_a_token(&self) -> bool {
        let typ = self.typ.as_deref().map(str::to_ascii_lowercase);
        matches!(typ.as_deref(), None | Some("jwt" | "at+jwt" | "application/at+jwt"))
            && !REFUSED.iter().any(|name| self.others.contains_key(*name))
    }
}

impl IssuerKey {
    const fn spelling(&self) -> &'static str {
        match self.algorithm {
            Algorithm::RS256 => "RS256",
            Algorithm::ES256 => "ES256",
            Algorithm::EdDSA => "EdDSA",
            _ => "",
        }
    }

    fn signed(&self, parts: &Parts<'_>) -> bool {
        crypto::verify(parts.signature, parts.message.as_bytes(), &self.key, self.algorithm)
            .unwrap_or(false)
    }
}

impl Jwk {
    fn key(self, algorithms: &[IssuerAlgorithm]) -> Option<IssuerKey> {
        let is_for_signing = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        let verifies = |operations: &Vec<String>| operations.iter().any(|each| each == "verify");
        if self.d.is_some() || !is_for_signing || !self.key_ops.as_ref().is_none_or(verifies) {
            return None;
        }
        let (x, y) = (self.x.as_deref(), self.y.as_deref());
        let (ours, algorithm, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let (n, e) = (self.n.as_deref()?, self.e.as_deref()?);
                let key = DecodingKey::from_rsa_components(n, e).ok();
                (IssuerAlgorithm::Rs256, Algorithm::RS256, key.filter(|_| is_strong_rsa(n, e))?)
            }
            ("EC", Some("P-256")) => {
                let key = DecodingKey::from_ec_components(x?, y?).ok()?;
                (IssuerAlgorithm::Es256, Algorithm::ES256, key)
            }
            ("OKP", Some("Ed25519")) => {
                let public: [u8; 32] = BASE64.decode(x?).ok()?.try_into().ok()?;
                (IssuerAlgorithm::EdDsa, Algorithm::EdDSA, DecodingKey::from_ed_der(&public))
            }
            _ => return None,
        };
        let key = IssuerKey { kid: self.kid, algorithm, key };
        let is_for_it = self.alg.as_deref().is_none_or(|alg| alg == key.spelling());
        (is_for_it && algorithms.contains(&ours)).then_some(key)
    }
}

impl Claims {
    fn foreign(self, issuer: &str, audience: &str, now: u64) -> Result<Foreign, TokenError> {
        if self.iss != issuer {
            return Err(malformed("it has another issuer"));
        }
        let is_for_us = match &self.aud {
            Audience::One(one) => one == audience,
            Audience::Several(several) => several.iter().any(|one| one == audience),
        };
        if !is_for_us {
            return Err(malformed("it is for another audience"));
        }
        if !is_subject(&self.sub) {
            return Err(malformed("its subject is none"));
        }
        let begins = self.iat.unwrap_or_default().max(self.nbf.unwrap_or_default());
        ensure_within(begins, self.exp, now)?;
        let name = self.jti.as_ref().and_then(Value::as_str);
        let is_named = name.is_some_and(|name| !name.is_empty());
        let said = FieldWriter::new()
            .text(&self.iss)
            .text(&self.sub)
            .text(&self.jti.map(|jti| jti.to_string()).unwrap_or_default())
            .integer(i64::try_from(self.iat.unwrap_or_default()).unwrap_or(i64::MAX))
            .integer(i64::try_from(self.exp).unwrap_or(i64::MAX));
        Ok(Foreign {
            issuer: Some(self.iss),
            subject: self.sub,
            roles: roles(&self.roles),
            id: id_of(&said.finish()),
            is_named,
            issued_at: self.iat,
            expires_at: self.exp,
        })
    }
}

impl LegacyClaims {
    fn foreign(self, now: u64) -> Result<Foreign, TokenError> {
        if UserId::parse(&self.sub).is_none() || self.jti != format!("{}_{}", self.sub, self.iat) {
            return Err(malformed("its claims are not those of the Python server"));
        }
        if self.exp <= self.iat {
            return Err(malformed("its life is not one that we give"));
        }
        ensure_within(self.iat, self.exp, now)?;
        let said = FieldWriter::new().text(&self.jti).finish();
        Ok(Foreign {
            issuer: None,
            subject: self.sub,
            roles: roles(&self.roles),
            id: id_of(&said),
            is_named: true,
            issued_at: Some(self.iat),
            expires_at: self.exp,
        })
    }
}

impl Linked {
    /// Whether `foreign`, which speaks of this user, is of a time after all that was theirs ended.
    ///
    /// Who logs out everywhere or changes a password ends what others minted for them too. An issuer's
    /// clock may be ahead of ours by the leeway, so what says that it was minted within that of the end
    /// may be older and ended as well; and so did what does not tell when it was minted.
    pub fn admits(&self, foreign: &Foreign) -> bool {
        let is_later = |ended: u64| {
            foreign.issued_at.is_some_and(|issued| issued > ended.saturating_add(LEEWAY))
        };
        self.ended_at.is_none_or(is_later)
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.kid)).finish()
    }
}

/// Whether `text` can be a subject: the database keeps no more of one, and no NUL.
pub fn is_subject(text: &str) -> bool {
    (1..=255).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// `roles` as far as a foreign token gives them: an admin is a user by it. What admins do, the backend
/// does for a credential that it can judge itself.
pub fn without_admin(roles: Roles) -> Roles {
    let lesser = |role| if role == Role::Admin { Role::User } else { role };
    roles.iter().map(lesser).collect()
}

/// One that ends later than a revoked generation is remembered is refused, as one of ours would be.
const fn ensure_within(begins: u64, exp: u64, now: u64) -> Result<(), TokenError> {
    if begins > now.saturating_add(LEEWAY) {
        return Err(TokenError::Early);
    }
    if exp <= now {
        return Err(TokenError::Ended);
    }
    if exp - now > MAX_LIFETIME {
        return Err(malformed("it lives too long"));
    }
    Ok(())
}

/// The roles in a list of names; other names are other people's business.
fn roles(claimed: &Value) -> Roles {
    let names = claimed.as_array().into_iter().flatten().filter_map(Value::as_str);
    names.filter_map(Role::named).collect()
}

fn id_of(said: &[u8]) -> Uuid {
    uuid_of(Sha256::digest(said))
}

/// 2048 to 8192 bits, and the exponent that everybody uses.
fn is_strong_rsa(modulus: &str, exponent: &str) -> bool {
    let bytes = BASE64.decode(modulus).unwrap_or_default();
    (256..=1024).contains(&bytes.len())
        && bytes.first().is_some_and(|first| *first >= 0x80)
        && exponent == "AQAB"
}

/// Members of a header that would say how to verify a token, or that it is something else than it
/// seems. It is refused where they are there at all, whatever they say.
const REFUSED: [&str; 8] = ["crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"];

/// More than any issuer has.
const MOST_KEYS: usize = 64;

#[cfg(test)]
mod tests;
