//! Refresh tokens: what they say, before anybody believes it.
//!
//! `mrt_` base64url(format u8 ‖ ring id 8 ‖ session 16 ‖ counter u32 ‖ MAC 32).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use uuid::Uuid;
use zeroize::Zeroizing;

/// A refresh token as it is presented: a stranger's word until its MAC has been checked.
#[derive(Clone, Eq, PartialEq)]
pub struct RefreshToken {
    /// Under which entry of the ring the MAC was made.
    pub ring_id: [u8; 8],
    /// The session.
    pub session: Uuid,
    /// How often the session had been refreshed when it was made.
    pub counter: u32,
    /// The MAC over [`covered`](Self::covered).
    pub mac: [u8; 32],
}

/// How a refresh token begins, and nothing else that is a credential.
pub const PREFIX: &str = "mrt_";

impl RefreshToken {
    /// What the MAC is made over, besides a secret of the session.
    pub fn covered(ring_id: [u8; 8], session: Uuid, counter: u32) -> [u8; COVERED] {
        let mut bytes = [0; COVERED];
        let parts = [&[FORMAT][..], &ring_id, session.as_bytes(), &counter.to_be_bytes()];
        bytes.iter_mut().zip(parts.concat()).for_each(|(byte, part)| *byte = part);
        bytes
    }

    /// Reads what a client presented; `None`: it is not in our format, by its one spelling.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(BASE64.decode(text.strip_prefix(PREFIX)?).ok()?);
        let (covered, mac) = bytes.split_last_chunk::<32>()?;
        let (format, rest) = covered.split_first()?;
        let (ring_id, rest) = rest.split_first_chunk::<8>()?;
        let (session, rest) = rest.split_first_chunk::<16>()?;
        let counter = u32::from_be_bytes(rest.try_into().ok()?);
        let (ring_id, session) = (*ring_id, Uuid::from_bytes(*session));
        (*format == FORMAT).then_some(Self { ring_id, session, counter, mac: *mac })
    }

    /// The token in the form that a client keeps.
    pub fn expose(&self) -> Zeroizing<String> {
        let covered = Self::covered(self.ring_id, self.session, self.counter);
        let bytes = Zeroizing::new([&covered[..], &self.mac].concat());
        Zeroizing::new(format!("{PREFIX}{}", BASE64.encode(&bytes)))
    }
}

impl std::fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RefreshToken")
            .field("session", &self.session)
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}

/// The first format.
const FORMAT: u8 = 1;

/// Bytes under the MAC.
const COVERED: usize = 1 + 8 + 16 + 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_reads_as_it_was_made() {
        assert_eq!(RefreshToken::read(&token().expose()), Some(token()));
    }

    #[test]
    fn a_token_has_one_spelling() {
        let text = token().expose();
        let padded = format!("{}=", *text);
        for other in [&padded, &text[1..], &text[..text.len() - 1], &text.to_uppercase(), "mrt_"] {
            assert_eq!(RefreshToken::read(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_format_to_come_says_is_not_guessed() {
        let text = token().expose();
        let mut bytes = BASE64.decode(&text[PREFIX.len()..]).unwrap();
        bytes[0] = 2;
        let newer = format!("{PREFIX}{}", BASE64.encode(bytes));
        assert_eq!(RefreshToken::read(&newer), None);
    }

    #[test]
    fn no_token_prints_itself() {
        assert!(!format!("{:?}", token()).contains("mac"));
    }

    proptest! {
        #[test]
        fn whatever_is_read_has_one_spelling(text in "mrt_[0-9A-Za-z_-]{82}|\\PC*") {
            if let Some(read) = RefreshToken::read(&text) {
                prop_assert_eq!(read.expose().to_string(), text);
            }
        }
    }

    fn token() -> RefreshToken {
        RefreshToken { ring_id: [1; 8], session: Uuid::from_u128(2), counter: 3, mac: [4; 32] }
    }
}
