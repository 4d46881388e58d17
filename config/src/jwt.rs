//! The keys that access tokens are signed with and believed by, read from where they rest.

use std::path::Path;

use secrecy::SecretSlice;

use crate::{
    environment::Environment,
    error::{ConfigError, Invalid},
    pem,
    schema::{Algorithm, Auth, Jwt, JwtKey},
    secret::{SigningSecret, file},
};

/// The ring: one key signs, all of them verify.
#[derive(Debug, Clone)]
pub struct JwtKeys {
    signer: JwtKeyHeld,
    others: Vec<JwtKeyHeld>,
}

/// One key, as far as this process holds it.
#[derive(Debug, Clone)]
pub struct JwtKeyHeld {
    /// The setting or variable that it comes from.
    pub name: String,
    /// The key.
    pub material: JwtMaterial,
}

/// What a key is made of. It knows one algorithm.
#[derive(Debug, Clone)]
pub enum JwtMaterial {
    /// HS256: who verifies can sign as well.
    Secret(SigningSecret),
    /// Ed25519.
    Pair {
        /// What verifies.
        public: [u8; 32],
        /// What signs, in PKCS #8, where this process signs with it.
        private: Option<SecretSlice<u8>>,
    },
}

/// Which halves of a pair a process is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Halves {
    /// Only what verifies: it reads no private key, were it there.
    Public,
    /// What signs as well, be it only later: better read now than found wanting at its promotion.
    Both,
}

impl JwtKeys {
    /// Reads every key that the settings name.
    ///
    /// `MEMORIC_JWT_SECRET` is the first of them, and signs unless another does. Where another does,
    /// it need not be there.
    pub fn read(
        auth: &Auth,
        environment: &Environment,
        halves: Halves,
    ) -> Result<Self, ConfigError> {
        let (signer, others) = gather(auth, environment, halves)?;
        let signer = signer.ok_or_else(|| Invalid::new(SigningSecret::NAME, NO_SIGNER))?;
        let ring = Self { signer, others };
        ensure_different(ring.iter())?;
        Ok(ring)
    }

    /// Reads every key that the settings name, for who only verifies what others sign: none of them
    /// need sign here, but there must be one.
    pub fn read_public(
        auth: &Auth,
        environment: &Environment,
    ) -> Result<Vec<JwtKeyHeld>, ConfigError> {
        let (signer, others) = gather(auth, environment, Halves::Public)?;
        let keys: Vec<_> = signer.into_iter().chain(others).collect();
        if keys.is_empty() {
            return Err(Invalid::new(SigningSecret::NAME, NO_KEY).into());
        }
        ensure_different(keys.iter())?;
        Ok(keys)
    }

    /// The key that signs.
    pub fn signer(&self) -> &JwtKeyHeld {
        &self.signer
    }

    /// All keys, the one that signs before the others.
    pub fn iter(&self) -> impl Iterator<Item = &JwtKeyHeld> {
        std::iter::once(&self.signer).chain(&self.others)
    }

    /// The secrets among them, by name, so that none of them is one of another purpose.
    pub fn secrets(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.iter().filter_map(JwtKeyHeld::secret)
    }
}

impl JwtKeyHeld {
    /// Its secret, by name, where it is one.
    pub fn secret(&self) -> Option<(&str, &[u8])> {
        match &self.material {
            JwtMaterial::Secret(secret) => Some((self.name.as_str(), secret.expose())),
            JwtMaterial::Pair { .. } => None,
        }
    }
}

/// The key that signs, if one does, and all others.
fn gather(
    auth: &Auth,
    environment: &Environment,
    halves: Halves,
) -> Result<(Option<JwtKeyHeld>, Vec<JwtKeyHeld>), ConfigError> {
    let jwt = &auth.jwt;
    let (mut signer, mut others) = (None, Vec::new());
    if let Some(first) = first(jwt, environment)? {
        match jwt.keys.iter().any(|key| key.signs) {
            true => others.push(first),
            false => signer = Some(first),
        }
    }
    for (place, key) in jwt.keys.iter().enumerate() {
        let held = JwtKeyHeld {
            name: format!("auth.jwt.keys[{place}]"),
            material: material(place, key, halves)?,
        };
        if key.signs { signer = Some(held) } else { others.push(held) }
    }
    Ok((signer, others))
}

/// One pair under two names would be taken for retired while it is not. Of secrets that are equal
/// more is said elsewhere.
fn ensure_different<'a>(keys: impl Iterator<Item = &'a JwtKeyHeld>) -> Result<(), Invalid> {
    let mut known: Vec<([u8; 32], &str)> = Vec::new();
    for key in keys {
        let JwtMaterial::Pair { public, .. } = &key.material else { continue };
        if let Some((_, other)) = known.iter().find(|(other, _)| other == public) {
            return Err(Invalid::new(&key.name, format!("is the same key as {other}")));
        }
        known.push((*public, &key.name));
    }
    Ok(())
}

/// Refuses what no process could make a ring of. Where tokens are minted elsewhere, none of the keys
/// need sign.
pub(crate) fn ensure_possible(jwt: &Jwt, is_minted_here: bool) -> Result<(), Invalid> {
    if jwt.keys.len() > MOST_KEYS {
        return Err(Invalid::new("auth.jwt.keys", format!("has more than {MOST_KEYS} keys")));
    }
    let signers = jwt.keys.iter().filter(|key| key.signs).count();
    if signers > 1 {
        return Err(Invalid::new("auth.jwt.keys", "has more than one key that signs"));
    }
    if is_minted_here && !jwt.environment_key && signers == 0 {
        let reason = "must be true where none of auth.jwt.keys signs";
        return Err(Invalid::new("auth.jwt.environment_key", reason));
    }
    jwt.keys.iter().enumerate().try_for_each(|(place, key)| ensure_whole(place, key))
}

/// A key has the files of its algorithm, and no others.
fn ensure_whole(place: usize, key: &JwtKey) -> Result<(), Invalid> {
    let JwtKey { algorithm, secret_file, public_key_file, private_key_file, signs } = key;
    let (secret, public) = (secret_file.is_some(), public_key_file.is_some());
    let (is_whole, reason) = match algorithm {
        Algorithm::Hs256 => (
            secret && !public && private_key_file.is_none(),
            "needs secret_file, and no other file",
        ),
        Algorithm::EdDsa => (
            public && !secret && (private_key_file.is_some() || !signs),
            "needs public_key_file, private_key_file too where it signs, and no other file",
        ),
    };
    match is_whole {
        true => Ok(()),
        false => Err(Invalid::new(format!("auth.jwt.keys[{place}]"), reason)),
    }
}

/// The key that the environment has, unless the settings retire it.
fn first(jwt: &Jwt, environment: &Environment) -> Result<Option<JwtKeyHeld>, ConfigError> {
    if !jwt.environment_key {
        return Ok(None);
    }
    let Some(secret) = environment.secret(SigningSecret::NAME)? else { return Ok(None) };
    let material = JwtMaterial::Secret(SigningSecret::check(secret)?);
    Ok(Some(JwtKeyHeld { name: SigningSecret::NAME.to_owned(), material }))
}

fn material(place: usize, key: &JwtKey, halves: Halves) -> Result<JwtMaterial, ConfigError> {
    let name = |file: &str| format!("auth.jwt.keys[{place}].{file}");
    let missing = |file: &str| Invalid::new(name(file), "is not set");
    match key.algorithm {
        Algorithm::Hs256 => {
            let path = key.secret_file.as_deref().ok_or_else(|| missing("secret_file"))?;
            let field = name("secret_file");
            let secret = file::read(&field, &path.to_string_lossy())?;
            Ok(JwtMaterial::Secret(SigningSecret::check_named(&field, secret)?))
        }
        Algorithm::EdDsa => {
            let path = key.public_key_file.as_deref().ok_or_else(|| missing("public_key_file"))?;
            let unusable = |field: &'static str| {
                move |error: pem::PemError| Invalid::new(name(field), error.to_string())
            };
            let public = pem::ed25519_public_key(path).map_err(unusable("public_key_file"))?;
            let private = key.private_key_file.as_deref().filter(|_| halves == Halves::Both);
            let private = private.map(private_key).transpose();
            let private = private.map_err(unusable("private_key_file"))?;
            Ok(JwtMaterial::Pair { public, private })
        }
    }
}

fn private_key(path: &Path) -> Result<SecretSlice<u8>, pem::PemError> {
    Ok(SecretSlice::from(pem::private_key(path)?.secret_der().to_vec()))
}

/// More keys than a rotation ever needs.
const MOST_KEYS: usize = 16;

const NO_KEY: &str =
    "is not set, and neither is MEMORIC_JWT_SECRET_FILE, and auth.jwt.keys has no key";

const NO_SIGNER: &str = "is not set, and neither is MEMORIC_JWT_SECRET_FILE, \
    and none of auth.jwt.keys signs";

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_environment_has_the_first_key_and_it_signs_unless_another_does() {
        let (_folder, pair) = pair(true);
        let ring = |keys: &[&JwtKey], environment: &Environment| {
            let keys = keys.iter().map(|key| (*key).clone()).collect();
            let jwt = Jwt { environment_key: true, keys };
            JwtKeys::read(&Auth { jwt, ..Auth::default() }, environment, Halves::Public)
        };
        let names =
            |ring: JwtKeys| ring.iter().map(|key| key.name.clone()).collect::<Vec<_>>().join(" ");

        assert_eq!(names(ring(&[], &environment()).unwrap()), "MEMORIC_JWT_SECRET");
        let later = JwtKey { signs: false, ..pair.clone() };
        let both = names(ring(&[&later], &environment()).unwrap());
        assert_eq!(both, "MEMORIC_JWT_SECRET auth.jwt.keys[0]");
        let both = names(ring(&[&pair], &environment()).unwrap());
        assert_eq!(both, "auth.jwt.keys[0] MEMORIC_JWT_SECRET");
        assert_eq!(names(ring(&[&pair], &Environment::default()).unwrap()), "auth.jwt.keys[0]");
        for keys in [&[][..], &[&later]] {
            let refused = ring(keys, &Environment::default()).unwrap_err().to_string();
            assert!(refused.starts_with("MEMORIC_JWT_SECRET: is not set"), "{refused}");
        }
        let refused = ring(&[&pair, &later], &environment()).unwrap_err().to_string();
        assert_eq!(refused, "auth.jwt.keys[1]: is the same key as auth.jwt.keys[0]");
    }

    #[test]
    fn who_only_verifies_needs_no_key_that_signs() {
        let (_folder, pair) = pair(false);
        let public = JwtKey { private_key_file: None, ..pair };
        let read = |keys: &[JwtKey]| {
            let jwt = Jwt { environment_key: false, keys: keys.to_vec() };
            ensure_possible(&jwt, false)?;
            JwtKeys::read_public(&Auth { jwt, ..Auth::default() }, &environment())
        };

        let keys = read(std::slice::from_ref(&public)).unwrap();
        assert_eq!(keys.len(), 1);
        assert!(keys.iter().all(|key| key.secret().is_none()));
        let refused = read(&[]).unwrap_err().to_string();
        assert!(refused.starts_with("MEMORIC_JWT_SECRET: is not set"), "{refused}");
        let refused = read(&[public.clone(), public]).unwrap_err().to_string();
        assert_eq!(refused, "auth.jwt.keys[1]: is the same key as auth.jwt.keys[0]");
    }

    #[test]
    fn a_private_key_is_read_by_who_signs_alone() {
        let (folder, pair) = pair(true);
        let read = |halves| material(0, &pair, halves);
        let has_private = |material| matches!(material, JwtMaterial::Pair { private: Some(_), .. });

        assert!(has_private(read(Halves::Both).unwrap()));
        fs::remove_file(folder.path().join("jwt.pem")).unwrap();
        assert!(!has_private(read(Halves::Public).unwrap()));
        assert!(read(Halves::Both).is_err());
    }

    #[test]
    fn a_key_that_is_not_whole_is_refused_by_its_place() {
        let (_folder, pair) = pair(true);
        let refused = |keys: &[JwtKey], environment_key| {
            let refused = ensure_possible(&Jwt { environment_key, keys: keys.to_vec() }, true);
            refused.err().map(|invalid| invalid.field)
        };
        let secret = JwtKey {
            algorithm: Algorithm::Hs256,
            secret_file: Some("secret".into()),
            public_key_file: None,
            private_key_file: None,
            signs: false,
        };
        let without = JwtKey { private_key_file: None, ..pair.clone() };
        let later = JwtKey { signs: false, ..without.clone() };
        let mixed = JwtKey { secret_file: Some("secret".into()), ..pair.clone() };
        let public = JwtKey { public_key_file: Some("jwt.pub".into()), ..secret.clone() };

        assert_eq!(refused(&[pair.clone(), secret.clone(), later], false), None);
        for wrong in [without, mixed, public] {
            let field = refused(&[secret.clone(), wrong], true);
            assert_eq!(field.as_deref(), Some("auth.jwt.keys[1]"));
        }
        assert_eq!(refused(&[pair.clone(), pair], true).as_deref(), Some("auth.jwt.keys"));
        let retired = refused(std::slice::from_ref(&secret), false);
        assert_eq!(retired.as_deref(), Some("auth.jwt.environment_key"));
        assert_eq!(refused(&vec![secret; 17], true).as_deref(), Some("auth.jwt.keys"));
    }

    fn environment() -> Environment {
        let secret = "2mC0q8Vn4Zk7Xw1Ls9Rt5Bd3Gf6Hj0PyUeIoAaSzDxFcGvHbJnKmLqWwEeRrTtYy";
        Environment::from_iter([(SigningSecret::NAME, secret)])
    }

    /// The key of RFC 8037, appendix A, in files.
    fn pair(signs: bool) -> (TempDir, JwtKey) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, label: &str, body: &str| {
            let path = folder.path().join(name);
            let pem = format!("-----BEGIN {label} KEY-----\n{body}\n-----END {label} KEY-----\n");
            fs::write(&path, pem).unwrap();
            Some(path)
        };
        let private = "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g";
        let public = "MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let key = JwtKey {
            algorithm: Algorithm::EdDsa,
            secret_file: None,
            public_key_file: file("jwt.pub", "PUBLIC", public),
            private_key_file: file("jwt.pem", "PRIVATE", private),
            signs,
        };
        (folder, key)
    }
}
