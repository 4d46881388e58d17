//! The members of a JSON object that somebody asks for, in the characters they were sent in.
//!
//! Of the rest nothing is kept: a parsed value takes many times the bytes that it was sent in, and a
//! stranger may send what they like.

mod scan;

use std::{borrow::Cow, cell::Cell, fmt};

use memoric_contract::FieldError;
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Reads members by their names, and says in which of them it was when the JSON broke.
struct Named<'n, const N: usize> {
    names: &'n [&'static str; N],
    inside: &'n Cell<&'static str>,
}

/// The members of the object `body` that are called as in `names`, in that order. Of one that comes
/// twice the last counts, as it always has, but [`OWNER`] comes once; others mean nothing.
pub(crate) fn read<'a, const N: usize>(
    body: &'a [u8],
    names: &[&'static str; N],
) -> Result<[Option<&'a RawValue>; N], FieldError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| FieldError::new(BODY, "malformed", "Input should be UTF-8"))?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => FieldError::new(BODY, "not_an_object", "Input should be a valid object"),
            Err(_) => malformed(BODY),
        });
    }
    let inside = Cell::new(BODY);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let members = Named { names, inside: &inside }
        .deserialize(&mut deserializer)
        .map_err(|_| malformed(inside.get()))?;
    deserializer.end().map_err(|_| malformed(BODY))?;
    Ok(members)
}

/// The text that `member` is.
pub(crate) fn text(field: &str, member: &RawValue) -> Result<String, FieldError> {
    if !member.get().starts_with('"') {
        return Err(FieldError::new(field, "not_text", "Input should be a valid string"));
    }
    inspect(field, member)?;
    serde_json::from_str(member.get()).map_err(|_| malformed(field))
}

/// The texts that `member` is a list of.
pub(crate) fn texts(field: &str, member: &RawValue) -> Result<Vec<String>, FieldError> {
    let listed: Vec<&RawValue> = serde_json::from_str(member.get())
        .map_err(|_| FieldError::new(field, "not_a_list", "Input should be a list of strings"))?;
    listed.into_iter().map(|each| text(field, each)).collect()
}

/// Refuses what valid JSON may hold and PostgreSQL or a client would choke on.
pub(crate) fn inspect(field: &str, member: &RawValue) -> Result<(), FieldError> {
    scan::inspect(member).map_err(|unfit| unfit.fault(field))
}

/// What breaks the rules of JSON.
pub(crate) fn malformed(field: &str) -> FieldError {
    FieldError::new(field, "malformed", "Input should be valid JSON")
}

impl<'de, const N: usize> DeserializeSeed<'de> for Named<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Named<'_, N> {
    type Value = [Option<&'de RawValue>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = [None; N];
        while let Some(sent) = map.next_key::<Cow<'de, str>>()? {
            let mut asked = self.names.iter().zip(&mut members);
            let Some((name, member)) = asked.find(|(name, _)| **name == sent) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.inside.set(name);
            let earlier = member.replace(map.next_value()?);
            if earlier.is_some() && *name == OWNER {
                return Err(A::Error::custom("whose it is was said already"));
            }
            self.inside.set(BODY);
        }
        Ok(members)
    }
}

/// Says whose something is to be.
pub(crate) const OWNER: &str = "user_id";

/// The whole, where no member is to blame.
const BODY: &str = "body";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_the_order_they_are_asked_for_and_the_last_of_one_counts() {
        let found =
            read(br#" {"b":[1],"other":2,"a":1.0,"\u0061":2.0} "#, &["a", "b", "c"]).unwrap();
        assert_eq!(found.map(|member| member.map(RawValue::get)), [Some("2.0"), Some("[1]"), None]);
    }

    #[test]
    fn what_nobody_asks_for_is_passed_over_and_never_made_a_value_of() {
        let deep = "[".repeat(10_000) + &"]".repeat(10_000);
        let sent = format!(r#"{{"x":{deep},"y":1e999,"z":"\ud800","a":{deep}}}"#);

        let [member] = read(sent.as_bytes(), &["a"]).unwrap();

        assert_eq!(
            member.unwrap().get(),
            deep,
            "nor is what somebody asks for, before it is looked at"
        );
    }

    #[test]
    fn what_is_broken_is_told_by_the_member_it_broke_in() {
        let deep = format!(r#"{{"a":{}"#, "[".repeat(10_000));
        let cases: [(&[u8], &str, &str); 11] = [
            (b"", "body", "malformed"),
            (b"null", "body", "not_an_object"),
            (b"[]", "body", "not_an_object"),
            (b"[", "body", "malformed"),
            (br#"{"x":1} x"#, "body", "malformed"),
            (br#"{"x":NaN}"#, "body", "malformed"),
            (br#"{"a":NaN}"#, "a", "malformed"),
            (br#"{"a":"\x"}"#, "a", "malformed"),
            (br#"{"a":1"#, "body", "malformed"),
            (b"{\"a\":\"\xff\"}", "body", "malformed"),
            (deep.as_bytes(), "a", "malformed"),
        ];
        for (body, field, code) in cases {
            let fault = read(body, &["a"]).unwrap_err();
            let case = String::from_utf8_lossy(body);
            assert_eq!((fault.field.as_str(), fault.code.as_str()), (field, code), "{case}");
        }
    }
}
