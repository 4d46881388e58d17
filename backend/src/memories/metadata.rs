//! What a client tells about a memory, kept as it was told.

use indexmap::IndexMap;
use memoric_contract::FieldError;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{Importance, SeenCount};
use crate::members;

/// Named values, each in the very characters it was sent in: `1.0` stays `1.0`, and 2^70 loses no digit.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Metadata(IndexMap<String, Box<RawValue>>);

impl Metadata {
    /// Reads the member of a body. Absent and null are empty.
    pub(super) fn read(member: Option<&RawValue>) -> Result<Self, FieldError> {
        let Some(member) = member.filter(|member| member.get() != "null") else {
            return Ok(Self::default());
        };
        if !member.get().starts_with('{') {
            return Err(FieldError::new(FIELD, "not_an_object", "Input should be a valid object"));
        }
        if member.get().len() > MAX_BYTES {
            return Err(FieldError::new(FIELD, "too_large", "Input should have at most 64 KiB"));
        }
        members::inspect(FIELD, member)?;
        serde_json::from_str(member.get()).map(Self).map_err(|_| members::malformed(FIELD))
    }

    /// How much the memory matters, by `importance`.
    pub(super) fn importance(&self) -> Importance {
        let level = self
            .0
            .get("importance")
            .and_then(|value| serde_json::from_str::<String>(value.get()).ok());
        Importance::of_level(level.as_deref().unwrap_or("medium"))
    }

    /// How often the memory was seen, by `seen_count`: whatever Python's `int()` makes a number of.
    pub(super) fn seen_count(&self) -> Result<SeenCount, FieldError> {
        let Some(value) = self.0.get("seen_count") else { return Ok(SeenCount::default()) };
        count_of(value).map(SeenCount::of).ok_or_else(|| {
            FieldError::new(
                "metadata.seen_count",
                "not_a_number",
                "Input should be a valid integer",
            )
        })
    }

    /// Adds what `value` makes under `name`, unless there is something.
    pub(super) fn fill<T: Serialize>(&mut self, name: &str, value: impl FnOnce() -> T) {
        if self.0.contains_key(name) {
            return;
        }
        // Text, lists and null always make JSON.
        if let Ok(value) = to_raw_value(&value()) {
            self.0.insert(name.to_owned(), value);
        }
    }

    /// About how many bytes it takes.
    pub(super) fn text_len(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() * 2 + value.get().len() + 4).sum()
    }
}

fn count_of(value: &RawValue) -> Option<i64> {
    let text = value.get();
    match text.as_bytes().first()? {
        b'"' => whole_number(serde_json::from_str::<String>(text).ok()?.trim()),
        b't' => Some(1),
        b'f' => Some(0),
        // A cast saturates, and so does the count.
        b'-' | b'0'..=b'9' => text.parse::<f64>().ok().map(|number| number as i64),
        _ => None,
    }
}

/// Digits with a sign, and single underscores between them. What is beyond 64 bits saturates.
fn whole_number(text: &str) -> Option<i64> {
    let (is_negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let is_group =
        |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
    if !digits.split('_').all(is_group) {
        return None;
    }
    let most = if is_negative { i64::MIN } else { i64::MAX };
    let sign = if is_negative { "-" } else { "" };
    Some(format!("{sign}{}", digits.replace('_', "")).parse().unwrap_or(most))
}

const FIELD: &str = "metadata";
/// In bytes of the JSON that was sent.
const MAX_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_keeps_its_characters() {
        let sent = r#"{"a":1.0,"b":1180591620717411303424,"c":-0,"d":1E+2,"e":"\u00e9\/","f":{ "x" : [1.50] },"g":5e-400}"#;
        assert_eq!(serde_json::to_string(&read(sent).unwrap()).unwrap(), sent);
    }

    #[test]
    fn of_a_name_that_comes_twice_the_last_counts() {
        let metadata =
            read(r#"{"importance":"low","x":1,"importance":"critical","\u0078":2}"#).unwrap();
        assert_eq!(serde_json::to_string(&metadata).unwrap(), r#"{"importance":"critical","x":2}"#);
        assert_eq!(metadata.importance().value(), 10);
    }

    #[test]
    fn the_clients_own_importance_counts() {
        for (sent, value) in [
            (r#"{"importance":"critical"}"#, 10),
            (r#"{"importance":"High"}"#, 8),
            (r#"{"importance":"low"}"#, 3),
            (r#"{"importance":"whatever"}"#, 5),
            (r#"{"importance":10}"#, 5),
            (r#"{"importance":null}"#, 5),
            (r#"{"importance":["high"]}"#, 5),
            ("{}", 5),
        ] {
            assert_eq!(read(sent).unwrap().importance().value(), value, "{sent}");
        }
    }

    #[test]
    fn a_count_is_what_python_makes_of_it() {
        for (sent, value) in [
            ("3", 3),
            ("0", 0),
            ("-7", 0),
            ("20", 20),
            ("21", 20),
            ("2.9", 2),
            ("-0.5", 0),
            ("1e300", 20),
            ("1e-9", 0),
            ("true", 1),
            ("false", 0),
            (r#""4""#, 4),
            (r#"" +1_0 ""#, 10),
            (r#""-3""#, 0),
            ("1180591620717411303424", 20),
            (r#""99999999999999999999""#, 20),
            (r#""-99999999999999999999""#, 0),
        ] {
            let metadata = read(&format!(r#"{{"seen_count":{sent}}}"#)).unwrap();
            assert_eq!(metadata.seen_count().unwrap().value(), value, "{sent}");
        }
        assert_eq!(read("{}").unwrap().seen_count().unwrap().value(), 1);
    }

    #[test]
    fn a_count_that_is_no_number_is_refused_by_name() {
        for sent in [
            "null",
            "[]",
            "{}",
            r#""abc""#,
            r#""""#,
            r#""2.5""#,
            r#""_1""#,
            r#""1__0""#,
            r#""--1""#,
            r#""-""#,
        ] {
            let metadata = read(&format!(r#"{{"seen_count":{sent}}}"#)).unwrap();
            let fault = metadata.seen_count().unwrap_err();
            assert_eq!(
                (fault.field.as_str(), fault.code.as_str()),
                ("metadata.seen_count", "not_a_number"),
                "{sent}"
            );
        }
    }

    #[test]
    fn what_the_client_told_is_never_touched() {
        let mut metadata = read(r#"{"topic":null,"user_id":"999"}"#).unwrap();
        metadata.fill("topic", || "meeting");
        metadata.fill("user_id", || "3");
        metadata.fill("category", || "general");
        let told = serde_json::to_string(&metadata).unwrap();
        assert_eq!(told, r#"{"topic":null,"user_id":"999","category":"general"}"#);
    }

    #[test]
    fn metadata_has_a_bound() {
        let of_size = |size: usize| format!(r#"{{"k":"{}"}}"#, "x".repeat(size - 8));
        assert!(read(&of_size(MAX_BYTES)).is_ok());
        assert_eq!(read(&of_size(MAX_BYTES + 1)).unwrap_err().code, "too_large");
    }

    fn read(sent: &str) -> Result<Metadata, FieldError> {
        Metadata::read(Some(serde_json::from_str(sent).unwrap()))
    }
}
