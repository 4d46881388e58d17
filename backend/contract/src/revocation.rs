//! Credentials whose life was ended early, as the backend tells the gateways.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{KeyId, UserId};

/// The channel that revocations are published on, behind the configured prefix.
pub const CHANNEL: &str = "revocations";

/// Names in an answer of the backend's what was revoked by it, each as its
/// [message](Revocation::message), for the gateway that carried the request.
pub const REVOKED_HEADER: &str = "x-memoric-revoked";

/// One credential, or a whole generation of them, that no longer lives.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Revocation {
    /// Whose it was.
    pub user: UserId,
    /// What ended.
    pub revoked: Revoked,
    /// When the last thing it concerns would have ended by itself, in epoch seconds.
    pub expires_at: u64,
}

/// What a revocation ends.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Revoked {
    /// One access token.
    Token(Uuid),
    /// Every access token of a session.
    Session(Uuid),
    /// One API key.
    Key(KeyId),
    /// Every access token of the user minted before this generation.
    Before(u64),
}

/// One page of the feed.
///
/// Every visible row comes at once, whatever is still open; applying it again does no harm.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct FeedPage {
    /// Where to go on from.
    pub cursor: String,
    /// The revocations, each as its [message](Revocation::message).
    pub revocations: Vec<String>,
    /// Whether the next page is there already.
    pub more: bool,
}

impl Revocation {
    /// The space of the key: which kind of thing is revoked.
    pub const fn space(&self) -> &'static str {
        match self.revoked {
            Revoked::Token(_) => "jti",
            Revoked::Session(_) => "sid",
            Revoked::Key(_) => "key",
            Revoked::Before(_) => "gen",
        }
    }

    /// The value in its space, as the database keeps it.
    pub fn value(&self) -> String {
        match &self.revoked {
            Revoked::Token(id) | Revoked::Session(id) => id.to_string(),
            Revoked::Key(id) => id.0.clone(),
            Revoked::Before(generation) => generation.to_string(),
        }
    }

    /// Reads what the database keeps.
    pub fn from_parts(user: UserId, space: &str, value: &str, expires_at: u64) -> Option<Self> {
        let revoked = match space {
            "jti" => Revoked::Token(canonical_uuid(value)?),
            "sid" => Revoked::Session(canonical_uuid(value)?),
            "key" => Revoked::Key(KeyId::parse(value)?),
            "gen" => Revoked::Before(value.parse().ok()?),
            _ => return None,
        };
        Some(Self { user, revoked, expires_at })
    }

    /// The Redis key, behind the configured prefix: `revoked:{7}:jti:<uuid>`, `revoked:{7}:gen`.
    ///
    /// The braces keep what concerns one user on one node of a cluster.
    pub fn redis_key(&self) -> String {
        match &self.revoked {
            Revoked::Before(_) => format!("revoked:{{{}}}:gen", self.user),
            _ => format!("revoked:{{{}}}:{}:{}", self.user, self.space(), self.value()),
        }
    }

    /// The Redis value: the lowest live generation, or `1`.
    pub fn redis_value(&self) -> String {
        match &self.revoked {
            Revoked::Before(generation) => generation.to_string(),
            _ => "1".to_owned(),
        }
    }

    /// The message on the channel and in the feed: key, space, value, space, expiry in epoch seconds.
    pub fn message(&self) -> String {
        format!("{} {} {}", self.redis_key(), self.redis_value(), self.expires_at)
    }

    /// Reads a message. One that we did not write is `None`.
    pub fn parse(message: &str) -> Option<Self> {
        let mut words = message.split(' ');
        let (key, value, expires_at) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        let (user, thing) = key.strip_prefix("revoked:{")?.split_once("}:")?;
        let (space, value) = match thing.split_once(':') {
            Some((space, id)) => (space, id),
            None => (thing, value),
        };
        let read = Self::from_parts(UserId::parse(user)?, space, value, expires_at)?;
        (words.next().is_none() && read.message() == message).then_some(read)
    }
}

fn canonical_uuid(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok().filter(|id| id.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let id = Uuid::from_u128(0x1234);
        for revoked in [
            Revoked::Token(id),
            Revoked::Session(id),
            Revoked::Key(KeyId("0123456789aB".to_owned())),
            Revoked::Before(9),
        ] {
            let revocation = Revocation { user: UserId(7), revoked, expires_at: 1_800_000_000 };
            assert_eq!(Revocation::parse(&revocation.message()), Some(revocation));
        }
    }

    #[test]
    fn a_message_spells_what_formats_say() {
        let revocation =
            Revocation { user: UserId(7), revoked: Revoked::Before(9), expires_at: 1_800_000_000 };
        assert_eq!(revocation.message(), "revoked:{7}:gen 9 1800000000");
    }

    #[test]
    fn what_is_not_a_message_is_nothing() {
        for text in [
            "",
            "revoked:{7}:gen 9",
            "revoked:{7}:gen 9 x",
            "revoked:{0}:gen 9 1",
            "revoked:{7}:jti:1 1 1",
            "x:{7}:gen 9 1",
            "revoked:{7}:gen 9 1 1",
        ] {
            assert_eq!(Revocation::parse(text), None, "{text}");
        }
    }
}
