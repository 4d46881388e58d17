//! The variables a process was started with, as a value that can be passed around.

use std::{collections::BTreeMap, env, ffi::OsString, fmt};

use secrecy::{ExposeSecret as _, SecretString};

use crate::{
    error::{ConfigError, Invalid},
    secret,
};

/// The variables a process was started with. It never shows their values.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, Variable>,
}

/// A variable's value: text, unless somebody set bytes.
#[derive(Clone)]
enum Variable {
    Text(SecretString),
    NotText,
}

impl Environment {
    /// The variables of this process.
    pub fn of_process() -> Self {
        Self {
            variables: env::vars_os().map(|(name, value)| (lossy(name), value.into())).collect(),
        }
    }

    /// The value of `name`; nothing where it is absent, empty or not text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.text(name).ok().flatten().filter(|value| !value.is_empty())
    }

    /// The secret `name`, or what the file that `name` with `_FILE` behind it holds.
    ///
    /// A secret that is set and empty is refused, not taken for absent: a substitution that
    /// found nothing must not make a process generate a key of its own.
    pub fn secret(&self, name: &'static str) -> Result<Option<SecretString>, ConfigError> {
        let file = format!("{name}_FILE");
        match (self.text(name)?, self.text(&file)?) {
            (Some(_), Some(_)) => {
                Err(ConfigError::variable(name, format!("is set, and so is {file}: set one")))
            }
            (Some(""), None) => Err(ConfigError::variable(name, "is set and empty")),
            (Some(value), None) => Ok(Some(SecretString::from(value))),
            (None, Some(path)) => secret::file::read(&file, path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// The secret `name`, without which nothing starts.
    pub fn needed(&self, name: &'static str) -> Result<SecretString, ConfigError> {
        let reason = || format!("is not set, and neither is {name}_FILE");
        self.secret(name)?.ok_or_else(|| Invalid::new(name, reason()).into())
    }

    /// The value of `name`, be it empty.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, ConfigError> {
        match self.variables.get(name) {
            Some(Variable::Text(value)) => Ok(Some(value.expose_secret())),
            Some(Variable::NotText) => Err(ConfigError::variable(name, "is not UTF-8 text")),
            None => Ok(None),
        }
    }

    /// The names of all variables, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        let text = |value: V| Variable::Text(SecretString::from(value.into()));
        let variables = variables.into_iter().map(|(name, value)| (name.into(), text(value)));
        Self { variables: variables.collect() }
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

impl From<OsString> for Variable {
    fn from(value: OsString) -> Self {
        value.into_string().map_or(Self::NotText, |text| Self::Text(SecretString::from(text)))
    }
}

fn lossy(name: OsString) -> String {
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "MEMORIC_JWT_SECRET";

    #[test]
    fn a_secret_comes_from_its_variable_or_from_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from the file\n").unwrap();
        let path = file.path().display().to_string();

        let given = Environment::from_iter([(NAME, "given")]);
        let named = Environment::from_iter([("MEMORIC_JWT_SECRET_FILE", path)]);

        assert_eq!(given.secret(NAME).unwrap().unwrap().expose_secret(), "given");
        assert_eq!(named.secret(NAME).unwrap().unwrap().expose_secret(), "from the file");
        assert!(Environment::default().secret(NAME).unwrap().is_none());
    }

    #[test]
    fn a_secret_that_is_set_twice_is_refused() {
        let environment =
            Environment::from_iter([(NAME, "hunter2"), ("MEMORIC_JWT_SECRET_FILE", "/run/jwt")]);

        let refusal = environment.secret(NAME).unwrap_err().to_string();

        assert_eq!(
            refusal,
            "MEMORIC_JWT_SECRET: is set, and so is MEMORIC_JWT_SECRET_FILE: set one"
        );
    }

    #[test]
    fn a_secret_that_is_set_and_empty_is_not_taken_for_absent() {
        for name in [NAME, "MEMORIC_JWT_SECRET_FILE"] {
            let refusal = Environment::from_iter([(name, "")]).secret(NAME).unwrap_err();
            assert_eq!(refusal.to_string(), format!("{name}: is set and empty"));
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        use std::os::unix::ffi::OsStringExt as _;

        let value = Variable::from(OsString::from_vec(vec![0xff]));
        let environment = Environment { variables: BTreeMap::from([(NAME.to_owned(), value)]) };

        let refusal = environment.secret(NAME).unwrap_err();

        assert_eq!(refusal.to_string(), "MEMORIC_JWT_SECRET: is not UTF-8 text");
        assert_eq!(environment.get(NAME), None);
    }

    #[test]
    fn values_are_never_shown() {
        let environment = Environment::from_iter([(NAME, "hunter2")]);
        assert_eq!(format!("{environment:?}"), r#"{"MEMORIC_JWT_SECRET"}"#);
    }

    #[test]
    fn an_empty_variable_has_no_value() {
        let environment =
            Environment::from_iter([("CREATE_ADMIN", ""), ("ADMIN_USERNAME", "root")]);
        assert_eq!(environment.get("CREATE_ADMIN"), None);
        assert_eq!(environment.get("ADMIN_USERNAME"), Some("root"));
    }
}
