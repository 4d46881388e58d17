//! The backend, or that there is none.

use memoric_config::{
    AssertionKey, CheckKey, ConfigError, Environment, Invalid, Settings, ensure_distinct,
    jwt::{Halves, JwtKeyHeld, JwtKeys, JwtMaterial},
};
use memoric_contract::token::{TokenKey, TokenKeys};

use super::Channel;

/// The backend, and the secrets that it shares with us.
pub(crate) struct Backend {
    /// Where it is.
    pub(crate) channel: Channel,
    /// What our word to it is signed with.
    pub(crate) assertion_key: AssertionKey,
    /// Tells API keys of ours from guesses.
    pub(crate) check_key: CheckKey,
}

/// What access tokens are believed by, and the backend, where there is one.
pub(super) fn checked(
    settings: &Settings,
    environment: &Environment,
) -> Result<(TokenKeys, Option<Backend>), ConfigError> {
    match settings.gateway.has_backend() {
        true => with_backend(settings, environment),
        false => Ok((alone(settings, environment)?, None)),
    }
}

/// The keys that its tokens are believed by, and the backend.
fn with_backend(
    settings: &Settings,
    environment: &Environment,
) -> Result<(TokenKeys, Option<Backend>), ConfigError> {
    let channel = Channel::try_from(&settings.gateway)?;
    let signing = JwtKeys::read(&settings.auth, environment, Halves::Public)?;
    let assertion_key = AssertionKey::check(&environment.needed(AssertionKey::NAME)?)?;
    let check_key = CheckKey::check(&environment.needed(CheckKey::NAME)?)?;
    let others: [(&str, &[u8]); 2] =
        [(AssertionKey::NAME, assertion_key.expose()), (CheckKey::NAME, check_key.expose())];
    ensure_distinct(&signing.secrets().chain(others).collect::<Vec<_>>())?;
    let backend = Backend { channel, assertion_key, check_key };
    Ok((signing.iter().map(token_key).collect(), Some(backend)))
}

/// The keys that tokens are believed by which are minted elsewhere. What only a backend could judge is
/// refused: it would open nothing.
fn alone(settings: &Settings, environment: &Environment) -> Result<TokenKeys, ConfigError> {
    let needs_backend =
        |field| Err(Invalid::new(field, "needs a backend, and gateway.backend is none"));
    if !settings.auth.issuers.is_empty() {
        needs_backend("auth.issuers")?;
    }
    if settings.auth.legacy_tokens.is_some() {
        needs_backend("auth.legacy_tokens")?;
    }
    if settings.gateway.routes.is_empty() {
        let reason = "is empty, and gateway.backend is none: there would be nothing to serve";
        Err(Invalid::new("gateway.routes", reason))?;
    }
    let keys = JwtKeys::read_public(&settings.auth, environment)?;
    ensure_distinct(&keys.iter().filter_map(JwtKeyHeld::secret).collect::<Vec<_>>())?;
    Ok(keys.iter().map(token_key).collect())
}

fn token_key(key: &JwtKeyHeld) -> TokenKey {
    match &key.material {
        JwtMaterial::Secret(secret) => TokenKey::hs256(secret.expose()),
        JwtMaterial::Pair { public, .. } => TokenKey::ed25519(public),
    }
}

#[cfg(test)]
mod tests {
    use memoric_config::{ExposeSecret as _, schema};

    use super::*;
    use crate::config::{
        Config,
        tests::{environment, refusal, written},
    };

    #[test]
    fn without_a_backend_nothing_is_set_that_only_a_backend_could_judge() {
        let alone = |change: fn(&mut Settings)| {
            refusal(|settings| {
                settings.gateway.backend = "none".to_owned();
                settings.gateway.routes = vec![written("/memories")];
                change(settings);
            })
        };
        let field = |told: String| told.split(':').next().unwrap().to_owned();

        assert_eq!(alone(|_| {}), "accepted", "also where an operation would be");
        assert_eq!(field(alone(|s| s.gateway.routes.clear())), "gateway.routes");
        let legacy = alone(|s| s.auth.legacy_tokens = Some("2027-01-31".to_owned()));
        assert_eq!(field(legacy), "auth.legacy_tokens");
        let health = alone(|s| s.gateway.routes[0].path = "/health".to_owned());
        assert_eq!(field(health), "gateway.routes[0].path");
        let issuers = alone(|s| {
            s.auth.issuers = vec![schema::Issuer {
                issuer: "https://id.example".to_owned(),
                audience: "memoric".to_owned(),
                jwks_url: "https://id.example/keys".to_owned(),
                algorithms: vec!["ES256".to_owned()],
                may_grant_roles: false,
                ca: None,
            }];
        });
        assert_eq!(field(issuers), "auth.issuers");
    }

    #[test]
    fn without_a_backend_no_secret_is_needed_but_what_tokens_are_believed_by() {
        let mut settings = Settings::default();
        settings.gateway.backend = "none".to_owned();
        settings.gateway.routes = vec![written("/tools")];
        let secret = environment().secret("MEMORIC_JWT_SECRET").unwrap().unwrap();
        let only = Environment::from_iter([(
            "MEMORIC_JWT_SECRET".to_owned(),
            secret.expose_secret().to_owned(),
        )]);

        assert!(Config::new(&settings, &only).unwrap().backend.is_none());
        let refused = Config::new(&settings, &Environment::default()).err().unwrap().to_string();
        assert!(refused.starts_with("MEMORIC_JWT_SECRET: is not set"), "{refused}");
    }
}
