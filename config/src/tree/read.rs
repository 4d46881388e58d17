//! Types for settings: serde's view of the tree, with errors in the words of people.

use std::fmt;

use serde::{
    Deserializer,
    de::{
        self, DeserializeSeed, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        Visitor,
        value::{StrDeserializer, StringDeserializer},
    },
    forward_to_deserialize_any,
};

use super::{Node, Value};
use crate::origin::Origin;

/// A setting that has no meaning, known by its path once it has left the tree.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) path: String,
    pub(crate) origin: Option<Origin>,
    pub(crate) reason: String,
    /// Whether the path itself is what is wrong.
    pub(crate) is_unknown: bool,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), origin: None, reason: reason.into(), is_unknown: false }
    }

    fn mismatch(wanted: &str, found: &Value) -> Self {
        Self::new(format!("must be {wanted}, not {}", found.kind()))
    }

    /// Adds the name that led to the fault, and where it was set unless that is known better.
    fn under(mut self, name: &str, origin: &Origin) -> Self {
        self.path = match self.path.as_str() {
            "" => name.to_owned(),
            path if path.starts_with('[') => format!("{name}{path}"),
            path => format!("{name}.{path}"),
        };
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self::new(reason.to_string())
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        // What was found is not repeated: it may be a secret in the wrong place.
        Self::new(format!("must be {expected}"))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("must be {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("must be {}", expected.join(" or ")))
    }

    fn unknown_field(name: &str, _: &'static [&'static str]) -> Self {
        Self { path: name.to_owned(), is_unknown: true, ..Self::new("unknown setting") }
    }
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "true or false",
            Self::Integer(_) => "a whole number",
            Self::Decimal(_) => "a decimal number",
            Self::Text(_) | Self::Raw(_) => "text",
            Self::List(_) => "a list",
            Self::Section(_) => "a section",
        }
    }
}

macro_rules! deserialize_integers {
    ($($method:ident $visit:ident $integer:ty,)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let wanted = || {
                format!("a whole number from {} to {}", <$integer>::MIN, <$integer>::MAX)
            };
            let integer = match &self.value {
                Value::Integer(integer) => Some(*integer),
                Value::Raw(text) => text.trim().parse().ok(),
                other => return Err(Fault::mismatch("a whole number", other)),
            };
            match integer.map(<$integer>::try_from) {
                Some(Ok(integer)) => visitor.$visit(integer),
                Some(Err(_)) => Err(Fault::new(format!("must be {}", wanted()))),
                None => Err(Fault::mismatch("a whole number", &self.value)),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for &Node {
    type Error = Fault;

    deserialize_integers! {
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i8 visit_i8 i8,
        deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(_) => self.deserialize_i64(visitor),
            Value::Decimal(value) => visitor.visit_f64(*value),
            Value::Text(text) | Value::Raw(text) => visitor.visit_str(text),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Section(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Raw(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" => visitor.visit_bool(true),
                "false" => visitor.visit_bool(false),
                _ => Err(Fault::new("must be true or false")),
            },
            other => Err(Fault::mismatch("true or false", other)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let number = match &self.value {
            Value::Decimal(number) => Some(*number),
            Value::Integer(integer) => integer.to_string().parse().ok(),
            Value::Raw(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => visitor.visit_f64(number),
            None => Err(Fault::mismatch("a number", &self.value)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(text) | Value::Raw(text) => visitor.visit_str(text),
            scalar @ (Value::Bool(_) | Value::Integer(_) | Value::Decimal(_)) => {
                Err(Fault::new(format!("must be text, not {}: put it in quotes", scalar.kind())))
            }
            other => Err(Fault::mismatch("text", other)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            Value::Raw(text) if matches!(text.trim(), "" | "null" | "~") => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::List(items) => visitor.visit_seq(Items { items: items.iter(), place: 0 }),
            Value::Raw(text) => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                let words: Vec<_> = words.map(|w| Node::raw(w, self.origin.clone())).collect();
                visitor.visit_seq(Items { items: words.iter(), place: 0 })
            }
            other => Err(Fault::mismatch("a list", other)),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Section(entries) => visitor.visit_map(Entries { entries, value: None }),
            other => Err(Fault::mismatch("a section of settings", other)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Text(text) | Value::Raw(text) => {
                let text: StrDeserializer<'_, Fault> = text.trim().into_deserializer();
                visitor.visit_enum(text)
            }
            other => Err(Fault::mismatch(&variants.join(" or "), other)),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The items of a list. Each is named by its place, from 0.
struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    place: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Fault> {
        let Some(item) = self.items.next() else {
            return Ok(None);
        };
        let name = format!("[{}]", self.place);
        self.place += 1;
        seed.deserialize(item).map(Some).map_err(|fault| fault.under(&name, &item.origin))
    }
}

/// The settings of a section.
struct Entries<'a> {
    entries: &'a [(String, Node)],
    value: Option<&'a (String, Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Fault> {
        let Some((entry, rest)) = self.entries.split_first() else {
            return Ok(None);
        };
        self.entries = rest;
        self.value = Some(entry);
        let (name, node) = entry;
        let name: StringDeserializer<Fault> = name.clone().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|fault| Fault { origin: Some(node.origin.clone()), ..fault })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        match self.value.take() {
            Some((name, node)) => {
                seed.deserialize(node).map_err(|fault| fault.under(name, &node.origin))
            }
            None => Err(Fault::new("has no value")),
        }
    }
}
