//! Who people say they are: names and addresses, each with its rules.

use email_address::{EmailAddress, Options};
use memoric_contract::{FieldError, UserId};
use unicode_normalization::UnicodeNormalization;

/// A user name, in the one form in which it is stored and compared.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Username(String);

/// An e-mail address, in the one form in which it is stored and compared.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Email(String);

/// The name of a person, as they write it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FullName(String);

/// Which users read together, where isolation is switched off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Namespace(String);

/// What a person logs in with. Whether there is such a user is for the database to say.
///
/// It may be what they ought to have typed as their password, so it is not printed.
#[derive(Clone, Eq, Hash, PartialEq)]
pub(crate) enum LoginName {
    /// A user name: it has no `@`.
    Username(String),
    /// An e-mail address.
    Email(String),
}

/// How an operator names a user: no user name is all digits, so there is no doubt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum UserRef {
    /// By id.
    Id(UserId),
    /// By name.
    Username(Username),
}

impl Username {
    /// Accepts 3 to 50 letters, digits, `_` and `-` of ASCII, not all of them digits.
    pub(crate) fn parse(text: &str) -> Result<Self, FieldError> {
        let refused = |code, message: &str| Err(FieldError::new("username", code, message));
        if text.len() < 3 {
            return refused("too_short", "String should have at least 3 characters");
        }
        if text.chars().count() > 50 {
            return refused("too_long", "String should have at most 50 characters");
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-') {
            return refused("characters", "String should match pattern '^[a-zA-Z0-9_-]+$'");
        }
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return refused("only_digits", "A user name should not consist of digits only");
        }
        Ok(Self(normal_name(text)))
    }

    /// As it is stored.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Email {
    /// Accepts one plain address with a domain of at least two labels, of at most 254 bytes.
    pub(crate) fn parse(text: &str) -> Result<Self, FieldError> {
        let address = normal_email(text);
        if text.len().max(address.len()) > MAX_EMAIL {
            return Err(FieldError::new(
                "email",
                "too_long",
                "An e-mail address should have at most 254 bytes",
            ));
        }
        let is_plain = !address
            .chars()
            .any(|c| c.is_control() || c.is_whitespace() || "\"(),:;<>[\\]".contains(c));
        if !is_plain || EmailAddress::parse_with_options(&address, PLAIN).is_err() {
            return Err(FieldError::new(
                "email",
                "not_an_email",
                "value is not a valid email address",
            ));
        }
        Ok(Self(address))
    }

    /// As it is stored.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FullName {
    /// Accepts up to 255 characters that can be printed.
    pub(crate) fn parse(text: &str) -> Result<Self, FieldError> {
        printable("full_name", text, 255).map(Self)
    }

    /// As it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Namespace {
    /// Accepts 1 to 128 characters that can be printed.
    pub(crate) fn parse(text: &str) -> Result<Self, FieldError> {
        if text.is_empty() {
            return Err(FieldError::new(
                "namespace",
                "too_short",
                "String should have at least 1 character",
            ));
        }
        printable("namespace", text, 128).map(Self)
    }

    /// As it is compared.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl LoginName {
    /// What to look for, or `None` for what nobody can be called: it is refused like a wrong password, not before.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_EMAIL || text.contains('\0') {
            return None;
        }
        match text.contains('@') {
            true => Some(Self::Email(normal_email(text))),
            false => text.is_ascii().then(|| Self::Username(normal_name(text))),
        }
    }

    /// The form in which attempts under this name are counted and recorded.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Username(name) | Self::Email(name) => name,
        }
    }
}

impl UserRef {
    /// Reads an id where there are only digits, and a name otherwise.
    pub(crate) fn parse(text: &str) -> Result<Self, FieldError> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            let id = UserId::parse(text);
            return id.map(Self::Id).ok_or_else(|| {
                FieldError::new("user", "not_an_id", "There is no user of this id")
            });
        }
        Username::parse(text).map(Self::Username)
    }
}

fn normal_name(text: &str) -> String {
    text.to_ascii_lowercase()
}

fn normal_email(text: &str) -> String {
    text.nfc().collect::<String>().to_lowercase().nfc().collect()
}

fn printable(field: &str, text: &str, most: usize) -> Result<String, FieldError> {
    if text.chars().any(char::is_control) {
        return Err(FieldError::new(
            field,
            "control",
            "String should not contain control characters",
        ));
    }
    if text.chars().count() > most {
        return Err(FieldError::new(
            field,
            "too_long",
            &format!("String should have at most {most} characters"),
        ));
    }
    Ok(text.to_owned())
}

const MAX_EMAIL: usize = 254;
const PLAIN: Options =
    Options { minimum_sub_domains: 2, allow_domain_literal: false, allow_display_text: false };

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_user_name_has_one_form() {
        for text in ["alice", "Alice", "ALICE"] {
            assert_eq!(Username::parse(text).unwrap().as_str(), "alice");
        }
        for text in ["abc", "user-1_x", "123a", "---", &"a".repeat(50)] {
            assert!(Username::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_user_name_outside_the_pattern_is_refused() {
        let refused = |text: &str| Username::parse(text).unwrap_err().code;
        assert_eq!(refused(""), "too_short");
        assert_eq!(refused("ab"), "too_short");
        assert_eq!(refused(&"a".repeat(51)), "too_long");
        for text in [
            "a@b",
            "a b c",
            "al\0ice",
            "alice\n",
            "\u{430}lice",
            "al\u{131}ce",
            "alice.smith",
            "../x",
        ] {
            assert_eq!(refused(text), "characters", "{text:?}");
        }
        assert_eq!(refused("12345"), "only_digits", "an operator would take it for an id");
    }

    #[test]
    fn an_address_has_one_form() {
        for text in ["ALICE@example.com", "alice@EXAMPLE.com", "alice@example.com"] {
            assert_eq!(Email::parse(text).unwrap().as_str(), "alice@example.com");
        }
        assert_eq!(
            Email::parse("J\u{fc}rgen@example.com").unwrap(),
            Email::parse("ju\u{308}rgen@example.com").unwrap()
        );
        for text in ["a+tag@example.co.uk", "o'brien@example.com", "x_1.y-2@sub.example.org"] {
            assert!(Email::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "alice",
            "@example.com",
            "alice@",
            "alice@localhost",
            "a@b@example.com",
            "alice@exa mple.com",
            "alice@example.com\n",
            "al\0ice@example.com",
            "\"a b\"@example.com",
            "Alice <alice@example.com>",
            "alice@[127.0.0.1]",
            "alice@example..com",
            ".alice@example.com",
            "alice@example.com,bob@example.com",
        ] {
            assert_eq!(Email::parse(text).unwrap_err().code, "not_an_email", "{text:?}");
        }
        let long = format!("{}@{}.com", "a".repeat(60), "b.".repeat(100));
        assert_eq!(Email::parse(&long).unwrap_err().code, "too_long");
    }

    #[test]
    fn names_that_would_break_a_line_are_refused() {
        assert_eq!(
            FullName::parse("Alice Smith, Dr. \u{e9}").unwrap().as_str(),
            "Alice Smith, Dr. \u{e9}"
        );
        for text in ["a\0b", "a\r\nb", "\u{1b}[31mred", "a\u{85}b"] {
            assert_eq!(FullName::parse(text).unwrap_err().code, "control");
            assert_eq!(Namespace::parse(text).unwrap_err().code, "control");
        }
        assert!(FullName::parse(&"\u{e9}".repeat(255)).is_ok());
        assert_eq!(FullName::parse(&"a".repeat(256)).unwrap_err().code, "too_long");
        assert!(Namespace::parse(&"n".repeat(128)).is_ok());
        assert_eq!(Namespace::parse(&"n".repeat(129)).unwrap_err().code, "too_long");
        assert_eq!(
            Namespace::parse("").unwrap_err().code,
            "too_short",
            "an empty namespace is none"
        );
    }

    #[test]
    fn a_login_is_found_in_any_spelling() {
        let parsed = LoginName::parse;
        assert!(parsed("Alice") == Some(LoginName::Username("alice".to_owned())));
        let address = LoginName::Email("alice@example.com".to_owned());
        assert!(parsed("Alice@Example.com") == Some(address));
        for text in ["al\0ice", "\u{430}lice", &"a".repeat(255)] {
            assert!(parsed(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn digits_are_an_id_and_anything_else_a_name() {
        assert_eq!(UserRef::parse("42").unwrap(), UserRef::Id(UserId(42)));
        assert_eq!(
            UserRef::parse("Alice").unwrap(),
            UserRef::Username(Username("alice".to_owned()))
        );
        for text in ["", "0", "007", "99999999999999999999", "-1", "a@b.example"] {
            assert!(UserRef::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_one_form_is_a_fixed_point(text in ".{0,40}", domain in "[a-z]{1,10}\\.[a-zA-Z]{2,5}") {
            let address = normal_email(&format!("{text}@{domain}"));
            prop_assert_eq!(normal_email(&address), address);
        }

        #[test]
        fn nothing_refused_is_repeated(text in "[!-~]{20,60}") {
            let refusals = [
                Username::parse(&text).err(),
                Email::parse(&text).err(),
                Namespace::parse(&text.repeat(7)).err(),
            ];
            for refusal in refusals.into_iter().flatten() {
                let shown = format!("{refusal:?}");
                prop_assert!(!shown.contains(&text), "{}", shown);
            }
        }
    }
}
