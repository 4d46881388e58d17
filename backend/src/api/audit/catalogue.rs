//! What there is to look for in the trail.

use axum::{http::StatusCode, response::Response};
use memoric_contract::audit::{EventType, Severity};
use serde_json::{Value, json};

use super::super::json as answer;

/// Every kind of record.
pub(in crate::api) fn list_event_types() -> Response {
    let types: Vec<_> = EventType::ALL.iter().map(|event| describe_event(event.name())).collect();
    answer(StatusCode::OK, &json!({ "event_types": types, "total": types.len() }))
}

/// Every severity, the mildest first.
pub(in crate::api) fn list_severities() -> Response {
    let levels: Vec<_> =
        Severity::ALL.iter().map(|severity| describe_severity(severity.name())).collect();
    answer(StatusCode::OK, &json!({ "severity_levels": levels, "total": levels.len() }))
}

fn describe_event(name: &str) -> Value {
    let (category, rest) = name.split_once('.').unwrap_or((name, ""));
    json!({
        "value": name,
        "name": name.replace('.', "_").to_ascii_uppercase(),
        "category": category,
        "description": format!("{} - {}", titled(category), titled(&rest.replace('.', " "))),
    })
}

fn describe_severity(name: &str) -> Value {
    json!({
        "value": name,
        "name": name.to_ascii_uppercase(),
        "description": format!("{} level events", titled(name)),
    })
}

/// `text` with a capital wherever a word begins, `_` being no letter.
fn titled(text: &str) -> String {
    let mut before = ' ';
    let capital = |char: char| {
        let begins = !before.is_alphabetic();
        before = char;
        if begins { char.to_ascii_uppercase() } else { char }
    };
    text.chars().map(capital).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_event_is_described_as_it_always_was() {
        let described = describe_event("security.rate_limit.exceeded");
        let expected = json!({
            "value": "security.rate_limit.exceeded",
            "name": "SECURITY_RATE_LIMIT_EXCEEDED",
            "category": "security",
            "description": "Security - Rate_Limit Exceeded",
        });
        assert_eq!(described.to_string(), expected.to_string());
        assert_eq!(
            describe_event("user.password.changed")["description"],
            "User - Password Changed"
        );
    }

    #[test]
    fn a_severity_is_described_as_it_always_was() {
        let expected = r#"{"value":"debug","name":"DEBUG","description":"Debug level events"}"#;
        assert_eq!(describe_severity("debug").to_string(), expected);
    }
}
