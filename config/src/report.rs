//! The settings in force, for `check` to print.

use crate::{
    environment::Environment,
    error::{ConfigError, Invalid},
    load::Loaded,
    names,
    origin::Origin,
    tree::Node,
};

/// One line per setting, `path = value (from where)`, and one per secret: whether it is set, and
/// never what it is.
pub fn report(loaded: &Loaded, environment: &Environment) -> Result<String, ConfigError> {
    let json = serde_json::to_value(&loaded.settings)
        .map_err(|error| Invalid::new("settings", error.to_string()))?;
    let leaves = Node::from(json).leaves();
    let settings = leaves.iter().map(|(path, value)| match loaded.origins.of(path) {
        Origin::Default => format!("{path} = {value} (default)"),
        origin => format!("{path} = {value} (from {origin})"),
    });
    let secrets =
        names::SECRETS.iter().map(|name| format!("{name} = {}", whence(name, environment)));
    Ok(settings.chain(secrets).map(|line| line + "\n").collect())
}

fn whence(name: &str, environment: &Environment) -> &'static str {
    let is_set = |name: &str| environment.names().any(|known| known == name);
    match (is_set(name), is_set(&format!("{name}_FILE"))) {
        (true, false) => "set (from the environment)",
        (false, true) => "set (from a file)",
        (true, true) => "set twice",
        (false, false) => "not set",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::load_traced;

    #[test]
    fn settings_are_told_with_their_origin_and_secrets_never() {
        let environment = Environment::from_iter([
            ("MEMORIC_GATEWAY__LIMITS__KEYS", "5"),
            ("MEMORIC_JWT_SECRET", "hunter2"),
            ("MEMORIC_DB_PASSWORD_FILE", "/run/secrets/database"),
        ]);
        let flags = [("redis.prefix".to_owned(), "two:".to_owned())];
        let loaded = load_traced(None, &environment, &flags).unwrap();

        let report = report(&loaded, &environment).unwrap();

        for line in [
            "privacy.encrypt_content = true (default)",
            "gateway.limits.keys = 5 (from MEMORIC_GATEWAY__LIMITS__KEYS)",
            "redis.prefix = \"two:\" (from --set)",
            "cors.origins = [] (default)",
            "gateway.timeouts.head = 10 (default)",
            "MEMORIC_JWT_SECRET = set (from the environment)",
            "MEMORIC_DB_PASSWORD = set (from a file)",
            "MEMORIC_ENCRYPTION_KEY = not set",
        ] {
            assert!(report.lines().any(|told| told == line), "{line}\n{report}");
        }
        assert!(!report.contains("hunter2"));
    }
}
