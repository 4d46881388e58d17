//! Where each setting was set, so that a refusal can point at it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::error::{ConfigError, Invalid, Plain};

/// Where a setting was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it has its default.
    Default,
    /// In the file.
    File {
        /// The file, as it was named.
        name: Arc<str>,
        /// The line, from 1; 0 where it is not known.
        line: u64,
    },
    /// In the environment, by the variable of this name.
    Variable(String),
    /// On the command line, by `--set`.
    Flag,
}

/// Where every setting was set.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Where the setting at `path` was set.
    pub fn of(&self, path: &str) -> &Origin {
        let list = || path.split_once('[').and_then(|(list, _)| self.0.get(list));
        self.0.get(path).or_else(list).unwrap_or(&Origin::Default)
    }

    /// Adds to an error about a setting where that was set.
    pub fn locate(&self, error: impl Into<ConfigError>) -> ConfigError {
        match error.into() {
            ConfigError::Invalid(Invalid { field, reason }) => {
                let origin = self.of(&field).clone();
                ConfigError::Setting { origin, field, reason, nearest: None }
            }
            located => located,
        }
    }

    pub(crate) fn insert(&mut self, path: String, origin: Origin) {
        self.0.insert(path, origin);
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { name, line: 0 } => Plain(name).fmt(f),
            Self::File { name, line } => write!(f, "{}:{line}", Plain(name)),
            Self::Variable(name) => Plain(name).fmt(f),
            Self::Flag => f.write_str("--set"),
        }
    }
}
