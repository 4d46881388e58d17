//! What a client asked in the query, value by value, with every fault named and nothing repeated.

use std::{net::IpAddr, ops::RangeInclusive};

use axum::{extract::Query, http::Uri};
use memoric_contract::FieldError;

use crate::error::ApiError;

/// The values of a query. Of a name that comes twice the last one counts; unknown names are ignored.
pub(super) struct Asked {
    pairs: Vec<(String, String)>,
    faults: Vec<FieldError>,
}

impl Asked {
    /// Reads the query of `target`.
    pub(super) fn read(target: &Uri) -> Result<Self, ApiError> {
        let Query(pairs) = Query::try_from_uri(target)
            .map_err(|_| ApiError::field("query", "malformed", "Query should be valid"))?;
        Ok(Self { pairs, faults: Vec::new() })
    }

    /// Text of at most `limit` characters. Absent and empty are the same.
    pub(super) fn text(&mut self, name: &'static str, limit: usize) -> Option<Option<String>> {
        let Some(text) = self.value(name) else { return Some(None) };
        if text.contains('\0') {
            return self.fault(name, "nul", "Input should not contain NUL characters");
        }
        if text.chars().count() > limit {
            return self.fault(
                name,
                "too_long",
                &format!("String should have at most {limit} characters"),
            );
        }
        Some(Some(text))
    }

    /// A whole number within `range`, or `default` where there is none.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
        default: i64,
    ) -> Option<i64> {
        let Some(text) = self.value(name) else { return Some(default) };
        match text.trim().parse::<i64>() {
            Ok(number) if range.contains(&number) => Some(number),
            Ok(_) => {
                let (least, most) = (range.start(), range.end());
                self.fault(name, "out_of_range", &format!("Input should be from {least} to {most}"))
            }
            Err(_) => self.fault(name, "not_a_number", "Input should be a valid integer"),
        }
    }

    /// Yes or no, in any of the spellings that the earlier server took.
    pub(super) fn maybe_flag(&mut self, name: &'static str) -> Option<Option<bool>> {
        let Some(text) = self.value(name) else { return Some(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" | "yes" | "y" | "on" => Some(Some(true)),
            "false" | "f" | "0" | "no" | "n" | "off" => Some(Some(false)),
            _ => self.fault(name, "not_a_flag", "Input should be a valid boolean"),
        }
    }

    /// An address.
    pub(super) fn maybe_address(&mut self, name: &'static str) -> Option<Option<IpAddr>> {
        let Some(text) = self.value(name) else { return Some(None) };
        match text.parse() {
            Ok(address) => Some(Some(address)),
            Err(_) => self.fault(name, "not_an_address", "Input should be a valid IP address"),
        }
    }

    /// Remembers a value that was not accepted.
    pub(super) fn fault<T>(&mut self, name: &str, code: &str, message: &str) -> Option<T> {
        self.faults.push(FieldError::new(name, code, message));
        None
    }

    /// The answer where a value was not accepted.
    pub(super) fn refusal(self) -> ApiError {
        ApiError::Invalid(self.faults)
    }

    fn value(&self, name: &str) -> Option<String> {
        let pair = self.pairs.iter().rev().find(|(known, _)| known == name)?;
        Some(pair.1.clone()).filter(|value| !value.is_empty())
    }
}
