//! Devices on which somebody has logged in before, known by a token that they keep.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use memoric_contract::{FieldWriter, UserId};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::seal::ServiceSecrets;

/// Makes device tokens, and knows its own.
///
/// A token opens nothing. It says that its holder has logged in as one user before, so that they need
/// not wait for what strangers guess at that account. It ends with whatever ends all of the user's
/// sessions, a change of password above all, so whoever once knew a password is a stranger to the next.
pub(crate) struct Devices {
    secrets: Arc<ServiceSecrets>,
}

/// A device of a user's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Device {
    /// Who logged in on it.
    pub(crate) user: UserId,
    /// The generation that they were in. In another, nobody has logged in on it yet.
    pub(crate) generation: u64,
    /// Which of theirs it is.
    pub(crate) id: Uuid,
}

impl Device {
    /// A device that `user`, who is in `generation`, has not logged in on before.
    pub(crate) fn new(user: UserId, generation: u64) -> Self {
        Self { user, generation, id: Uuid::new_v4() }
    }

    /// Whether `user`, who is in `generation`, has logged in on it.
    pub(crate) fn is_of(&self, user: UserId, generation: u64) -> bool {
        self.user == user && self.generation == generation
    }
}

impl Devices {
    pub(crate) fn new(secrets: Arc<ServiceSecrets>) -> Self {
        Self { secrets }
    }

    /// `mdt_` base64url(format u8 ‖ user i64 ‖ generation u64 ‖ device 16 ‖ issued at u64 ‖ mac 32).
    pub(crate) fn token(&self, device: Device, now: SystemTime) -> Zeroizing<String> {
        let issued = seconds(now);
        let parts = [
            &[FORMAT],
            &device.user.0.to_be_bytes()[..],
            &device.generation.to_be_bytes(),
            device.id.as_bytes(),
            &issued.to_be_bytes(),
            &self.mac(device, issued),
        ];
        Zeroizing::new(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(parts.concat())))
    }

    /// The device that `token` names, if it was made here, and not too long ago.
    pub(crate) fn read(&self, token: &str, now: SystemTime) -> Option<Device> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token.strip_prefix(PREFIX)?).ok()?;
        let (format, rest) = bytes.split_first()?;
        let (user, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (issued, mac) = rest.split_first_chunk()?;
        let device = Device {
            user: UserId(i64::from_be_bytes(*user)),
            generation: u64::from_be_bytes(*generation),
            id: Uuid::from_bytes(*id),
        };
        let issued = u64::from_be_bytes(*issued);
        let is_ours = *format == FORMAT && bool::from(self.mac(device, issued).ct_eq(mac));
        let is_young = seconds(now).saturating_sub(issued) < LIFE.as_secs();
        (is_ours && is_young).then_some(device)
    }

    /// Under the ring of refresh tokens, over a list that none of them begins like.
    fn mac(&self, device: Device, issued: u64) -> [u8; 32] {
        let covered = FieldWriter::behind(&[0])
            .text("device")
            .integer(device.user.0)
            .integer(bounded(device.generation))
            .uuid(device.id)
            .integer(bounded(issued))
            .finish();
        self.secrets.refresh_ring.mac(&covered)
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// As the database counts. No token is made of more.
fn bounded(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

const PREFIX: &str = "mdt_";

/// The first knew no generations, and no token of it is known any more.
const FORMAT: u8 = 2;

/// For which a device stays known without a login.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::known_secrets;

    #[test]
    fn a_device_is_known_by_its_own_token_for_a_while() {
        let (devices, now) = devices();
        let device = Device::new(UserId(7), 3);
        let token = devices.token(device, now);

        assert_eq!(devices.read(&token, now), Some(device));
        assert_eq!(devices.read(&token, now + LIFE - Duration::from_secs(1)), Some(device));
        assert_eq!(devices.read(&token, now + LIFE), None);
    }

    #[test]
    fn what_was_not_made_here_names_no_device() {
        let (devices, now) = devices();
        let token = devices.token(Device::new(UserId(7), 3), now);
        for place in PREFIX.len()..token.len() {
            let mut forged = token.as_bytes().to_vec();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(devices.read(&forged, now), None, "{place}");
        }
        for text in [
            "",
            "mdt_",
            "mrt_AAAA",
            &token[4..],
            &token[..token.len() - 4],
            &format!("{}A", *token),
        ] {
            assert_eq!(devices.read(text, now), None, "{text}");
        }
    }

    #[test]
    fn whoever_logged_in_on_a_device_is_known_there_until_all_of_theirs_ends() {
        let device = Device::new(UserId(7), 3);
        assert!(device.is_of(UserId(7), 3));
        assert!(!device.is_of(UserId(7), 4), "begun with what is no more");
        assert!(!device.is_of(UserId(8), 3));
    }

    fn devices() -> (Devices, SystemTime) {
        (Devices::new(Arc::new(known_secrets())), SystemTime::now())
    }
}
