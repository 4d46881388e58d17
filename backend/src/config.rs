//! Settings that have been checked and are ready to use.

mod database;
mod listen;

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};

use memoric_config::{
    AssertionKey, CheckKey, ConfigError, Environment, ExposeSecret as _, Invalid, SecretString,
    Settings, ensure_distinct,
    jwt::{Halves, JwtKeys},
    redis::Redis,
    schema::{self, Registration},
};

use crate::{sessions::Lives, tokens::TokenRing};

pub use self::database::role_password;
pub(crate) use self::{
    database::{Admin, Database, Endpoint, Host, Tls},
    listen::Listen,
};

/// Everything a backend needs to serve.
pub struct Config {
    /// Where the gateway connects.
    pub(crate) listen: Listen,
    /// The user that must run the gateway.
    pub(crate) gateway_uid: u32,
    /// Where Prometheus connects, if it may.
    pub(crate) metrics: Option<SocketAddr>,
    /// How long running requests may take to end after a stop.
    pub(crate) grace: Duration,
    /// PostgreSQL.
    pub(crate) database: Database,
    /// The courier of revocations, not yet connected.
    pub(crate) redis: Arc<Redis>,
    /// Signs access tokens.
    pub(crate) token_ring: TokenRing,
    /// Believes the gateway.
    pub(crate) assertion_key: AssertionKey,
    /// Tells API keys of ours from guesses.
    pub(crate) check_key: CheckKey,
    /// Wraps data keys.
    pub(crate) encryption_key: EncryptionKey,
    /// Whether what people said is sealed before it is stored.
    pub(crate) seals_content: bool,
    /// Whether strangers may make themselves an account.
    pub(crate) registration: Registration,
    /// The life of an access token.
    pub(crate) access_token_ttl: Duration,
    /// The lives of sessions.
    pub(crate) sessions: Lives,
    /// What new passwords must be like.
    pub(crate) password_rules: schema::PasswordRules,
    /// Characters of a new password.
    pub(crate) password_min_length: usize,
    /// Passwords that may wait to be hashed.
    pub(crate) password_queue: NonZeroUsize,
    /// An admin to be made if there is none of that name.
    pub(crate) first_admin: Option<FirstAdmin>,
}

/// What `migrate` needs, which is less: it signs, seals and serves nothing.
pub(crate) struct MigrateConfig {
    /// PostgreSQL.
    pub(crate) database: Database,
    /// A superuser, where there is anything for one to do.
    pub(crate) admin: Option<Admin>,
}

/// Where the key-encryption key comes from.
pub(crate) enum EncryptionKey {
    /// From the operator, in one of the spellings that are understood.
    Given(SecretString),
    /// From a file, made at the first start.
    Generated(PathBuf),
}

/// The account that the guide's `CREATE_ADMIN` asks for.
pub(crate) struct FirstAdmin {
    /// Its name.
    pub(crate) username: String,
    /// Its e-mail address.
    pub(crate) email: String,
    /// Its password, as the operator chose it.
    pub(crate) password: SecretString,
}

impl Config {
    /// Checks the settings and secrets of a backend that is to serve.
    pub fn new(settings: &Settings, environment: &Environment) -> Result<Self, ConfigError> {
        let assertion_secret = environment.needed(AssertionKey::NAME)?;
        let jwt_keys = JwtKeys::read(&settings.auth, environment, Halves::Both)?;
        let config = Self {
            listen: Listen::try_from(&settings.backend)?,
            gateway_uid: settings
                .backend
                .gateway_uid
                .unwrap_or_else(|| rustix::process::getuid().as_raw()),
            metrics: settings.observability.metrics.enabled.then_some(settings.backend.metrics),
            grace: settings.backend.grace.duration(),
            database: Database::new(&settings.database, environment)?,
            redis: Arc::new(Redis::new(&settings.redis, environment)?),
            token_ring: TokenRing::new(&jwt_keys, memoric_config::legacy_until(&settings.auth)?)?,
            assertion_key: AssertionKey::check(&assertion_secret)?,
            check_key: check_key(environment)?,
            encryption_key: EncryptionKey::new(settings, environment)?,
            seals_content: settings.privacy.encrypt_content,
            registration: settings.auth.registration,
            access_token_ttl: access_token_ttl(settings)?,
            sessions: session_lives(settings)?,
            password_rules: settings.auth.password_rules,
            password_min_length: password_min_length(settings)?,
            password_queue: password_queue(settings)?,
            first_admin: FirstAdmin::new(environment)?,
        };
        config.ensure_distinct_secrets(&jwt_keys, &assertion_secret)?;
        Ok(config)
    }

    /// One secret under two names would let whoever learns one of them do the work of both.
    fn ensure_distinct_secrets(
        &self,
        jwt_keys: &JwtKeys,
        assertion_secret: &SecretString,
    ) -> Result<(), Invalid> {
        let others: [(&str, &[u8]); 3] = [
            ("MEMORIC_ASSERTION_KEY", assertion_secret.expose_secret().as_bytes()),
            ("MEMORIC_CHECK_KEY", self.check_key.expose()),
            ("MEMORIC_DB_PASSWORD", self.database.password().expose()),
        ];
        let mut secrets: Vec<_> = jwt_keys.secrets().chain(others).collect();
        if let EncryptionKey::Given(key) = &self.encryption_key {
            secrets.push(("MEMORIC_ENCRYPTION_KEY", key.expose_secret().as_bytes()));
        }
        ensure_distinct(&secrets)
    }
}

impl MigrateConfig {
    /// Checks the settings and secrets of a migration.
    pub(crate) fn new(settings: &Settings, environment: &Environment) -> Result<Self, ConfigError> {
        let database = Database::new(&settings.database, environment)?;
        let admin = Admin::new(&settings.database, environment, &database.endpoint)?;
        Ok(Self { database, admin })
    }
}

impl EncryptionKey {
    /// Where the settings say it is.
    pub(crate) fn new(settings: &Settings, environment: &Environment) -> Result<Self, ConfigError> {
        Ok(environment.secret("MEMORIC_ENCRYPTION_KEY")?.map_or_else(
            || Self::Generated(settings.encryption.generated_key.clone()),
            Self::Given,
        ))
    }
}

impl FirstAdmin {
    /// The admin that the environment asks for, if it does.
    pub(crate) fn new(environment: &Environment) -> Result<Option<Self>, ConfigError> {
        match environment.get("CREATE_ADMIN").map(str::to_ascii_lowercase).as_deref() {
            None | Some("0" | "false" | "no") => return Ok(None),
            Some("1" | "true" | "yes") => {}
            Some(_) => return Err(Invalid::new("CREATE_ADMIN", "must be true or false").into()),
        }
        let named = |name: &str| {
            environment
                .get(name)
                .map(str::to_owned)
                .ok_or_else(|| Invalid::new(name, "is not set, and CREATE_ADMIN is"))
        };
        Ok(Some(Self {
            username: named("ADMIN_USERNAME")?,
            email: named("ADMIN_EMAIL")?,
            password: environment
                .secret("ADMIN_PASSWORD")?
                .ok_or_else(|| Invalid::new("ADMIN_PASSWORD", "is not set, and CREATE_ADMIN is"))?,
        }))
    }
}

/// No session outlives what the database keeps of it.
fn session_lives(settings: &Settings) -> Result<Lives, Invalid> {
    let within = |field, seconds| match seconds {
        3_600..=7_776_000 => Ok(Duration::from_secs(seconds)),
        _ => Err(Invalid::new(field, "must be between 3600 and 7776000 seconds")),
    };
    Ok(Lives {
        idle: within("auth.session_idle", settings.auth.session_idle)?,
        life: within("auth.session_life", settings.auth.session_life)?,
    })
}

fn access_token_ttl(settings: &Settings) -> Result<Duration, Invalid> {
    let auth = &settings.auth;
    let refused = |reason| Err(Invalid::new("auth.access_token_ttl", reason));
    match auth.access_token_ttl {
        seconds if seconds > auth.session_idle.min(auth.session_life) => {
            refused("must not be greater than auth.session_idle or auth.session_life")
        }
        seconds @ 60..=86_400 => Ok(Duration::from_secs(seconds)),
        _ => refused("must be between 60 and 86400 seconds"),
    }
}

fn password_min_length(settings: &Settings) -> Result<usize, Invalid> {
    match settings.auth.password_min_length {
        length @ 8..=64 => Ok(length),
        _ => Err(Invalid::new("auth.password_min_length", "must be between 8 and 64 characters")),
    }
}

fn password_queue(settings: &Settings) -> Result<NonZeroUsize, Invalid> {
    NonZeroUsize::new(settings.auth.password_queue)
        .ok_or_else(|| Invalid::new("auth.password_queue", "must be at least 1"))
}

/// What tells API keys of ours from guesses.
pub(crate) fn check_key(environment: &Environment) -> Result<CheckKey, ConfigError> {
    Ok(CheckKey::check(&environment.needed(CheckKey::NAME)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_secrets_are_enough_to_serve() {
        let config = config(|_| {}, &[]).unwrap();

        assert_eq!(config.listen, Listen::Socket("/run/memoric/backend.sock".into()));
        assert_eq!(config.gateway_uid, rustix::process::getuid().as_raw());
        assert!(config.seals_content);
        assert!(config.first_admin.is_none());
        assert!(matches!(config.encryption_key, EncryptionKey::Given(_)));
    }

    #[test]
    fn a_secret_that_is_missing_is_named() {
        for name in [
            "MEMORIC_JWT_SECRET",
            "MEMORIC_ASSERTION_KEY",
            "MEMORIC_CHECK_KEY",
            "MEMORIC_DB_PASSWORD",
        ] {
            let error = Config::new(
                &Settings::default(),
                &secrets().filter(|(key, _)| *key != name).collect(),
            );
            assert!(error.err().unwrap().to_string().starts_with(name), "{name}");
        }
    }

    #[test]
    fn one_secret_under_two_names_is_refused() {
        for name in [
            "MEMORIC_CHECK_KEY",
            "MEMORIC_DB_PASSWORD",
            "MEMORIC_ENCRYPTION_KEY",
            "MEMORIC_JWT_SECRET",
        ] {
            let error =
                config(|_| {}, &[("MEMORIC_ASSERTION_KEY", ASSERTION_KEY), (name, ASSERTION_KEY)])
                    .err()
                    .unwrap();
            assert!(error.contains("same secret"), "{name}: {error}");
        }
    }

    #[test]
    fn an_encryption_key_that_is_not_given_is_generated_into_a_file() {
        let secrets = secrets().filter(|(key, _)| *key != "MEMORIC_ENCRYPTION_KEY").collect();

        let config = Config::new(&Settings::default(), &secrets).unwrap();

        assert!(
            matches!(config.encryption_key, EncryptionKey::Generated(path) if path.ends_with("encryption.key"))
        );
    }

    #[test]
    fn an_impossible_value_is_named() {
        let ttl = |seconds| move |settings: &mut Settings| settings.auth.access_token_ttl = seconds;

        assert!(config(ttl(60), &[]).is_ok());
        assert!(config(ttl(86_400), &[]).is_ok());
        for seconds in [0, 59, 86_401, u64::MAX] {
            assert!(
                config(ttl(seconds), &[]).err().unwrap().starts_with("auth.access_token_ttl: "),
                "{seconds}"
            );
        }
        let queue = |settings: &mut Settings| settings.auth.password_queue = 0;
        assert!(config(queue, &[]).err().unwrap().starts_with("auth.password_queue: "));
        let listen = |settings: &mut Settings| settings.backend.listen = "0.0.0.0:8001".to_owned();
        assert!(config(listen, &[]).err().unwrap().starts_with("backend.listen: "));
    }

    #[test]
    fn a_first_admin_is_whole_or_not_asked_for() {
        let whole = [
            ("CREATE_ADMIN", "true"),
            ("ADMIN_USERNAME", "root"),
            ("ADMIN_EMAIL", "root@example.com"),
            ("ADMIN_PASSWORD", "not the password of anything"),
        ];

        let admin = config(|_| {}, &whole).unwrap().first_admin.unwrap();
        assert_eq!((admin.username.as_str(), admin.email.as_str()), ("root", "root@example.com"));

        for missing in 1..whole.len() {
            let partial: Vec<_> = whole
                .into_iter()
                .enumerate()
                .filter(|(place, _)| *place != missing)
                .map(|(_, pair)| pair)
                .collect();
            assert!(config(|_| {}, &partial).err().unwrap().starts_with(whole[missing].0));
        }
        assert!(
            config(|_| {}, &[("CREATE_ADMIN", "maybe")])
                .err()
                .unwrap()
                .starts_with("CREATE_ADMIN: ")
        );
        assert!(config(|_| {}, &[("CREATE_ADMIN", "false")]).unwrap().first_admin.is_none());
    }

    fn config(
        change: impl FnOnce(&mut Settings),
        more: &[(&'static str, &'static str)],
    ) -> Result<Config, String> {
        let mut settings = Settings::default();
        change(&mut settings);
        let environment = secrets().chain(more.iter().copied()).collect();
        Config::new(&settings, &environment).map_err(|error| error.to_string())
    }

    fn secrets() -> impl Iterator<Item = (&'static str, &'static str)> {
        [
            (
                "MEMORIC_JWT_SECRET",
                "2mC0q8Vn4Zk7Xw1Ls9Rt5Bd3Gf6Hj0PyUeIoAaSzDxFcGvHbJnKmLqWwEeRrTtYy",
            ),
            ("MEMORIC_ASSERTION_KEY", ASSERTION_KEY),
            (
                "MEMORIC_CHECK_KEY",
                "3a7d1f9c5b2e8046f1d3a5c7e9b0d2f4a6c8e0b1d3f5a7c9e2b4d6f8a0c1e3b5",
            ),
            ("MEMORIC_DB_PASSWORD", "correct horse battery staple"),
            ("MEMORIC_ENCRYPTION_KEY", "u8m1aGq0cV7tLw3rXz5bN9dKfJ2hPySeQoTiUaRgElM="),
        ]
        .into_iter()
    }

    const ASSERTION_KEY: &str = "8f14e45fceea167a5a36dedd4bea2543c9f0f895fb98ab9159f51fd0297e236d";
}
