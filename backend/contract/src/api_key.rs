//! API keys: what they look like, and which ones are not worth asking about.
//!
//! `mk_` id 12 `_` secret 32 mac 11 crc 6, in base62. The checksum (CRC-32/ISO-HDLC of all before
//! it) lets a scanner of secrets tell a key from a word; the check MAC (the first 8 bytes of
//! HMAC-SHA256 of `mk`, id and secret) lets a gateway refuse a guess without asking anyone.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

#[cfg(doc)]
use crate::Permissions;
use crate::{
    KeyId, Roles, UserId,
    base62::{digits, is_base62},
};

/// A key in our format whose check MAC is right. Whether it is stored, and lives, only the backend
/// knows.
pub struct ApiKey {
    id: KeyId,
    text: Zeroizing<String>,
}

/// Makes and checks the check MAC. Held by the gateway and the backend, and by nobody else; with
/// it, keys can be guessed faster, but not made.
#[derive(Clone)]
pub struct CheckKey(Zeroizing<[u8; 32]>);

/// What the backend knows of an API key, for as long as it is remembered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It lives.
    Lives(Box<Standing>),
    /// It is not stored, was revoked, has expired, or its user is not active.
    Unknown,
}

/// Whose a living API key is, and what it may be used for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Standing {
    /// Whose it is.
    pub user: UserId,
    /// Their roles.
    pub roles: Roles,
    /// Their namespace.
    pub namespace: Option<String>,
    /// Their generation.
    pub generation: u64,
    /// What it was made for, as [bits](Permissions::bits).
    pub scopes: u16,
    /// When it ends, in epoch seconds; an older secret ends with its overlap.
    pub expires_at: u64,
    /// From where it may be used: addresses, or networks as `address/length`. None: from anywhere.
    pub allowed_addresses: Vec<String>,
}

/// Why a key is not worth asking about.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ApiKeyError {
    /// It is not in our format.
    #[error("the API key is not in the format of one")]
    Malformed,
    /// Its checksum is wrong: it was mistyped or cut.
    #[error("the API key was mistyped")]
    Mistyped,
    /// We did not make it.
    #[error("the API key was not made here")]
    Guessed,
}

/// What a scanner of secrets looks for.
pub const PATTERN: &str = r"\bmk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}\b";

/// How an API key begins, and nothing else that is a credential.
pub const PREFIX: &str = "mk_";

impl CheckKey {
    /// Uses 32 random bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        Self(Zeroizing::new(secret))
    }

    fn mac(&self, id: &str, secret: &str) -> String {
        let key = Hmac::<Sha256>::new_from_slice(self.0.as_slice());
        // HMAC takes a key of any length, so this cannot be refused.
        let Ok(mut mac) = key else { return String::new() };
        mac.update(b"mk");
        mac.update(id.as_bytes());
        mac.update(secret.as_bytes());
        let bytes: [u8; 32] = mac.finalize().into_bytes().into();
        let [a, b, c, d, e, f, g, h, ..] = bytes;
        digits(u64::from_be_bytes([a, b, c, d, e, f, g, h]).into(), MAC)
    }
}

impl ApiKey {
    /// A new key of 48 random bytes.
    ///
    /// A digit takes a little over 5.95 bits; 16 of them out of 128 leave no bias that matters.
    pub fn mint(random: [[u8; 16]; 3], check: &CheckKey) -> Self {
        let [id, first, second] = random;
        Self::mint_for(KeyId(digits(u128::from_be_bytes(id), ID)), [first, second], check)
    }

    /// Another secret, of 32 random bytes, for the key `id`.
    pub fn mint_for(id: KeyId, random: [[u8; 16]; 2], check: &CheckKey) -> Self {
        let [first, second] = random.map(u128::from_be_bytes);
        let secret = Zeroizing::new([digits(first, HALF), digits(second, HALF)].concat());
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        for part in [PREFIX, &id.0, "_", &secret, &check.mac(&id.0, &secret)] {
            text.push_str(part);
        }
        let checksum = digits(crc32fast::hash(text.as_bytes()).into(), CRC);
        text.push_str(&checksum);
        Self { id, text }
    }

    /// Reads `text`, which a client presented.
    pub fn read(text: &str, check: &CheckKey) -> Result<Self, ApiKeyError> {
        let (id, secret, mac, crc) = parts(text).ok_or(ApiKeyError::Malformed)?;
        let covered = text.strip_suffix(crc).unwrap_or_default();
        if digits(crc32fast::hash(covered.as_bytes()).into(), CRC) != crc {
            return Err(ApiKeyError::Mistyped);
        }
        if !bool::from(check.mac(id, secret).as_bytes().ct_eq(mac.as_bytes())) {
            return Err(ApiKeyError::Guessed);
        }
        Ok(Self { id: KeyId(id.to_owned()), text: Zeroizing::new(text.to_owned()) })
    }

    /// Names it, in public.
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// The whole key, to be shown once, and otherwise to nobody.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// SHA-256 of the whole key, for verdicts that are remembered.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKey").field(&self.id).finish()
    }
}

impl fmt::Debug for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckKey")
    }
}

/// Id, secret, MAC and checksum, if each has its length and its alphabet.
fn parts(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (id, rest) = text.strip_prefix(PREFIX)?.split_once('_')?;
    if id.len() != ID || rest.len() != 2 * HALF + MAC + CRC || !is_base62(id) || !is_base62(rest) {
        return None;
    }
    let (secret, rest) = rest.split_at_checked(2 * HALF)?;
    let (mac, crc) = rest.split_at_checked(MAC)?;
    Some((id, secret, mac, crc))
}

const ID: usize = 12;
/// Digits of one half of the secret.
const HALF: usize = 16;
/// Digits of 8 bytes.
const MAC: usize = 11;
/// Digits of 4 bytes.
const CRC: usize = 6;
const LENGTH: usize = PREFIX.len() + ID + 1 + 2 * HALF + MAC + CRC;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_reads_as_it_was_made() {
        let key = key(1);

        let read = ApiKey::read(key.expose(), &check()).unwrap();

        assert_eq!((read.id(), read.expose()), (key.id(), key.expose()));
        assert_eq!(key.expose().len(), LENGTH);
        assert_eq!(key.id().0.len(), ID);
    }

    #[test]
    fn the_format_is_the_published_one() {
        // python: base62 and zlib.crc32 and hmac over the same bytes.
        assert_eq!(key(1).expose(), VECTOR);
        assert_eq!(PATTERN, r"\bmk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}\b");
    }

    #[test]
    fn a_guess_is_refused_without_asking() {
        let forged = ApiKey::mint([[1; 16], [2; 16], [3; 16]], &CheckKey::new([9; 32]));

        assert_eq!(ApiKey::read(forged.expose(), &check()).unwrap_err(), ApiKeyError::Guessed);
    }

    #[test]
    fn a_slip_of_the_finger_is_told_from_a_guess() {
        let text = key(1).expose().to_owned();
        for at in (3..15).chain(16..LENGTH) {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
            let slip = String::from_utf8(bytes).unwrap();
            assert_eq!(ApiKey::read(&slip, &check()).unwrap_err(), ApiKeyError::Mistyped, "{at}");
        }
    }

    #[test]
    fn what_is_not_in_the_format_is_no_key() {
        let text = key(1).expose().to_owned();
        let longer = format!("{text}0");
        let spaced = format!(" {text}");
        let dashed = text.replacen('_', "-", 1);
        let foreign = text.replace(&text[20..22], "ä");
        for bad in ["", "mk_", "mk__", &text[..LENGTH - 1], &longer, &spaced, &dashed, &foreign] {
            assert_eq!(ApiKey::read(bad, &check()).unwrap_err(), ApiKeyError::Malformed, "{bad}");
        }
    }

    #[test]
    fn no_key_prints_itself() {
        let shown = format!("{:?} {:?}", key(1), check());
        assert!(!shown.contains(&key(1).expose()[16..]), "{shown}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_stumble(text in "(mk_)?\\PC{0,80}|mk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}") {
            prop_assert!(ApiKey::read(&text, &check()).is_err());
        }
    }

    fn key(seed: u8) -> ApiKey {
        ApiKey::mint([[seed; 16], [seed + 1; 16], [seed + 2; 16]], &check())
    }

    fn check() -> CheckKey {
        CheckKey::new([7; 32])
    }

    const VECTOR: &str = "mk_jAOLpZvq3hw1_FyaDSKmhf9rg7Ps2sxsKBVB3UjnWB7o33fae0kaOdZe3BkukQ";
}
