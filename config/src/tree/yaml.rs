//! YAML that remembers its lines.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{MessageFormatter as _, Options, Spanned, UserMessageFormatter};

use super::{Node, Value};
use crate::{error::ConfigError, origin::Origin};

/// What the text of the file `name` says.
pub(super) fn parse(name: &str, text: &str) -> Result<Node, ConfigError> {
    let name: Arc<str> = name.into();
    match serde_saphyr::from_str_with_options::<Marked>(text, options()) {
        Ok(marked) => Ok(marked.into_node(&name, None)),
        Err(error) => Err(unclear(&name, &error)),
    }
}

/// A value and its line.
#[derive(Deserialize)]
#[serde(transparent)]
struct Marked(Spanned<Plain>);

enum Plain {
    Scalar(Value),
    List(Vec<Marked>),
    Section(Vec<(Spanned<String>, Marked)>),
}

impl Marked {
    /// The same as settings. One with a name is where its name is.
    fn into_node(self, file: &Arc<str>, line: Option<u64>) -> Node {
        let line = line.unwrap_or_else(|| self.0.referenced.line());
        let value = match self.0.value {
            Plain::Scalar(value) => value,
            Plain::List(items) => {
                Value::List(items.into_iter().map(|item| item.into_node(file, None)).collect())
            }
            Plain::Section(entries) => Value::Section(
                entries
                    .into_iter()
                    .map(|(name, value)| {
                        let line = name.referenced.line();
                        (name.value, value.into_node(file, Some(line)))
                    })
                    .collect(),
            ),
        };
        Node { value, origin: Origin::File { name: Arc::clone(file), line } }
    }
}

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PlainVisitor)
    }
}

struct PlainVisitor;

impl<'de> Visitor<'de> for PlainVisitor {
    type Value = Plain;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting or a section of settings")
    }

    fn visit_unit<E>(self) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Plain, D::Error> {
        Plain::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Integer(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Integer(value.into())))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Integer(value)))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Plain, E> {
        // More than any setting takes, whichever number it is.
        Ok(Plain::Scalar(Value::Integer(i128::try_from(value).unwrap_or(i128::MAX))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Decimal(value)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Plain, E> {
        Ok(Plain::Scalar(Value::Text(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Plain, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Plain::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Plain, A::Error> {
        let mut section = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            section.push(entry);
        }
        Ok(Plain::Section(section))
    }
}

/// Bounds that no settings need, and YAML 1.2's idea of a boolean: `off` is a word.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_buffered_comment_events: 10_000,
            max_depth: 16,
            flow_nesting_limit: 16,
            max_documents: 1,
            max_nodes: 20_000,
            max_events: 100_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
        },
        emit_comments: false,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn unclear(name: &Arc<str>, error: &serde_saphyr::Error) -> ConfigError {
    let line = error.location().map_or(0, |location| location.line());
    let reason = UserMessageFormatter.format_message(error);
    let words: Vec<_> = reason.split_whitespace().collect();
    ConfigError::Unclear {
        origin: Origin::File { name: Arc::clone(name), line },
        reason: words.join(" "),
    }
}
