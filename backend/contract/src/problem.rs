//! What a client is told when the answer is no (RFC 9457).

use serde::{Deserialize, Serialize};

use crate::RequestId;

/// The content type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The body of every refusal, the gateway's and the backend's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Problem {
    /// Always `about:blank`: the status and the code say what it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The phrase of the status.
    pub title: String,
    /// The status.
    pub status: u16,
    /// A stable name for programs.
    pub code: String,
    /// A sentence for people; the one that the guide prints, where it prints one.
    pub detail: String,
    /// The request, as the answer's `x-request-id` names it.
    pub request_id: String,
    /// What is wrong with which field, where that is why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One field that was not accepted. It never holds what was sent.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FieldError {
    /// The field, as the client spells it: `metadata.seen_count`.
    pub field: String,
    /// A stable name for programs.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

impl Problem {
    /// A problem of `status` with `title`, for one request.
    pub fn new(status: u16, title: &str, code: &str, detail: &str, request: RequestId) -> Self {
        Self {
            kind: "about:blank".to_owned(),
            title: title.to_owned(),
            status,
            code: code.to_owned(),
            detail: detail.to_owned(),
            request_id: request.to_string(),
            errors: Vec::new(),
        }
    }

    /// The same, naming the fields.
    #[must_use]
    pub fn naming(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// The body. Strings and integers always make JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl FieldError {
    /// A field that was not accepted.
    pub fn new(field: &str, code: &str, message: &str) -> Self {
        Self { field: field.to_owned(), code: code.to_owned(), message: message.to_owned() }
    }
}
