//! The Redis connection that the settings describe.

use redis::{ConnectionInfo, IntoConnectionInfo as _};
use secrecy::ExposeSecret as _;

use crate::{
    environment::Environment,
    error::{ConfigError, Invalid},
    schema,
};

/// A client for the Redis of `settings`, its password from `MEMORIC_REDIS_PASSWORD`.
///
/// It connects when it is first used, not here.
pub fn client(
    settings: &schema::Redis,
    environment: &Environment,
) -> Result<redis::Client, Invalid> {
    let mut info = address(&settings.url)?;
    if let Some(password) = environment.secret(PASSWORD).map_err(invalid)? {
        let redis = info.redis_settings().clone().set_password(password.expose_secret());
        info = info.set_redis_settings(redis);
    }
    redis::Client::open(info).map_err(|_| unusable())
}

/// Where the Redis at `url` is.
pub(crate) fn address(url: &str) -> Result<ConnectionInfo, Invalid> {
    let refuse = |reason: &str| Err(Invalid::new(FIELD, reason));
    match url.split_once("://") {
        Some(("redis" | "redis+unix", _)) => {}
        Some(("rediss", _)) => {
            return refuse("must be redis:// or redis+unix://; TLS is not yet supported");
        }
        Some(_) | None => return Err(unusable()),
    }
    let info = url.into_connection_info().map_err(|_| unusable())?;
    if info.redis_settings().password().is_some() {
        return refuse("must have no password in it: that is what MEMORIC_REDIS_PASSWORD is for");
    }
    Ok(info)
}

fn unusable() -> Invalid {
    Invalid::new(FIELD, "must be redis://host:port/db or redis+unix:///path?db=0")
}

/// The same reason as a refused setting.
fn invalid(error: ConfigError) -> Invalid {
    match error {
        ConfigError::Invalid(invalid) => invalid,
        ConfigError::Variable { name, reason, .. } => Invalid::new(name, reason),
        other => Invalid::new(PASSWORD, other.to_string()),
    }
}

const FIELD: &str = "redis.url";

const PASSWORD: &str = "MEMORIC_REDIS_PASSWORD";

#[cfg(test)]
mod tests {
    use redis::ConnectionAddr;

    use super::*;

    #[test]
    fn a_socket_and_a_host_are_taken() {
        let socket = address("redis+unix:///run/redis/redis.sock?db=2").unwrap();
        let host = address("redis://cache.example:6380/3").unwrap();

        assert_eq!(socket.addr(), &ConnectionAddr::Unix("/run/redis/redis.sock".into()));
        assert_eq!(socket.redis_settings().db(), 2);
        assert_eq!(host.addr(), &ConnectionAddr::Tcp("cache.example".to_owned(), 6380));
        assert_eq!(host.redis_settings().db(), 3);
    }

    #[test]
    fn the_password_comes_from_the_environment_alone() {
        let settings = schema::Redis { url: "redis://cache".to_owned(), ..Default::default() };
        let environment = Environment::from_iter([(PASSWORD, "hunter2")]);

        let client = client(&settings, &environment).unwrap();

        let redis = client.get_connection_info().redis_settings();
        assert_eq!(redis.password(), Some("hunter2"));
    }

    #[test]
    fn a_password_in_the_url_is_refused_without_repeating_it() {
        for url in ["redis://:hunter2@cache", "redis+unix:///run/redis.sock?pass=hunter2"] {
            let refusal = address(url).unwrap_err().to_string();

            assert!(refusal.contains("MEMORIC_REDIS_PASSWORD"), "{refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn tls_is_not_yet_there_and_says_so() {
        assert!(address("rediss://cache").unwrap_err().reason.contains("not yet"));
    }

    #[test]
    fn what_is_no_redis_is_refused_without_repeating_it() {
        for url in
            ["", "cache", "http://hunter2", "redis://", "redis://cache/hunter2", "redis+unix://x/y"]
        {
            let refusal = address(url).unwrap_err().to_string();
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }
}
