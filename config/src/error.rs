//! Why settings cannot be used, each reason on one line.

use std::fmt::{self, Write as _};

use thiserror::Error;

use crate::origin::Origin;

/// Why settings could not be loaded.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file is missing, is not ours to read, or is not text.
    #[error("{}: {}", Plain(file), Plain(reason))]
    Unreadable {
        /// The file, as it was named.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file is not YAML.
    #[error("{origin}: {}", Plain(reason))]
    Unclear {
        /// Where it stops being YAML.
        origin: Origin,
        /// What the parser missed.
        reason: String,
    },
    /// A setting is unknown, of the wrong type, or impossible.
    #[error("{}{}: {}{}", Prefix(origin), Plain(field), Plain(reason), Nearest(nearest))]
    Setting {
        /// Where it was set.
        origin: Origin,
        /// Its path.
        field: String,
        /// What it must be instead.
        reason: String,
        /// The valid name that is most like it.
        nearest: Option<String>,
    },
    /// A variable of the environment is unknown or cannot be used.
    #[error("{}: {}{}", Plain(name), Plain(reason), Nearest(nearest))]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
        /// The valid name that is most like it.
        nearest: Option<String>,
    },
    /// A setting was understood and cannot be used by this process.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// A setting or a secret that was understood and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}: {}", Plain(field), Plain(reason))]
pub struct Invalid {
    /// The setting's path, or the variable's name.
    pub field: String,
    /// What it must be instead.
    pub reason: String,
}

impl Invalid {
    /// `field` cannot be used for `reason`.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl ConfigError {
    pub(crate) fn variable(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Variable { name: name.into(), reason: reason.into(), nearest: None }
    }
}

/// Text of a stranger's making, on one line and within bounds.
pub(crate) struct Plain<'a>(pub(crate) &'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars().take(LONGEST) {
            let shown =
                if character.is_control() { char::REPLACEMENT_CHARACTER } else { character };
            f.write_char(shown)?;
        }
        f.write_str(if self.0.chars().nth(LONGEST).is_some() { "…" } else { "" })
    }
}

/// What stands before the setting's path: nothing where nobody set it, and a flag has the path
/// in its own name.
struct Prefix<'a>(&'a Origin);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Origin::Default => Ok(()),
            Origin::Flag => write!(f, "{} ", self.0),
            Origin::File { .. } | Origin::Variable(_) => write!(f, "{}: ", self.0),
        }
    }
}

struct Nearest<'a>(&'a Option<String>);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, ", did you mean {nearest}?"),
            None => Ok(()),
        }
    }
}

/// More than any name or reason of ours has, in characters.
const LONGEST: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_one_line_whatever_was_written() {
        let error = ConfigError::Setting {
            origin: Origin::Variable("A\nB".to_owned()),
            field: "a\u{1b}[2J\r\n".to_owned(),
            reason: "x".repeat(1000),
            nearest: None,
        };

        let told = error.to_string();

        assert!(!told.contains(char::is_control), "{told:?}");
        assert!(told.chars().count() < 400, "{told}");
    }
}
