//! What valid JSON may still hold that nobody here may send.

use memoric_contract::FieldError;
use serde_json::value::RawValue;

/// Why valid JSON is not stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unfit {
    /// A NUL character, which no PostgreSQL text holds.
    Nul,
    /// Half of a surrogate pair, which is no character.
    Surrogate,
    /// Arrays and objects inside each other beyond [`MAX_DEPTH`].
    TooDeep,
    /// A number beyond what a double holds: a client would read it as infinity.
    OutOfRange,
}

/// Walks over a value whose syntax is known to be good.
pub(super) fn inspect(value: &RawValue) -> Result<(), Unfit> {
    let mut rest = value.get().as_bytes();
    let mut depth = 0_usize;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => end_of_text(after)?,
            b'[' | b'{' if depth == MAX_DEPTH => return Err(Unfit::TooDeep),
            b'[' | b'{' => {
                depth += 1;
                after
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                after
            }
            b'-' | b'0'..=b'9' => end_of_number(rest)?,
            _ => after,
        };
    }
    Ok(())
}

impl Unfit {
    /// What the client is told.
    pub(super) fn fault(self, field: &str) -> FieldError {
        let (code, message) = match self {
            Self::Nul => ("nul", "Input should not contain NUL characters"),
            Self::Surrogate => ("surrogate", "Input should not contain lone surrogates"),
            Self::TooDeep => ("too_deep", "Input should be nested at most 32 levels deep"),
            Self::OutOfRange => {
                ("out_of_range", "Input should have numbers within the range of a double")
            }
        };
        FieldError::new(field, code, message)
    }
}

/// What follows the text that `rest` begins in.
fn end_of_text(mut rest: &[u8]) -> Result<&[u8], Unfit> {
    loop {
        let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) else {
            return Ok(&[]);
        };
        rest = match rest.split_at(at).1 {
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'u', after @ ..] => end_of_escape(after)?,
            [_, _, after @ ..] => after,
            _ => return Ok(&[]),
        };
    }
}

/// What follows the four digits that `rest` begins with, and the second half of a pair.
fn end_of_escape(rest: &[u8]) -> Result<&[u8], Unfit> {
    match code_unit(rest) {
        Some((0, _)) => Err(Unfit::Nul),
        Some((0xd800..0xdc00, [b'\\', b'u', second @ ..])) => match code_unit(second) {
            Some((0xdc00..0xe000, after)) => Ok(after),
            _ => Err(Unfit::Surrogate),
        },
        Some((0xd800..0xe000, _)) | None => Err(Unfit::Surrogate),
        Some((_, after)) => Ok(after),
    }
}

fn code_unit(rest: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, after) = rest.split_first_chunk::<4>()?;
    let unit = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((unit, after))
}

/// What follows the number that `rest` begins with.
fn end_of_number(rest: &[u8]) -> Result<&[u8], Unfit> {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
    let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    let value = std::str::from_utf8(number).ok().and_then(|number| number.parse::<f64>().ok());
    if value.is_some_and(f64::is_finite) { Ok(after) } else { Err(Unfit::OutOfRange) }
}

/// How deep arrays and objects may nest, the outermost included.
const MAX_DEPTH: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_values_pass() {
        for json in [
            "null",
            "true",
            "-0",
            "1.0",
            "1180591620717411303424",
            "1e308",
            "5e-400",
            r#""\u0001""#,
            r#""\\u0000""#,
            r#""\ud83d\ude00""#,
            r#""\uD83D\uDE00 and \"more\"""#,
            r#"{"a":[{"b":"]}["}],"c":{}}"#,
            "\"\u{1f600}\"",
        ] {
            assert_eq!(check(json), Ok(()), "{json}");
        }
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        for (json, unfit) in [
            (r#""a\u0000b""#, Unfit::Nul),
            (r#"{"a\u0000":1}"#, Unfit::Nul),
            (r#"[[["\\\u0000"]]]"#, Unfit::Nul),
            (r#""\ud800""#, Unfit::Surrogate),
            (r#""\udc00\ud800""#, Unfit::Surrogate),
            (r#""\ud800\u0041""#, Unfit::Surrogate),
            (r#""\ud800\n""#, Unfit::Surrogate),
            (r#"{"\uDFFF":1}"#, Unfit::Surrogate),
            ("1e400", Unfit::OutOfRange),
            ("[1,-1E999999999999]", Unfit::OutOfRange),
        ] {
            assert_eq!(check(json), Err(unfit), "{json}");
        }
    }

    #[test]
    fn values_nest_so_deep_and_no_deeper() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        assert_eq!(check(&nested(MAX_DEPTH + 1)), Err(Unfit::TooDeep));
        assert_eq!(check(&nested(100_000)), Err(Unfit::TooDeep));
        assert_eq!(check(&format!("[{}]", ["[]"; 1000].join(","))), Ok(()), "wide is not deep");
    }

    proptest! {
        #[test]
        fn every_text_that_passes_is_read_and_holds_no_nul(units in prop::collection::vec(any::<u16>(), 0..8)) {
            let json = format!("\"{}\"", units.iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>());
            let read = String::from_utf16(&units).ok().filter(|text| !text.contains('\0'));
            prop_assert_eq!(check(&json).is_ok(), read.is_some());
        }

        #[test]
        fn whatever_a_text_holds_its_end_is_found(text: String) {
            let json = serde_json::to_string(&[&text, "1e400"]).unwrap();
            prop_assert_eq!(check(&json).is_ok(), !text.contains('\0'));
        }
    }

    fn check(json: &str) -> Result<(), Unfit> {
        inspect(serde_json::from_str::<&RawValue>(json).unwrap())
    }
}
