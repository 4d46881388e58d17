//! What a client sent, read whole, and field by field where it is JSON about people.

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header::CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use memoric_contract::FieldError;
use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Which media types a body may claim to have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Claims {
    /// JSON, by its name.
    Json,
    /// JSON by its name, none at all, or what `curl -d` says: the guide logs in like that.
    JsonOrNothing,
}

/// The fields of a JSON object, each taken once.
///
/// A field that is not accepted is remembered, so that a client learns of all of them at once:
/// take every field, then go on only if all of them are there.
pub(super) struct Sent {
    fields: Map<String, Value>,
    faults: Vec<FieldError>,
}

/// The whole body, if it claims to be what it must be and is not too large.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    claims: Claims,
) -> Result<Bytes, ApiError> {
    if !claims.allow(headers) {
        return Err(ApiError::field(
            "body",
            "content_type",
            "Content type should be application/json",
        ));
    }
    let read = Limited::new(body, MAX_BODY).collect().await;
    let whole = read.map_err(|error| {
        if error.is::<LengthLimitError>() { ApiError::TooLarge } else { ApiError::Incomplete }
    })?;
    Ok(whole.to_bytes())
}

impl Sent {
    /// Reads an object.
    ///
    /// Of a field that comes twice the last one counts, and fields that nobody asks for are
    /// ignored, as it always was.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let mut deserializer = serde_json::Deserializer::from_slice(body);
        let value: Value = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| malformed(first_segment(error.path())))?;
        deserializer.end().map_err(|_| malformed(None))?;
        match value {
            Value::Object(fields) => Ok(Self { fields, faults: Vec::new() }),
            _ => Err(ApiError::field("body", "not_an_object", "Input should be a valid object")),
        }
    }

    /// Text that must be there.
    pub(super) fn text(&mut self, field: &'static str) -> Option<String> {
        match self.fields.remove(field) {
            Some(Value::String(text)) if text.contains('\0') => {
                self.fault(field, "nul", "Input should not contain NUL characters")
            }
            Some(Value::String(text)) => Some(text),
            Some(_) => self.fault(field, "not_text", "Input should be a valid string"),
            None => self.fault(field, "missing", "Field required"),
        }
    }

    /// Text that may be absent, or null.
    pub(super) fn maybe_text(&mut self, field: &'static str) -> Option<Option<String>> {
        match self.fields.get(field) {
            Some(Value::Null) | None => Some(None),
            Some(_) => self.text(field).map(Some),
        }
    }

    /// Text that must be there and is nobody's to see.
    pub(super) fn secret(&mut self, field: &'static str) -> Option<SecretString> {
        self.text(field).map(SecretString::from)
    }

    /// What a rule made of a field, or the fault that it found.
    pub(super) fn judged<T>(&mut self, judged: Result<T, FieldError>) -> Option<T> {
        judged.map_err(|fault| self.faults.push(fault)).ok()
    }

    /// The answer where a field was not accepted.
    pub(super) fn refusal(self) -> ApiError {
        ApiError::Invalid(self.faults)
    }

    fn fault<T>(&mut self, field: &str, code: &str, message: &str) -> Option<T> {
        self.faults.push(FieldError::new(field, code, message));
        None
    }
}

impl Claims {
    fn allow(self, headers: &HeaderMap) -> bool {
        let Some(claimed) = headers.get(CONTENT_TYPE) else { return self == Self::JsonOrNothing };
        let claimed = claimed.to_str().unwrap_or_default();
        let essence = claimed.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_json = essence == "application/json"
            || essence.strip_prefix("application/").is_some_and(|name| name.ends_with("+json"));
        is_json || (self == Self::JsonOrNothing && essence == "application/x-www-form-urlencoded")
    }
}

fn malformed(field: Option<&str>) -> ApiError {
    ApiError::field(field.unwrap_or("body"), "malformed", "Input should be valid JSON")
}

/// The field in which the parser gave up. An unknown name may be anything, so it is not repeated.
fn first_segment(path: &serde_path_to_error::Path) -> Option<&'static str> {
    match path.iter().next() {
        Some(serde_path_to_error::Segment::Map { key }) => {
            KNOWN.into_iter().find(|known| known == key)
        }
        _ => None,
    }
}

/// Bytes: a memory of 1 MiB half of whose characters are escaped, or one with all it may carry.
const MAX_BODY: usize = 2 * 1024 * 1024;

/// The fields that some operation reads in this way.
const KNOWN: [&str; 7] =
    ["email", "full_name", "new_password", "old_password", "password", "refresh_token", "username"];

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn every_field_at_fault_is_named_and_none_is_repeated() {
        let mut sent =
            Sent::parse(br#"{"username":7,"email":"a\u0000b","full_name":null}"#).unwrap();
        assert_eq!(sent.text("username"), None);
        assert_eq!(sent.text("email"), None);
        assert_eq!(sent.maybe_text("full_name"), Some(None));
        assert!(sent.secret("password").is_none());

        let ApiError::Invalid(faults) = sent.refusal() else { panic!("not a refusal of fields") };

        let named: Vec<_> =
            faults.iter().map(|fault| (fault.field.as_str(), fault.code.as_str())).collect();
        assert_eq!(named, [("username", "not_text"), ("email", "nul"), ("password", "missing")]);
    }

    #[test]
    fn of_a_field_that_comes_twice_the_last_one_counts() {
        let mut sent = Sent::parse(br#"{"username":"a","other":1,"username":"b"}"#).unwrap();
        assert_eq!(sent.text("username").as_deref(), Some("b"));
    }

    #[test]
    fn what_is_not_an_object_is_refused_by_the_field_it_broke_in() {
        let deep = format!(r#"{{"password":{}"#, "[".repeat(10_000));
        let cases: [(&[u8], &str); 10] = [
            (b"", "body"),
            (b"null", "body"),
            (b"[]", "body"),
            (br#"{"a":1} x"#, "body"),
            (br#"{"username":"\ud800"}"#, "username"),
            (br#"{"username":NaN}"#, "username"),
            (br#"{"password":1e999}"#, "password"),
            (br#"{"secret of mine":NaN}"#, "body"),
            (b"\xff", "body"),
            (deep.as_bytes(), "password"),
        ];
        for (body, field) in cases {
            let Err(ApiError::Invalid(faults)) = Sent::parse(body) else { panic!("{body:?}") };
            assert_eq!(faults[0].field, field, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn only_json_is_read_except_where_the_guide_says_nothing() {
        let claiming = |name: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            name.map(|name| headers.insert(CONTENT_TYPE, HeaderValue::from_static(name)));
            [Claims::Json.allow(&headers), Claims::JsonOrNothing.allow(&headers)]
        };
        assert_eq!(claiming(Some("application/json")), [true, true]);
        assert_eq!(claiming(Some("Application/JSON; charset=utf-8")), [true, true]);
        assert_eq!(claiming(Some("application/merge-patch+json")), [true, true]);
        assert_eq!(claiming(None), [false, true]);
        assert_eq!(claiming(Some("application/x-www-form-urlencoded")), [false, true]);
        assert_eq!(claiming(Some("text/plain")), [false, false]);
        assert_eq!(claiming(Some("text/json+json")), [false, false]);
        assert_eq!(claiming(Some("")), [false, false]);
    }
}
