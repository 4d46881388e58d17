//! Somebody who is to have an account, as a client tells of them.

use memoric_contract::Role;
use secrecy::SecretString;

use super::body::Sent;
use crate::{
    accounts::Wanted,
    password_rules::{Chooser, Occasion, PasswordRules},
    people::{Email, FullName, Username},
};

/// Takes who they are, and the password that `read` finds, if it is one that they may have. They become a
/// plain user of no namespace. `None`: some field is at fault, and `sent` knows which.
pub(super) fn take(
    sent: &mut Sent<'_>,
    read: impl FnOnce(&mut Sent<'_>) -> Option<Option<SecretString>>,
    rules: &PasswordRules,
) -> Option<(Wanted, Option<SecretString>)> {
    let username = sent.text("username").and_then(|name| sent.judged(Username::parse(&name)));
    let email = sent.text("email").and_then(|email| sent.judged(Email::parse(&email)));
    let password = read(sent);
    // Without a name there is nothing to hold the password against, and the answer is no anyway.
    let password = username.as_ref().zip(password).and_then(|(username, password)| {
        let email = email.as_ref().map_or("", Email::as_str);
        let chooser = Chooser { username: username.as_str(), email };
        let judge = |password| rules.judge("password", password, chooser, Occasion::Beginning);
        sent.judged(password.map(judge).transpose())
    });
    let full_name = sent
        .maybe_text("full_name")
        .and_then(|name| sent.judged(name.map(|name| FullName::parse(&name)).transpose()));
    let roles = [Role::User].into_iter().collect();
    let (username, email, full_name, password) = (username?, email?, full_name?, password?);
    Some((Wanted { username, email, full_name, namespace: None, roles }, password))
}
