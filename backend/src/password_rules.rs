//! Which passwords a person may choose.

use memoric_config::schema::PasswordRules as Kind;
use memoric_contract::FieldError;
use secrecy::{ExposeSecret as _, SecretString};
use zeroize::Zeroizing;

/// What a new password must be like.
///
/// By NIST SP 800-63B-4 and ASVS 5: long, not among the common, and not the name of who chooses it. Which
/// characters it is made of is nobody's business, unless clients expect the earlier server's rule.
pub(crate) struct PasswordRules {
    kind: Kind,
    shortest: usize,
    /// In lower case, and sorted.
    common: Vec<&'static str>,
}

/// Who chooses a password, by the names in the form in which they are stored.
#[derive(Clone, Copy)]
pub(crate) struct Chooser<'a> {
    pub(crate) username: &'a str,
    pub(crate) email: &'a str,
}

/// What a password is chosen for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Occasion {
    /// A new account.
    Beginning,
    /// An account that has one already.
    Change,
}

impl PasswordRules {
    /// Rules of one `kind`; no password is shorter than `shortest` characters.
    pub(crate) fn new(kind: Kind, shortest: usize) -> Self {
        Self { kind, shortest, common: COMMON.lines().collect() }
    }

    /// The password, if it is one that `chooser` may have. `field` is what the client calls it.
    pub(crate) fn judge(
        &self,
        field: &str,
        password: SecretString,
        chooser: Chooser<'_>,
        occasion: Occasion,
    ) -> Result<SecretString, FieldError> {
        let typed = password.expose_secret();
        let length = typed.chars().count();
        let fault = if length < self.shortest {
            Some(("too_short", format!("String should have at least {} characters", self.shortest)))
        } else if length > LONGEST {
            Some(("too_long", format!("String should have at most {LONGEST} characters")))
        } else if self.kind == Kind::Python
            && occasion == Occasion::Beginning
            && let Some(lack) = lack(typed)
        {
            Some(("composition", format!("Value error, Password must contain at least one {lack}")))
        } else {
            self.known(&Zeroizing::new(typed.to_lowercase()), chooser)
        };
        match fault {
            Some((code, message)) => Err(FieldError::new(field, code, &message)),
            None => Ok(password),
        }
    }

    /// Why somebody who knows `chooser`, or passwords, would try this one first.
    fn known(&self, lowered: &str, chooser: Chooser<'_>) -> Option<(&'static str, String)> {
        let mailbox = chooser.email.rsplit_once('@').map(|(mailbox, _)| mailbox);
        if lowered == chooser.username {
            Some(("is_username", "A password should not be the user name".to_owned()))
        } else if lowered == chooser.email || mailbox == Some(lowered) {
            Some(("is_email", "A password should not be the e-mail address".to_owned()))
        } else if self.common.binary_search(&lowered).is_ok() {
            Some(("common", "This password is among the most common ones".to_owned()))
        } else {
            None
        }
    }
}

/// What the earlier server missed first in a password.
fn lack(password: &str) -> Option<&'static str> {
    if !password.chars().any(char::is_uppercase) {
        Some("uppercase letter")
    } else if !password.chars().any(char::is_lowercase) {
        Some("lowercase letter")
    } else if !password.chars().any(char::is_numeric) {
        Some("digit")
    } else {
        None
    }
}

/// What leaks have shown; where it is from stands beside it.
const COMMON: &str = include_str!("password_rules/common.txt");

const LONGEST: usize = 128;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_password_is_judged_by_its_length_and_by_who_would_think_of_it() {
        for password in [
            "user_password_456",
            "secure_password_123",
            "aaaaaaaaaaaa",
            &"\u{e9}".repeat(12),
            "nul\0 is fine here",
            &"x".repeat(128),
        ] {
            assert_eq!(refused(&nist(12), password), None, "{password:?}");
        }
        for (password, code) in [
            ("elevenchars", "too_short"),
            (&*"x".repeat(129), "too_long"),
            ("CORRECT-horse-1", "is_username"),
            ("Horse.Battery", "is_email"),
            ("horse.battery@Example.com", "is_email"),
            ("1QAZ2wsx3edc", "common"),
            ("password1234", "common"),
        ] {
            assert_eq!(refused(&nist(12), password).as_deref(), Some(code), "{password}");
        }
        assert_eq!(refused(&nist(8), "elevenchars"), None);
        for password in ["12345678", "PassWord", "football"] {
            assert_eq!(refused(&nist(8), password).as_deref(), Some("common"), "{password}");
        }
    }

    #[test]
    fn the_earlier_servers_rule_holds_where_it_is_asked_for_and_for_new_accounts_alone() {
        let python = PasswordRules::new(Kind::Python, 8);
        let message = |password: &str| judge(&python, password, Occasion::Beginning).err();
        for (password, lack) in [
            ("securepass123", "uppercase letter"),
            ("SECUREPASS123", "lowercase letter"),
            ("SecurePassword", "digit"),
        ] {
            let expected = format!("Value error, Password must contain at least one {lack}");
            assert_eq!(message(password).unwrap().message, expected, "{password}");
            assert!(judge(&python, password, Occasion::Change).is_ok(), "{password}");
        }
        assert!(judge(&python, "SecurePass123", Occasion::Beginning).is_ok());
        assert_eq!(message("Password1").unwrap().code, "common", "that is no better than before");
    }

    #[test]
    fn the_list_is_as_it_is_searched() {
        let PasswordRules { common, .. } = nist(8);
        assert!(common.len() >= 10_000, "{}", common.len());
        assert!(common.is_sorted());
        assert!(common.iter().all(|each| *each == each.to_lowercase() && !each.is_empty()));
    }

    proptest! {
        #[test]
        fn nothing_refused_is_repeated(text in "[!-~]{20,60}") {
            let refused = judge(&nist(12), &text.repeat(7), Occasion::Beginning).unwrap_err();
            let shown = format!("{refused:?}");
            prop_assert!(!shown.contains(&text), "{}", shown);
        }
    }

    fn nist(shortest: usize) -> PasswordRules {
        PasswordRules::new(Kind::Nist, shortest)
    }

    fn refused(rules: &PasswordRules, password: &str) -> Option<String> {
        judge(rules, password, Occasion::Change).err().map(|fault| fault.code)
    }

    fn judge(
        rules: &PasswordRules,
        password: &str,
        occasion: Occasion,
    ) -> Result<SecretString, FieldError> {
        let chooser = Chooser { username: "correct-horse-1", email: "horse.battery@example.com" };
        rules.judge("new_password", SecretString::from(password), chooser, occasion)
    }
}
