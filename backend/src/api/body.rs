//! What a client sent, read whole, and field by field where it is JSON about people.

use std::ops::RangeInclusive;

use axum::{
    body::{Body, Bytes, HttpBody as _},
    http::{HeaderMap, HeaderValue, header::CONTENT_TYPE},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use memoric_contract::{FieldError, Operation};
use secrecy::SecretString;
use serde_json::value::RawValue;

use crate::{error::ApiError, members};

/// The fields of a JSON object.
///
/// A field that is not accepted is remembered, so that a client learns of all of them at once:
/// take every field, then go on only if all of them are there.
pub(super) struct Sent<'a> {
    members: [Option<&'a RawValue>; KNOWN.len()],
    faults: Vec<FieldError>,
}

/// What `take` makes of the fields of a body about people.
///
/// Anybody may send one, so it is short, and nothing of it is held while the answer is being made.
pub(super) async fn fields<T>(
    headers: &HeaderMap,
    body: Body,
    operation: Operation,
    take: impl FnOnce(Sent<'_>) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    let body = read(headers, body, operation).await?;
    take(Sent::parse(&body)?)
}

/// The same of a body that may be absent, and is `None` then.
pub(super) async fn maybe_fields<T>(
    headers: &HeaderMap,
    body: Body,
    operation: Operation,
    take: impl FnOnce(Sent<'_>) -> Result<T, ApiError>,
) -> Result<Option<T>, ApiError> {
    if body.is_end_stream() {
        return Ok(None);
    }
    fields(headers, body, operation, take).await.map(Some)
}

/// The whole body, if it is called what `operation` takes and is not larger.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    operation: Operation,
) -> Result<Bytes, ApiError> {
    let takes = operation.takes();
    if !takes.allows(headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)) {
        return Err(ApiError::UnsupportedMediaType);
    }
    whole(body, takes.most()).await
}

/// The whole body, if it is of `limit` bytes at most.
pub(super) async fn whole(body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let read = Limited::new(body, limit).collect().await;
    let whole = read.map_err(|error| {
        if error.is::<LengthLimitError>() { ApiError::TooLarge } else { ApiError::Incomplete }
    })?;
    Ok(whole.to_bytes())
}

impl<'a> Sent<'a> {
    /// Reads an object.
    ///
    /// Of a field that comes twice the last one counts, and fields that nobody asks for are
    /// ignored, as it always was.
    fn parse(body: &'a [u8]) -> Result<Self, ApiError> {
        let members =
            members::read(body, &KNOWN).map_err(|fault| ApiError::Invalid(vec![fault]))?;
        Ok(Self { members, faults: Vec::new() })
    }

    /// Text that must be there.
    pub(super) fn text(&mut self, field: &'static str) -> Option<String> {
        let read = match self.member(field) {
            Some(member) => members::text(field, member),
            None => Err(FieldError::new(field, "missing", "Field required")),
        };
        self.judged(read)
    }

    /// Text that may be absent, or null.
    pub(super) fn maybe_text(&mut self, field: &'static str) -> Option<Option<String>> {
        match self.member(field).map(RawValue::get) {
            Some("null") | None => Some(None),
            Some(_) => self.text(field).map(Some),
        }
    }

    /// Text that must be there and is nobody's to see.
    pub(super) fn secret(&mut self, field: &'static str) -> Option<SecretString> {
        self.text(field).map(SecretString::from)
    }

    /// The same that may be absent, or null.
    pub(super) fn maybe_secret(&mut self, field: &'static str) -> Option<Option<SecretString>> {
        Some(self.maybe_text(field)?.map(SecretString::from))
    }

    /// A whole number within `range`, or `default` where there is none.
    pub(super) fn number(
        &mut self,
        field: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Option<u64> {
        let Some(member) = self.member(field).map(RawValue::get).filter(|text| *text != "null")
        else {
            return Some(default);
        };
        let number = member.parse().ok().filter(|number| range.contains(number));
        let (least, most) = (range.start(), range.end());
        let message = format!("Input should be a whole number from {least} to {most}");
        self.judged(number.ok_or_else(|| FieldError::new(field, "out_of_range", &message)))
    }

    /// A list of texts that may be absent, or null.
    pub(super) fn maybe_texts(&mut self, field: &'static str) -> Option<Option<Vec<String>>> {
        let Some(member) = self.member(field).filter(|member| member.get() != "null") else {
            return Some(None);
        };
        let read = members::texts(field, member);
        self.judged(read).map(Some)
    }

    /// Yes or no, which may be absent, or null.
    pub(super) fn maybe_flag(&mut self, field: &'static str) -> Option<Option<bool>> {
        match self.member(field).map(RawValue::get) {
            Some("null") | None => Some(None),
            Some("true") => Some(Some(true)),
            Some("false") => Some(Some(false)),
            Some(_) => self.judged(Err(FieldError::new(
                field,
                "not_a_flag",
                "Input should be true or false",
            ))),
        }
    }

    /// Whether a field is there, and if only to say null.
    pub(super) fn has(&self, field: &'static str) -> bool {
        self.member(field).is_some()
    }

    /// What a rule made of a field, or the fault that it found.
    pub(super) fn judged<T>(&mut self, judged: Result<T, FieldError>) -> Option<T> {
        judged.map_err(|fault| self.faults.push(fault)).ok()
    }

    /// The answer where a field was not accepted.
    pub(super) fn refusal(self) -> ApiError {
        ApiError::Invalid(self.faults)
    }

    fn member(&self, field: &'static str) -> Option<&'a RawValue> {
        let mut known = KNOWN.into_iter().zip(self.members);
        known.find(|(name, _)| *name == field).and_then(|(_, member)| member)
    }
}

/// The fields that some operation reads in this way.
const KNOWN: [&str; 18] = [
    "allowed_addresses",
    "device_token",
    "email",
    "expires_days",
    "full_name",
    "is_active",
    "name",
    "namespace",
    "new_password",
    "old_password",
    "overlap_seconds",
    "password",
    "refresh_token",
    "reset_password",
    "roles",
    "scopes",
    "token",
    "username",
];

#[cfg(test)]
mod tests {
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
        for (body, field) in [
            ("null", "body"),
            (r#"{"secret of mine":NaN}"#, "body"),
            (r#"{"username":NaN}"#, "username"),
        ] {
            let Err(ApiError::Invalid(faults)) = Sent::parse(body.as_bytes()) else {
                panic!("{body}")
            };
            assert_eq!(faults[0].field, field, "{body}");
        }
    }

    #[tokio::test]
    async fn a_body_about_people_is_short() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let read = async |filler: usize| {
            let body = format!(r#"{{"username":"x","filler":"{}"}}"#, "x".repeat(filler));
            let take = |mut sent: Sent<'_>| Ok(sent.text("username"));
            fields(&headers, Body::from(body), Operation::Login, take).await
        };
        let most = Operation::Login.takes().most();

        assert_eq!(read(most - 1024).await.unwrap().as_deref(), Some("x"));
        assert!(matches!(read(most).await, Err(ApiError::TooLarge)));
    }
}
