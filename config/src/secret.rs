//! Secrets that are good enough to start with.

pub(crate) mod file;
mod strength;

use std::fmt;

use base64::{
    Engine as _,
    engine::{
        DecodePaddingMode::Indifferent,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig},
    },
};
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

use self::strength::Strength;
use crate::error::Invalid;

/// `MEMORIC_JWT_SECRET`: what access tokens are signed with.
#[derive(Debug, Clone)]
pub struct SigningSecret(SecretString);

/// `MEMORIC_DB_PASSWORD`: what each role's password is derived from.
#[derive(Debug, Clone)]
pub struct DatabasePassword(SecretString);

/// `MEMORIC_ASSERTION_KEY`: what the gateway's word to the backend is signed with.
#[derive(Clone)]
pub struct AssertionKey(Zeroizing<[u8; 32]>);

/// `MEMORIC_CHECK_KEY`: what tells an API key of ours from a guess.
#[derive(Clone)]
pub struct CheckKey(Zeroizing<[u8; 32]>);

impl SigningSecret {
    /// The variable it comes from.
    pub const NAME: &str = "MEMORIC_JWT_SECRET";

    /// Takes a secret of at least 64 characters that nobody guesses.
    pub fn check(secret: SecretString) -> Result<Self, Invalid> {
        Self::check_named(Self::NAME, secret)
    }

    /// The same, of one that comes from elsewhere.
    pub(crate) fn check_named(name: &str, secret: SecretString) -> Result<Self, Invalid> {
        let strength = Strength { characters: 64, variety: 8, bits: 128.0 };
        ensure(name, &strength, secret.expose_secret(), RECIPE)?;
        Ok(Self(secret))
    }

    /// The bytes themselves, for whoever signs.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

impl DatabasePassword {
    /// The variable it comes from.
    pub const NAME: &str = "MEMORIC_DB_PASSWORD";

    /// Takes a password of at least 12 characters that nobody guesses.
    pub fn check(secret: SecretString) -> Result<Self, Invalid> {
        let strength = Strength { characters: 12, variety: 6, bits: 30.0 };
        ensure(Self::NAME, &strength, secret.expose_secret(), RECIPE)?;
        Ok(Self(secret))
    }

    /// The bytes themselves, for whoever derives from them.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

impl AssertionKey {
    /// The variable it comes from.
    pub const NAME: &str = "MEMORIC_ASSERTION_KEY";

    /// Takes 32 bytes in 64 hexadecimal digits that nobody guesses.
    pub fn check(secret: &SecretString) -> Result<Self, Invalid> {
        hexadecimal(Self::NAME, secret).map(Self)
    }

    /// The bytes themselves, for whoever signs.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl CheckKey {
    /// The variable it comes from.
    pub const NAME: &str = "MEMORIC_CHECK_KEY";

    /// Takes 32 bytes in 64 hexadecimal digits that nobody guesses.
    pub fn check(secret: &SecretString) -> Result<Self, Invalid> {
        hexadecimal(Self::NAME, secret).map(Self)
    }

    /// The bytes themselves, for whoever checks.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for AssertionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AssertionKey([REDACTED])")
    }
}

impl fmt::Debug for CheckKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckKey([REDACTED])")
    }
}

fn hexadecimal(name: &'static str, secret: &SecretString) -> Result<Zeroizing<[u8; 32]>, Invalid> {
    let recipe = "make one with: openssl rand -hex 32";
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(secret.expose_secret(), key.as_mut_slice())
        .map_err(|_| Invalid::new(name, format!("is not 64 hexadecimal digits; {recipe}")))?;
    let strength = Strength { characters: 64, variety: 8, bits: 128.0 };
    ensure(name, &strength, secret.expose_secret(), recipe)?;
    Ok(key)
}

/// Refuses two secrets that are the same: whoever holds one would hold the other.
///
/// One key in two spellings, hexadecimal and base64 or text and the bytes it spells, is the same.
pub fn ensure_distinct(secrets: &[(&str, &[u8])]) -> Result<(), Invalid> {
    let mut known: Vec<(&str, Zeroizing<Vec<u8>>)> = Vec::new();
    for (name, secret) in secrets {
        let key = spelt(secret);
        if let Some((other, _)) = known.iter().find(|(_, other)| *other == key) {
            return Err(Invalid::new(*name, format!("is the same secret as {other}")));
        }
        known.push((name, key));
    }
    Ok(())
}

/// The bytes that a secret spells, or the secret itself where it spells none.
fn spelt(secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let bytes = match secret.len() {
        64.. => hex::decode(secret).ok(),
        43 | 44 => [STANDARD, URL_SAFE].iter().find_map(|base64| base64.decode(secret).ok()),
        _ => None,
    };
    Zeroizing::new(bytes.unwrap_or_else(|| secret.to_vec()))
}

fn ensure(name: &str, strength: &Strength, secret: &str, recipe: &str) -> Result<(), Invalid> {
    match strength.fault(secret) {
        Some(fault) => Err(Invalid::new(name, format!("{fault}; {recipe}"))),
        None => Ok(()),
    }
}

/// Both alphabets of base64, with or without the padding.
const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, PADDING);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, PADDING);
const PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(Indifferent);

/// How to make a good secret. The guide's own line of Python does as well.
const RECIPE: &str = "make one with: openssl rand -hex 64";

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _};

    use super::*;

    #[test]
    fn what_the_recipes_print_is_taken() {
        for _ in 0..2000 {
            assert!(SigningSecret::check(random_hex::<64>()).is_ok(), "secrets.token_hex(64)");
            assert!(SigningSecret::check(random_hex::<32>()).is_ok(), "openssl rand -hex 32");
            assert!(DatabasePassword::check(random_hex::<16>()).is_ok(), "openssl rand -hex 16");
            assert!(AssertionKey::check(&random_hex::<32>()).is_ok(), "openssl rand -hex 32");
        }
    }

    #[test]
    fn samples_and_weak_secrets_are_refused_without_repeating_them() {
        for weak in [
            "",
            "your-secret-key-here",
            "INSECURE_DEV_SECRET_CHANGE_IN_PRODUCTION",
            "3f1d9c0a7be24586d0c9e7b1a35f2846",
            &"your-secret-key-here".repeat(4),
            &"INSECURE_DEV_SECRET_CHANGE_IN_PRODUCTION".repeat(2),
            &"changeme".repeat(8),
            &"secret".repeat(11),
            &"a".repeat(64),
            &"0123456789".repeat(7),
            &"0123456789abcdef".repeat(4),
            &"3f1d9c0a".repeat(8),
            &"ab01".repeat(400),
            "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_",
            "0001001011100010100100111010101101010110010101010011010101101010110",
            &format!(
                "{}\n{}",
                "3f1d9c0a7be24586d0c9e7b1a35f2846", "86d0c9e7b1a35f28463f1d9c0a7be245"
            ),
        ] {
            let refusal = SigningSecret::check(SecretString::from(weak)).unwrap_err().to_string();

            assert!(refusal.starts_with("MEMORIC_JWT_SECRET: "), "{refusal}");
            assert!(refusal.ends_with("openssl rand -hex 64"), "{refusal}");
            assert!(weak.len() < 6 || !refusal.contains(weak), "{refusal}");
            assert_eq!(refusal.lines().count(), 1, "{refusal}");
        }
    }

    #[test]
    fn weak_database_passwords_are_refused() {
        for weak in ["", "short", "strong_db_password", "postgres", "changeme1234", "abcabcabcabc"]
        {
            let refusal = DatabasePassword::check(SecretString::from(weak)).unwrap_err();
            assert_eq!(refusal.field, "MEMORIC_DB_PASSWORD", "{weak}");
        }
        assert!(DatabasePassword::check(SecretString::from("blue kettle 7 fjord")).is_ok());
    }

    #[test]
    fn an_assertion_key_is_the_bytes_that_its_digits_spell() {
        let digits = "9b11d47e05c238af61e92c835af017bd460f9974eb20d16c3ea852f70bc58d31";
        let key = AssertionKey::check(&SecretString::from(digits)).unwrap();

        assert_eq!(hex::encode(key.expose()), digits);
    }

    #[test]
    fn what_is_no_assertion_key_is_refused() {
        for wrong in ["", "9b11", &"0".repeat(64), &"zz".repeat(32), &"0123456789abcdef".repeat(4)]
        {
            assert!(AssertionKey::check(&SecretString::from(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn equal_secrets_are_refused_by_both_names() {
        let refusal = ensure_distinct(&[("A", b"one"), ("B", b"two"), ("C", b"one")]).unwrap_err();

        assert_eq!(refusal.to_string(), "C: is the same secret as A");
        assert_eq!(ensure_distinct(&[("A", b"one"), ("B", b"two")]), Ok(()));
    }

    #[test]
    fn one_key_in_two_spellings_is_one_key() {
        let digits = "fb11d47e05c238af61e92c835af017bd460f9974eb20d16c3ea852f70bc58d3f";
        let bytes = hex::decode(digits).unwrap();
        let spellings = [
            digits.to_owned(),
            digits.to_uppercase(),
            STANDARD.encode(&bytes),
            URL_SAFE.encode(&bytes),
            URL_SAFE.encode(&bytes).trim_end_matches('=').to_owned(),
        ];

        for spelling in &spellings {
            let both = [("A", bytes.as_slice()), ("B", spelling.as_bytes())];
            assert!(ensure_distinct(&both).is_err(), "{spelling}");
        }
    }

    #[test]
    fn secrets_never_show_themselves() {
        let secret = random_hex::<32>();
        let shown = format!(
            "{:?} {:?} {:?}",
            SigningSecret::check(secret.clone()).unwrap(),
            DatabasePassword::check(secret.clone()).unwrap(),
            AssertionKey::check(&secret).unwrap(),
        );

        assert!(!shown.contains(secret.expose_secret()), "{shown}");
    }

    fn random_hex<const BYTES: usize>() -> SecretString {
        let mut bytes = [0; BYTES];
        File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
        SecretString::from(hex::encode(bytes))
    }
}
