//! Settings before they have types, each with where it was set.

mod read;
mod yaml;

use std::fmt;

use serde::Deserialize as _;

pub(crate) use self::read::Fault;
use crate::{
    Settings,
    error::{ConfigError, Invalid},
    origin::{Origin, Origins},
};

/// A setting, or a section of settings, and where it was set.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    value: Value,
    origin: Origin,
}

#[derive(Debug, Clone)]
enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Decimal(f64),
    Text(String),
    /// As a variable or a flag has it: it is what its reader takes it for.
    Raw(String),
    List(Vec<Node>),
    Section(Vec<(String, Node)>),
}

impl Node {
    /// What a variable or a flag says.
    pub(crate) fn raw(text: &str, origin: Origin) -> Self {
        Self { value: Value::Raw(text.to_owned()), origin }
    }

    /// The default of every setting.
    pub(crate) fn defaults() -> Result<Self, ConfigError> {
        let json = serde_json::to_value(Settings::default())
            .map_err(|error| Invalid::new("defaults", error.to_string()))?;
        Ok(Self::from(json))
    }

    /// What the text of the file `name` says.
    pub(crate) fn of_yaml(name: &str, text: &str) -> Result<Self, ConfigError> {
        yaml::parse(name, text)
    }

    /// Puts `other` on top: its settings win, its sections are merged. A section that says
    /// nothing changes nothing.
    pub(crate) fn overlay(&mut self, other: Self) {
        match (&mut self.value, other.value) {
            (Value::Section(_), Value::Null) => {}
            (Value::Section(entries), Value::Section(others)) => {
                for (name, node) in others {
                    match entries.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => known.overlay(node),
                        None => entries.push((name, node)),
                    }
                }
            }
            (value, other_value) => {
                *value = other_value;
                self.origin = other.origin;
            }
        }
    }

    /// Puts `node` on top of the setting at `path`.
    pub(crate) fn set(&mut self, path: &str, node: Self) {
        let wrap = |node: Self, name: &str| Self {
            origin: node.origin.clone(),
            value: Value::Section(vec![(name.to_owned(), node)]),
        };
        self.overlay(path.rsplit('.').fold(node, wrap));
    }

    /// The settings, now that they have types.
    pub(crate) fn settings(&self) -> Result<Settings, Fault> {
        Settings::deserialize(self)
    }

    /// Where all of it was set.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where each setting was set.
    pub(crate) fn origins(&self) -> Origins {
        let mut origins = Origins::default();
        self.each_leaf("", &mut |path, node| {
            origins.insert(path.to_owned(), node.origin.clone());
            if let Value::List(items) = &node.value {
                for (place, item) in items.iter().enumerate() {
                    origins.insert(format!("{path}[{place}]"), item.origin.clone());
                }
            }
        });
        origins
    }

    /// The path of each setting and its value in words.
    pub(crate) fn leaves(&self) -> Vec<(String, String)> {
        let mut leaves = Vec::new();
        self.each_leaf("", &mut |path, node| leaves.push((path.to_owned(), node.to_string())));
        leaves
    }

    fn each_leaf(&self, path: &str, tell: &mut impl FnMut(&str, &Self)) {
        let Value::Section(entries) = &self.value else {
            return tell(path, self);
        };
        for (name, node) in entries {
            match path {
                "" => node.each_leaf(name, tell),
                path => node.each_leaf(&format!("{path}.{name}"), tell),
            }
        }
    }
}

impl From<serde_json::Value> for Node {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;

        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(value),
            Json::Number(number) => match number.as_i128() {
                Some(integer) => Value::Integer(integer),
                None => number.as_f64().map_or(Value::Null, Value::Decimal),
            },
            Json::String(text) => Value::Text(text),
            Json::Array(items) => Value::List(items.into_iter().map(Self::from).collect()),
            Json::Object(entries) => Value::Section(
                entries.into_iter().map(|(name, value)| (name, Self::from(value))).collect(),
            ),
        };
        Self { value, origin: Origin::Default }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Integer(value) => write!(f, "{value}"),
            Value::Decimal(value) => write!(f, "{value}"),
            Value::Text(text) | Value::Raw(text) => write!(f, "{text:?}"),
            Value::List(items) => {
                let items: Vec<_> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Value::Section(entries) => {
                let entries: Vec<_> =
                    entries.iter().map(|(name, node)| format!("{name}: {node}")).collect();
                write!(f, "{{{}}}", entries.join(", "))
            }
        }
    }
}
