//! Where the next page of a list begins, as clients keep it and cannot make it.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use memoric_contract::FieldWriter;
use subtle::ConstantTimeEq as _;

use crate::seal::ServiceSecrets;

/// Makes cursors, and knows its own.
pub(crate) struct Cursors {
    secrets: Arc<ServiceSecrets>,
}

impl Cursors {
    pub(crate) fn new(secrets: Arc<ServiceSecrets>) -> Self {
        Self { secrets }
    }

    /// The place behind `last` in `list`: base64url(format u8 ‖ last i64 ‖ mac 16).
    pub(crate) fn behind(&self, list: &str, last: i64) -> String {
        let parts = [&[FORMAT], &last.to_be_bytes()[..], &self.mac(list, last)];
        BASE64_URL_SAFE_NO_PAD.encode(parts.concat())
    }

    /// Behind what the page that `cursor` names begins, if it was made here for `list`.
    pub(crate) fn read(&self, list: &str, cursor: &str) -> Option<i64> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (format, rest) = bytes.split_first()?;
        let (last, mac) = rest.split_first_chunk()?;
        let last = i64::from_be_bytes(*last);
        let is_ours = *format == FORMAT && bool::from(self.mac(list, last).ct_eq(mac));
        is_ours.then_some(last)
    }

    fn mac(&self, list: &str, last: i64) -> [u8; 16] {
        let covered = FieldWriter::behind(&[FORMAT]).text(list).integer(last).finish();
        let mac = self.secrets.cursors.mac(&covered);
        std::array::from_fn(|place| mac.get(place).copied().unwrap_or_default())
    }
}

const FORMAT: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::known_secrets;

    #[test]
    fn a_cursor_is_good_for_its_own_list_alone() {
        let cursors = Cursors::new(Arc::new(known_secrets()));
        let cursor = cursors.behind("list_users", 42);

        assert_eq!(cursors.read("list_users", &cursor), Some(42));
        assert_eq!(cursors.read("another", &cursor), None);
        let mut forged = BASE64_URL_SAFE_NO_PAD.decode(&cursor).unwrap();
        forged[8] ^= 1;
        for text in [&BASE64_URL_SAFE_NO_PAD.encode(forged), "", "42", &cursor[..20]] {
            assert_eq!(cursors.read("list_users", text), None, "{text}");
        }
    }
}
