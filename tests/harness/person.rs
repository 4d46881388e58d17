//! Someone with an account and an access token.

/// A person of a test.
#[derive(Clone, Debug)]
pub struct Person {
    /// The id of the account.
    pub id: i64,
    /// The user name.
    pub name: String,
    /// An access token.
    pub token: String,
}

/// Everyone's password.
pub const PASSWORD: &str = "correct-horse-battery";
