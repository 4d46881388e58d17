//! A token in its three parts, which nobody has judged yet (RFC 7515, section 7.1).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::de::DeserializeOwned;

use super::{TokenError, malformed};

/// The parts of a token in its one spelling.
pub(super) struct Parts<'a> {
    header: &'a str,
    payload: &'a str,
    /// Header and payload, as they were signed.
    pub(super) message: &'a str,
    /// As it is spelt.
    pub(super) signature: &'a str,
}

impl<'a> Parts<'a> {
    pub(super) fn of(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_LENGTH {
            return Err(malformed("it is too long"));
        }
        let (message, signature) = token.rsplit_once('.').ok_or(NOT_THREE_PARTS)?;
        let (header, payload) = message.split_once('.').ok_or(NOT_THREE_PARTS)?;
        decode(signature)?;
        Ok(Self { header, payload, message, signature })
    }

    pub(super) fn header_bytes(&self) -> Result<Vec<u8>, TokenError> {
        decode(self.header)
    }

    pub(super) fn header<H: DeserializeOwned>(&self) -> Result<H, TokenError> {
        serde_json::from_slice(&self.header_bytes()?)
            .map_err(|_| malformed("its header is not one that is understood"))
    }

    pub(super) fn payload(&self) -> Result<Vec<u8>, TokenError> {
        decode(self.payload)
    }
}

/// Decodes canonical base64url alone: a token has one spelling (the engine refuses padding and
/// bits that decode to nothing).
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    BASE64.decode(part).map_err(|_| malformed("it is not base64url"))
}

const NOT_THREE_PARTS: TokenError = malformed("it has not three parts");

/// Bytes. Ours are below 700; a namespace of 128 characters may need four bytes each, and others say
/// more.
pub(super) const MAX_LENGTH: usize = 4096;
