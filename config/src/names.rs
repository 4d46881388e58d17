//! Every name the environment may use for something of ours.

use std::collections::BTreeMap;

/// What a variable of the environment stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The setting at this path.
    Setting(String),
    /// Something that is not a setting: a secret, its file, or what a command reads itself.
    Other,
}

/// The variables that mean something, by name.
pub(crate) struct Names(BTreeMap<String, Meaning>);

impl Names {
    /// The names of the settings at `paths`, and all others.
    pub(crate) fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Self {
        let settings = paths.into_iter().map(|path| (variable(path), path));
        let aliases = ALIASES.iter().map(|(name, path)| ((*name).to_owned(), *path));
        let mut names: BTreeMap<_, _> = settings
            .chain(aliases)
            .map(|(name, path)| (name, Meaning::Setting(path.to_owned())))
            .collect();
        names.extend(OTHERS.iter().map(|name| ((*name).to_owned(), Meaning::Other)));
        for secret in SECRETS {
            names.insert(secret.to_owned(), Meaning::Other);
            names.insert(format!("{secret}_FILE"), Meaning::Other);
        }
        Self(names)
    }

    /// What `name` stands for, if it is one of ours.
    pub(crate) fn meaning(&self, name: &str) -> Option<&Meaning> {
        self.0.get(name)
    }

    /// All names, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The variable that overrides the setting at `path`.
pub(crate) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.to_ascii_uppercase().replace('.', "__"))
}

/// Whether Kubernetes sets `name` to `value` for a service whose name begins with `memoric`.
///
/// `MEMORIC_DATABASE_PORT=5433` is a misspelt setting; `MEMORIC_DATABASE_PORT=tcp://…` is the
/// service `memoric-database`.
pub(crate) fn is_of_kubernetes(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && PROTOCOLS.iter().any(|(url, _)| value.starts_with(url))
        || is_numbered_port(name)
}

/// Whether `name` is that of one port: `…_PORT_<n>_TCP`, with `_PROTO`, `_PORT`, `_ADDR` or
/// nothing behind it.
fn is_numbered_port(name: &str) -> bool {
    let base = ["_PROTO", "_PORT", "_ADDR"].iter().find_map(|end| name.strip_suffix(end));
    let base = base.unwrap_or(name);
    let Some(base) = PROTOCOLS.iter().find_map(|(_, end)| base.strip_suffix(end)) else {
        return false;
    };
    let digits = base.rsplit('_').next().unwrap_or_default();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && base.strip_suffix(digits).is_some_and(|service| service.ends_with("_PORT_"))
}

/// What every variable of ours begins with, the guide's own few apart.
pub(crate) const PREFIX: &str = "MEMORIC_";

/// Secrets, each also as a file, with `_FILE` behind its name.
pub(crate) const SECRETS: [&str; 9] = [
    "MEMORIC_JWT_SECRET",
    "MEMORIC_ENCRYPTION_KEY",
    "MEMORIC_DB_PASSWORD",
    "MEMORIC_DB_ADMIN_PASSWORD",
    "MEMORIC_ASSERTION_KEY",
    "MEMORIC_CHECK_KEY",
    "MEMORIC_REDIS_PASSWORD",
    "MEMORIC_REDIS_SENTINEL_PASSWORD",
    "ADMIN_PASSWORD",
];

/// The short names of some settings. `CORS_ORIGIN` yields to `MEMORIC_CORS_ORIGINS`.
pub(crate) const ALIASES: [(&str, &str); 6] = [
    ("MEMORIC_HTTP", "gateway.http"),
    ("MEMORIC_HTTPS", "gateway.https"),
    ("MEMORIC_GATEWAY_METRICS", "gateway.metrics"),
    ("MEMORIC_BACKEND_METRICS", "backend.metrics"),
    ("MEMORIC_CORS_ORIGINS", "cors.origins"),
    (CORS_ORIGIN, "cors.origins"),
];

/// The guide's name for one origin; used where no other variable lists origins.
pub(crate) const CORS_ORIGIN: &str = "CORS_ORIGIN";

/// What else may be set: the file's name, what `make up` reads, and the guide's first admin.
const OTHERS: [&str; 6] = [
    "MEMORIC_CONFIG",
    "MEMORIC_HOME",
    "MEMORIC_BINARIES",
    "CREATE_ADMIN",
    "ADMIN_USERNAME",
    "ADMIN_EMAIL",
];

/// How Kubernetes writes a protocol, in a value and in a name.
const PROTOCOLS: [(&str, &str); 3] = [("tcp://", "_TCP"), ("udp://", "_UDP"), ("sctp://", "_SCTP")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_a_variable_and_some_a_short_one() {
        let names = Names::new(["gateway.http", "gateway.limits.keys"]);
        let keys = Meaning::Setting("gateway.limits.keys".to_owned());
        let http = Meaning::Setting("gateway.http".to_owned());

        assert_eq!(names.meaning("MEMORIC_GATEWAY__LIMITS__KEYS"), Some(&keys));
        assert_eq!(names.meaning("MEMORIC_GATEWAY__HTTP"), Some(&http));
        assert_eq!(names.meaning("MEMORIC_HTTP"), Some(&http));
        assert_eq!(names.meaning("MEMORIC_REDIS_PASSWORD_FILE"), Some(&Meaning::Other));
        assert_eq!(names.meaning("MEMORIC_GATEWAY"), None);
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_is_known() {
        for (name, value) in [
            ("MEMORIC_SERVICE_HOST", "10.0.0.1"),
            ("MEMORIC_SERVICE_PORT", "8000"),
            ("MEMORIC_SERVICE_PORT_HTTPS", "8443"),
            ("MEMORIC_PORT", "tcp://10.0.0.1:8000"),
            ("MEMORIC_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("MEMORIC_PORT_8000_TCP_PROTO", "tcp"),
            ("MEMORIC_PORT_8000_TCP_PORT", "8000"),
            ("MEMORIC_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("MEMORIC_GATEWAY_SERVICE_HOST", "10.0.0.2"),
            ("MEMORIC_GATEWAY_METRICS_PORT_9464_UDP_ADDR", "10.0.0.2"),
        ] {
            assert!(is_of_kubernetes(name, value), "{name}");
        }
    }

    #[test]
    fn a_misspelt_setting_is_not_taken_for_a_service() {
        for (name, value) in [
            ("MEMORIC_DATABASE_PORT", "5433"),
            ("MEMORIC_ENCRYPTION_KEYS", "x"),
            ("MEMORIC_PORT_X_TCP", "x"),
            ("MEMORIC_PORT__TCP", "x"),
            ("MEMORIC_8000_TCP", "x"),
        ] {
            assert!(!is_of_kubernetes(name, value), "{name}");
        }
    }
}
