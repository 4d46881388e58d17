//! The layout of a sealed payload, and the cipher that opens it in one place only.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit, Nonce, Tag, aead::consts::U12};
use hkdf::Hkdf;
use memoric_contract::FieldWriter;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{DataKey, RingId};

/// What a payload is, so that one kind cannot pass for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(dead_code, reason = "the bytes are fixed from the first; what writes them comes later")]
pub(crate) enum Purpose {
    /// A memory as it stands.
    Memory,
    /// A memory as it was.
    History,
    /// A cluster's topic and summary.
    Cluster,
    /// The personal fields of an audit record.
    Audit,
    /// The personal fields of a session.
    Session,
}

/// Where a payload rests. It opens there and nowhere else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// What it is.
    pub(crate) purpose: Purpose,
    /// Whose it is: a user's id, or the audit subject that stands for strangers.
    pub(crate) owner: i64,
    /// The row, by the uuid that the backend gave it.
    pub(crate) record: Uuid,
    /// Which writing of that row; 0 where a row is never rewritten.
    pub(crate) version: i64,
}

/// What `privacy.encrypt_content` says about payloads at rest.
///
/// Only memories and what derives from them may be left unsealed; audit records and sessions never are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sealing {
    /// Payloads are ciphertext.
    On,
    /// Payloads are in clear, in the same layout.
    Off,
}

/// A payload as it rests, read as far as its layout.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    key_version: u32,
    body: Body<'a>,
}

/// What could not be sealed.
#[derive(Debug, Error)]
pub(crate) enum SealError {
    #[error("the system has no randomness to give")]
    Randomness(#[from] getrandom::Error),
    #[error("the payload is longer than the cipher allows")]
    TooLong,
    #[error("the owner of a key must be a user")]
    NoOwner,
}

/// Why bytes at rest did not open.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum OpenError {
    #[error("the bytes at rest are too short to be sealed")]
    TooShort,
    #[error("the bytes at rest are not in this product's layout")]
    NoMagic,
    #[error("the bytes at rest are in format {0}, which is not known")]
    UnknownFormat(u8),
    #[error("a payload is in clear where the settings say sealed")]
    InClear,
    #[error("a payload is sealed where the settings say in clear")]
    IsSealed,
    #[error("a payload is sealed under data key {found}, not {given}")]
    KeyVersion { found: u32, given: u32 },
    #[error("a key is wrapped by ring key {0}, which is not in the ring")]
    UnknownRing(RingId),
    #[error("the bytes at rest are sealed under another key")]
    AnotherKey,
    #[error("the bytes at rest were altered, or belong elsewhere")]
    Forged,
}

#[derive(Debug)]
enum Body<'a> {
    Clear(&'a [u8]),
    Sealed(Locked<'a>),
}

/// A key, what it is used for and what the ciphertext is bound to.
pub(super) struct Lock<'a> {
    pub(super) key: &'a [u8; 32],
    pub(super) info: &'static [u8],
    pub(super) bound_to: Vec<u8>,
}

/// Salt, commitment, ciphertext and tag, as they follow any header.
#[derive(Debug)]
pub(super) struct Locked<'a> {
    salt: &'a [u8; 32],
    commitment: &'a [u8; 32],
    ciphertext: &'a [u8],
    tag: &'a [u8; 16],
}

/// What HKDF makes of one key and one salt: used for one ciphertext, so the nonce needs no storing.
struct Derived {
    cipher: Aes256Gcm,
    nonce: Nonce<U12>,
    commitment: [u8; 32],
}

/// Seals `payload` for `place`, or lays it out in clear where the settings say so.
pub(crate) fn seal(
    sealing: Sealing,
    key: &DataKey,
    place: &Place,
    payload: &[u8],
) -> Result<Vec<u8>, SealError> {
    match sealing {
        Sealing::On => seal_salted(key, place, payload, &random()?),
        Sealing::Off => Ok([&header(FORMAT_CLEAR, key.version()), payload].concat()),
    }
}

fn seal_salted(
    key: &DataKey,
    place: &Place,
    payload: &[u8],
    salt: &[u8; 32],
) -> Result<Vec<u8>, SealError> {
    place.lock(key).lock(&header(FORMAT_SEALED, key.version()), salt, payload)
}

impl<'a> Envelope<'a> {
    /// Reads the layout of bytes at rest. Nothing in it is believed before `open`.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let (format, rest) = split_format(bytes)?;
        let (key_version, rest) = rest.split_first_chunk::<4>().ok_or(OpenError::TooShort)?;
        let body = match format {
            FORMAT_CLEAR => Body::Clear(rest),
            FORMAT_SEALED => Body::Sealed(Locked::parse(rest)?),
            unknown => return Err(OpenError::UnknownFormat(unknown)),
        };
        Ok(Self { key_version: u32::from_be_bytes(*key_version), body })
    }

    /// The payload, if it is what the settings say, sealed by `key`, for `place`.
    pub(crate) fn open(
        &self,
        sealing: Sealing,
        key: &DataKey,
        place: &Place,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        if self.key_version != key.version() {
            return Err(OpenError::KeyVersion { found: self.key_version, given: key.version() });
        }
        match (sealing, &self.body) {
            (Sealing::On, Body::Sealed(locked)) => place.lock(key).unlock(locked),
            (Sealing::Off, Body::Clear(payload)) => Ok(Zeroizing::new(payload.to_vec())),
            (Sealing::On, Body::Clear(_)) => Err(OpenError::InClear),
            (Sealing::Off, Body::Sealed(_)) => Err(OpenError::IsSealed),
        }
    }
}

impl Place {
    fn lock<'k>(&self, key: &'k DataKey) -> Lock<'k> {
        let bound_to = FieldWriter::new()
            .integer(FORMAT_SEALED.into())
            .text(self.purpose.label())
            .integer(self.owner)
            .uuid(self.record)
            .integer(self.version)
            .finish();
        Lock { key: key.expose(), info: b"memoric/seal/1", bound_to }
    }
}

impl Purpose {
    const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::History => "history",
            Self::Cluster => "cluster",
            Self::Audit => "audit",
            Self::Session => "session",
        }
    }
}

impl Sealing {
    /// What `privacy.encrypt_content` means.
    pub(crate) const fn of(encrypt_content: bool) -> Self {
        if encrypt_content { Self::On } else { Self::Off }
    }
}

impl Lock<'_> {
    /// Header, salt, commitment, ciphertext and tag.
    pub(super) fn lock(
        &self,
        header: &[u8],
        salt: &[u8; 32],
        plaintext: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let derived = self.derive(salt).ok_or(SealError::TooLong)?;
        let mut sealed = Vec::with_capacity(header.len() + OVERHEAD + plaintext.len());
        sealed.extend_from_slice(header);
        sealed.extend_from_slice(salt);
        sealed.extend_from_slice(&derived.commitment);
        let begin = sealed.len();
        sealed.extend_from_slice(plaintext);
        let tag = derived
            .cipher
            .encrypt_inout_detached(
                &derived.nonce,
                &self.bound_to,
                sealed.split_at_mut(begin).1.into(),
            )
            .map_err(|_| SealError::TooLong)?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// The plaintext. The commitment is compared first, so that no ciphertext opens under two keys.
    pub(super) fn unlock(&self, locked: &Locked<'_>) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let derived = self.derive(locked.salt).ok_or(OpenError::Forged)?;
        if !bool::from(derived.commitment.ct_eq(locked.commitment)) {
            return Err(OpenError::AnotherKey);
        }
        let mut plaintext = Zeroizing::new(locked.ciphertext.to_vec());
        derived
            .cipher
            .decrypt_inout_detached(
                &derived.nonce,
                &self.bound_to,
                plaintext.as_mut_slice().into(),
                &Tag::from(*locked.tag),
            )
            .map_err(|_| OpenError::Forged)?;
        Ok(plaintext)
    }

    fn derive(&self, salt: &[u8; 32]) -> Option<Derived> {
        let mut bytes = Zeroizing::new([0; 32 + 12 + 32]);
        Hkdf::<Sha256>::new(Some(salt), self.key).expand(self.info, bytes.as_mut_slice()).ok()?;
        let (key, rest) = bytes.split_first_chunk::<32>()?;
        let (nonce, commitment) = rest.split_first_chunk::<12>()?;
        Some(Derived {
            cipher: Aes256Gcm::new(key.into()),
            nonce: (*nonce).into(),
            commitment: commitment.try_into().ok()?,
        })
    }
}

impl<'a> Locked<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, OpenError> {
        let read = || {
            let (salt, rest) = bytes.split_first_chunk()?;
            let (commitment, rest) = rest.split_first_chunk()?;
            let (ciphertext, tag) = rest.split_last_chunk()?;
            Some(Self { salt, commitment, ciphertext, tag })
        };
        read().ok_or(OpenError::TooShort)
    }
}

/// The format byte and what follows it.
pub(super) fn split_format(bytes: &[u8]) -> Result<(u8, &[u8]), OpenError> {
    let (magic, rest) = bytes.split_first_chunk::<2>().ok_or(OpenError::TooShort)?;
    if magic != MAGIC {
        return Err(OpenError::NoMagic);
    }
    let (format, rest) = rest.split_first().ok_or(OpenError::TooShort)?;
    Ok((*format, rest))
}

/// Bytes that nobody can foresee.
pub(super) fn random<const N: usize>() -> Result<[u8; N], SealError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

fn header(format: u8, key_version: u32) -> [u8; 7] {
    let [m, v] = *MAGIC;
    let [a, b, c, d] = key_version.to_be_bytes();
    [m, v, format, a, b, c, d]
}

pub(super) const MAGIC: &[u8; 2] = b"MV";
pub(super) const FORMAT_SEALED: u8 = 1;
const FORMAT_CLEAR: u8 = 0;
/// Salt, commitment and tag.
const OVERHEAD: usize = 32 + 32 + 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seal::Key;

    #[test]
    fn a_payload_is_sealed_byte_for_byte_as_the_format_says() {
        let sealed = seal_salted(&key(), &PLACE, PAYLOAD, &SALT).unwrap();
        assert_eq!(hex::encode(&sealed), SEALED, "made by Python's `cryptography`");

        let audit = Place { purpose: Purpose::Audit, owner: -202_611, version: 0, ..PLACE };
        let sealed = seal_salted(&key(), &audit, PAYLOAD, &SALT).unwrap();
        assert_eq!(
            &hex::encode(&sealed)[sealed.len() * 2 - 32..],
            AUDIT_TAG,
            "only the tag tells the place"
        );
    }

    #[test]
    fn a_payload_in_clear_has_the_same_header_and_no_more() {
        let clear = seal(Sealing::Off, &key(), &PLACE, PAYLOAD).unwrap();
        assert_eq!(hex::encode(&clear), CLEAR);
        assert_eq!(open(Sealing::Off, &clear, &PLACE).unwrap().as_slice(), PAYLOAD);
    }

    #[test]
    fn nothing_opens_against_the_setting() {
        let sealed = hex::decode(SEALED).unwrap();
        let clear = hex::decode(CLEAR).unwrap();

        assert_eq!(open(Sealing::On, &clear, &PLACE), Err(OpenError::InClear));
        assert_eq!(open(Sealing::Off, &sealed, &PLACE), Err(OpenError::IsSealed));
        assert_eq!(open(Sealing::On, &sealed, &PLACE).unwrap().as_slice(), PAYLOAD);
    }

    #[test]
    fn a_payload_opens_in_its_own_place_only() {
        let sealed = hex::decode(SEALED).unwrap();
        let elsewhere = [
            Place { purpose: Purpose::History, ..PLACE },
            Place { owner: 43, ..PLACE },
            Place { record: Uuid::from_u128(PLACE.record.as_u128() + 1), ..PLACE },
            Place { version: 2, ..PLACE },
        ];
        for place in elsewhere {
            assert_eq!(open(Sealing::On, &sealed, &place), Err(OpenError::Forged), "{place:?}");
        }
    }

    #[test]
    fn another_key_is_told_from_a_forgery() {
        let sealed = hex::decode(SEALED).unwrap();
        let envelope = Envelope::parse(&sealed).unwrap();

        let other = DataKey::new(7, Key::random().unwrap());
        assert_eq!(envelope.open(Sealing::On, &other, &PLACE).unwrap_err(), OpenError::AnotherKey);
        let next = DataKey::new(8, Key::random().unwrap());
        let refused = envelope.open(Sealing::On, &next, &PLACE).unwrap_err();
        assert_eq!(refused, OpenError::KeyVersion { found: 7, given: 8 });
    }

    #[test]
    fn what_is_not_the_format_is_refused_by_name() {
        assert_eq!(Envelope::parse(b"").unwrap_err(), OpenError::TooShort);
        assert_eq!(Envelope::parse(b"gAAAAAB").unwrap_err(), OpenError::NoMagic, "a Fernet token");
        assert_eq!(Envelope::parse(b"MV\x02\0\0\0\x07").unwrap_err(), OpenError::UnknownFormat(2));
        let sealed = hex::decode(SEALED).unwrap();
        for length in 0..7 + OVERHEAD {
            assert_eq!(
                Envelope::parse(&sealed[..length]).unwrap_err(),
                OpenError::TooShort,
                "{length} bytes"
            );
        }
    }

    #[test]
    fn no_two_sealings_are_alike() {
        let [one, other] = [(); 2].map(|()| seal(Sealing::On, &key(), &PLACE, PAYLOAD).unwrap());
        assert_ne!(one, other);
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(payload: Vec<u8>, owner: i64, record: u128, version: i64) {
            let place = Place { purpose: Purpose::Memory, owner, record: Uuid::from_u128(record), version };
            let sealed = seal(Sealing::On, &key(), &place, &payload).unwrap();
            prop_assert_eq!(sealed.len(), 7 + OVERHEAD + payload.len());
            let opened = open(Sealing::On, &sealed, &place).unwrap();
            prop_assert_eq!(opened.as_slice(), payload.as_slice());
        }

        #[test]
        fn a_single_flipped_bit_is_refused(payload: Vec<u8>, bit: prop::sample::Index) {
            let mut sealed = seal(Sealing::On, &key(), &PLACE, &payload).unwrap();
            let bit = bit.index(sealed.len() * 8);
            sealed[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(open(Sealing::On, &sealed, &PLACE).is_err(), "bit {}", bit);
        }

        #[test]
        fn no_bytes_make_the_reader_fall(bytes: Vec<u8>) {
            let bytes = [b"MV".as_slice(), &bytes].concat();
            let _ = open(Sealing::On, &bytes, &PLACE);
        }
    }

    fn open(
        sealing: Sealing,
        bytes: &[u8],
        place: &Place,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        Envelope::parse(bytes)?.open(sealing, &key(), place)
    }

    fn key() -> DataKey {
        DataKey::new(7, Key::from_slice(&std::array::from_fn::<u8, 32, _>(|n| n as u8)).unwrap())
    }

    const PLACE: Place = Place {
        purpose: Purpose::Memory,
        owner: 42,
        record: Uuid::from_u128(0x018f_2e4a_7b1c_7d3e_8f90_a1b2_c3d4_e5f6),
        version: 1,
    };
    const SALT: [u8; 32] = *b" !\"#$%&'()*+,-./0123456789:;<=>?";
    const PAYLOAD: &[u8] = br#"{"content":"hi","metadata":{},"thread_id":null}"#;
    const SEALED: &str = "4d560100000007202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3fa03a577a0858985fd40da066da92932d359b040a1b2b3a786eeae126e5051fa3c548674cb19def15697e850b7fa330aea0fa12af66cf9ebaa538694bc96d548a5b7ab37c92744c7dedeeee31700b70a584a6d5765352e5f8eca7cd22ef36b6";
    const AUDIT_TAG: &str = "9206b568cd51948b8b3c8913e3195e79";
    const CLEAR: &str = "4d5600000000077b22636f6e74656e74223a226869222c226d65746164617461223a7b7d2c227468726561645f6964223a6e756c6c7d";
}
