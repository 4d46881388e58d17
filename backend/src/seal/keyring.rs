//! The keys that wrap keys: how they are read, named and told apart, and what they wrap.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    num::NonZeroU32,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE},
};
use hkdf::Hkdf;
use memoric_contract::{FieldWriter, KeyPurpose, UserId, key_id};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    Key, OpenError, SealError, ServiceKey, ServiceSecret,
    envelope::{FORMAT_SEALED, Lock, Locked, MAGIC, random, split_format},
};

/// The key-encryption keys: the first wraps, all of them open.
#[derive(Debug)]
pub(crate) struct Keyring {
    first: RingKey,
    others: Vec<RingKey>,
}

/// A key-encryption key, good for nothing but HKDF with a label per purpose.
#[derive(Debug)]
pub(crate) struct RingKey {
    id: RingId,
    key: Key,
}

/// Names a key-encryption key; derived from it, never configured.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct RingId(pub(crate) [u8; 8]);

/// A key that seals the payloads of one owner.
#[derive(Debug)]
pub(crate) struct DataKey {
    version: u32,
    key: Key,
}

/// The key under which one user's threads, topics and words are looked up.
#[derive(Debug)]
pub(crate) struct IndexKey(Key);

/// Why a text is no key-encryption key. It never holds the text.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum KeyTextError {
    #[error("an encryption key is 44 characters of base64 or 64 of hex; this one has {0}")]
    Length(usize),
    #[error("the encryption key is neither base64 nor hex")]
    Encoding,
    #[error("the encryption key is not random: generate one with `openssl rand -base64 32`")]
    Predictable,
}

/// Why the file of the generated key is of no use.
#[derive(Debug, Error)]
pub(crate) enum KeyFileError {
    #[error("the encryption key file {path:?} could not be read")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the encryption key file {path:?} could not be made")]
    Unwritable { path: PathBuf, source: io::Error },
    #[error(
        "the encryption key file {path:?} is open to every user of this machine (mode {mode:03o})"
    )]
    OpenToAll { path: PathBuf, mode: u32 },
    #[error("the encryption key file {path:?} holds no key")]
    Malformed { path: PathBuf, source: KeyTextError },
    #[error("there is no randomness for a new encryption key")]
    Randomness(#[source] SealError),
}

/// What a wrapped key is for. No two slots share an owner and a version, so that none can trade places:
/// a user's index key has version 0 and its data keys count from 1; a service secret belongs to user 0,
/// who does not exist, under its own number; the key of an audit subject has version -1.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Data(UserId, NonZeroU32),
    Index(UserId),
    Service(ServiceKey),
    Subject(i64),
}

impl Keyring {
    /// A ring of which `first` wraps and `others` open what was wrapped before.
    pub(crate) fn new(first: RingKey, others: Vec<RingKey>) -> Self {
        Self { first, others }
    }

    /// Every key of the ring, the one that wraps first.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &RingKey> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The key that wraps.
    pub(crate) fn first(&self) -> &RingKey {
        &self.first
    }

    /// A new data key, and how it rests.
    pub(crate) fn new_data_key(
        &self,
        user: UserId,
        version: NonZeroU32,
    ) -> Result<(DataKey, Vec<u8>), SealError> {
        let (key, wrapped) = self.new_key(Slot::Data(user, version))?;
        Ok((DataKey::new(version.get(), key), wrapped))
    }

    /// The data key that rests as `wrapped`.
    pub(crate) fn data_key(
        &self,
        user: UserId,
        version: NonZeroU32,
        wrapped: &[u8],
    ) -> Result<DataKey, OpenError> {
        Ok(DataKey::new(version.get(), self.unwrap(Slot::Data(user, version), wrapped)?))
    }

    /// A new index key, and how it rests.
    pub(crate) fn new_index_key(&self, user: UserId) -> Result<(IndexKey, Vec<u8>), SealError> {
        let (key, wrapped) = self.new_key(Slot::Index(user))?;
        Ok((IndexKey(key), wrapped))
    }

    /// The index key that rests as `wrapped`.
    pub(crate) fn index_key(&self, user: UserId, wrapped: &[u8]) -> Result<IndexKey, OpenError> {
        self.unwrap(Slot::Index(user), wrapped).map(IndexKey)
    }

    /// A new key for the personal fields of an audit subject, and how it rests. It has no successor, so its version is 0.
    pub(crate) fn new_subject_key(&self, subject: i64) -> Result<(DataKey, Vec<u8>), SealError> {
        let (key, wrapped) = self.new_key(Slot::Subject(subject))?;
        Ok((DataKey::new(0, key), wrapped))
    }

    /// The subject key that rests as `wrapped`.
    pub(crate) fn subject_key(&self, subject: i64, wrapped: &[u8]) -> Result<DataKey, OpenError> {
        Ok(DataKey::new(0, self.unwrap(Slot::Subject(subject), wrapped)?))
    }

    /// A new service secret, and how it rests.
    pub(crate) fn new_service_secret(
        &self,
        which: ServiceKey,
    ) -> Result<(ServiceSecret, Vec<u8>), SealError> {
        let (key, wrapped) = self.new_key(Slot::Service(which))?;
        Ok((ServiceSecret::new(key), wrapped))
    }

    /// The service secret that rests as `wrapped`.
    pub(crate) fn service_secret(
        &self,
        which: ServiceKey,
        wrapped: &[u8],
    ) -> Result<ServiceSecret, OpenError> {
        self.unwrap(Slot::Service(which), wrapped).map(ServiceSecret::new)
    }

    fn new_key(&self, slot: Slot) -> Result<(Key, Vec<u8>), SealError> {
        let key = Key::random()?;
        let wrapped = self.first.wrap(slot, &key, &random()?)?;
        Ok((key, wrapped))
    }

    fn unwrap(&self, slot: Slot, wrapped: &[u8]) -> Result<Key, OpenError> {
        let (format, rest) = split_format(wrapped)?;
        if format != FORMAT_SEALED {
            return Err(OpenError::UnknownFormat(format));
        }
        let (id, rest) = rest.split_first_chunk().ok_or(OpenError::TooShort)?;
        let locked = Locked::parse(rest)?;
        let ring_key =
            self.keys().find(|key| key.id.0 == *id).ok_or(OpenError::UnknownRing(RingId(*id)))?;
        let (owner, version) = slot.owner_and_version();
        let key = ring_key.lock(owner, version).unlock(&locked)?;
        Key::from_slice(&key).ok_or(OpenError::Forged)
    }
}

impl RingKey {
    /// Reads a key as the guide generates it (urlsafe base64), as standard base64 or as hex.
    pub(crate) fn parse(text: &str) -> Result<Self, KeyTextError> {
        let text = text.trim_ascii();
        let bytes = Zeroizing::new(match text.len() {
            64 => hex::decode(text).map_err(|_| KeyTextError::Encoding)?,
            44 => BASE64_URL_SAFE
                .decode(text)
                .or_else(|_| BASE64_STANDARD.decode(text))
                .map_err(|_| KeyTextError::Encoding)?,
            other => return Err(KeyTextError::Length(other)),
        });
        if is_predictable(&bytes) {
            return Err(KeyTextError::Predictable);
        }
        Key::from_slice(&bytes).map(Self::new).ok_or(KeyTextError::Encoding)
    }

    /// The key that the file at `path` holds. The first start makes it; starters at the same time agree on one.
    pub(crate) fn read_or_create(path: &Path) -> Result<Self, KeyFileError> {
        match File::open(path) {
            Ok(file) => Self::read(file, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path),
            Err(source) => Err(KeyFileError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// Names it.
    pub(crate) fn id(&self) -> RingId {
        self.id
    }

    /// What is stored at the first start, to tell a wrong but valid key from the right one.
    pub(crate) fn check_value(&self) -> [u8; 32] {
        let mut value = [0; 32];
        // Thirty-two bytes are within HKDF's bound, so this cannot be refused.
        let _ = Hkdf::<Sha256>::new(None, self.key.expose()).expand(b"memoric/check/1", &mut value);
        value
    }

    /// Whether `stored` is this key's check value.
    pub(crate) fn matches(&self, stored: &[u8]) -> bool {
        self.check_value().as_slice().ct_eq(stored).into()
    }

    fn new(key: Key) -> Self {
        Self { id: RingId(key_id(key.expose(), KeyPurpose::KeyEncryption)), key }
    }

    fn read(file: File, path: &Path) -> Result<Self, KeyFileError> {
        let unreadable = |source| KeyFileError::Unreadable { path: path.to_owned(), source };
        let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(KeyFileError::OpenToAll { path: path.to_owned(), mode });
        }
        let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BOUND as usize));
        file.take(KEY_FILE_BOUND).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(&text)
            .map_err(|source| KeyFileError::Malformed { path: path.to_owned(), source })
    }

    /// Writes a new key beside `path` and links it there: whoever is second reads what the first one wrote, never a part of it.
    fn create(path: &Path) -> Result<Self, KeyFileError> {
        let key = Key::random().map_err(KeyFileError::Randomness)?;
        let suffix: [u8; 8] = random().map_err(KeyFileError::Randomness)?;
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", hex::encode(suffix)));
        let draft = PathBuf::from(draft);

        let linked = write_private(&draft, &key).and_then(|()| fs::hard_link(&draft, path));
        let removed = fs::remove_file(&draft);
        let synced = linked.and(removed).and_then(|()| sync_folder(path));
        match synced {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(KeyFileError::Unwritable { path: path.to_owned(), source: error });
            }
            _ => {}
        }
        let file = File::open(path)
            .map_err(|source| KeyFileError::Unreadable { path: path.to_owned(), source })?;
        Self::read(file, path)
    }

    fn wrap(&self, slot: Slot, key: &Key, salt: &[u8; 32]) -> Result<Vec<u8>, SealError> {
        if let Slot::Data(user, _) | Slot::Index(user) = slot
            && user.0 < 1
        {
            return Err(SealError::NoOwner);
        }
        let (owner, version) = slot.owner_and_version();
        let header = [MAGIC.as_slice(), &[FORMAT_SEALED], &self.id.0].concat();
        self.lock(owner, version).lock(&header, salt, key.expose())
    }

    fn lock(&self, owner: i64, version: i64) -> Lock<'_> {
        let bound_to =
            FieldWriter::new().integer(owner).integer(version).bytes(&self.id.0).finish();
        Lock { key: self.key.expose(), info: b"memoric/wrap/1", bound_to }
    }
}

impl DataKey {
    /// Which of its owner's keys it is.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn new(version: u32, key: Key) -> Self {
        Self { version, key }
    }

    pub(super) fn expose(&self) -> &[u8; 32] {
        self.key.expose()
    }
}

impl IndexKey {
    pub(super) fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    #[cfg(test)]
    pub(super) fn new(key: Key) -> Self {
        Self(key)
    }
}

impl Slot {
    fn owner_and_version(self) -> (i64, i64) {
        match self {
            Self::Data(user, version) => (user.0, version.get().into()),
            Self::Index(user) => (user.0, 0),
            Self::Service(which) => (0, which.number().into()),
            Self::Subject(subject) => (subject, -1),
        }
    }
}

impl fmt::Display for RingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Whether a person, or a counter, made these bytes. Of 32 random ones about 30 differ, and so do their steps.
fn is_predictable(bytes: &[u8]) -> bool {
    let distinct = |values: &mut dyn Iterator<Item = u8>| {
        let mut seen = [false; 256];
        let mut is_new = |value: &u8| {
            seen.get_mut(usize::from(*value)).is_some_and(|seen| !std::mem::replace(seen, true))
        };
        values.filter(&mut is_new).count()
    };
    let mut steps =
        bytes.iter().zip(bytes.iter().skip(1)).map(|(one, next)| next.wrapping_sub(*one));
    distinct(&mut bytes.iter().copied()) < FEWEST_DISTINCT || distinct(&mut steps) < FEWEST_DISTINCT
}

fn write_private(path: &Path, key: &Key) -> io::Result<()> {
    let text = Zeroizing::new(BASE64_URL_SAFE.encode(key.expose()) + "\n");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Fewer distinct values than this among 32 random bytes happen less than once in 10^14 keys.
const FEWEST_DISTINCT: usize = 16;
/// More than any key's text takes.
const KEY_FILE_BOUND: u64 = 256;

#[cfg(test)]
impl Keyring {
    /// A ring of one new key.
    pub(crate) fn random() -> Self {
        Self::new(RingKey::new(Key::random().unwrap()), Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, os::unix::fs::PermissionsExt, thread};

    use super::*;

    #[test]
    fn a_key_is_read_in_every_spelling_the_guide_allows() {
        let bytes: Vec<u8> = (0..32_u8).map(|n| n.wrapping_mul(n).wrapping_mul(7) ^ 0xfb).collect();
        let texts = [
            BASE64_URL_SAFE.encode(&bytes),
            BASE64_STANDARD.encode(&bytes),
            hex::encode(&bytes),
            hex::encode_upper(&bytes),
        ];
        assert_ne!(texts[0], texts[1], "the two alphabets differ here");
        for text in texts {
            assert_eq!(RingKey::parse(&text).unwrap().key.expose().as_slice(), bytes, "{text}");
            assert!(RingKey::parse(&format!("{text}\n")).is_ok(), "a file ends with a new line");
        }
    }

    #[test]
    fn a_text_that_is_no_key_is_refused_with_the_reason() {
        let refused = |text: &str| RingKey::parse(text).unwrap_err();
        assert_eq!(refused(""), KeyTextError::Length(0));
        assert_eq!(refused("your-encryption-key-here"), KeyTextError::Length(24));
        assert_eq!(refused(&BASE64_STANDARD.encode([1; 31])[..43]), KeyTextError::Length(43));
        assert_eq!(refused(&"z".repeat(64)), KeyTextError::Encoding);
        assert_eq!(refused(&"é".repeat(22)), KeyTextError::Encoding);
        assert_eq!(
            refused(&format!("-+{}=", "A".repeat(41))),
            KeyTextError::Encoding,
            "both alphabets at once"
        );
    }

    #[test]
    fn a_key_that_a_person_could_have_chosen_is_refused() {
        let counting = std::array::from_fn::<u8, 32, _>(|n| n as u8);
        for bytes in [
            [0; 32],
            [0xff; 32],
            counting,
            *b"abcdabcdabcdabcdabcdabcdabcdabcd",
            *b"0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(
                RingKey::parse(&hex::encode(bytes)).unwrap_err(),
                KeyTextError::Predictable,
                "{bytes:?}"
            );
        }
        for _ in 0..1_000 {
            let random = BASE64_URL_SAFE.encode(random::<32>().unwrap());
            assert!(RingKey::parse(&random).is_ok(), "a random key passes");
        }
    }

    #[test]
    fn names_and_check_values_are_what_hkdf_says() {
        let key = ring_key();
        assert_eq!(key.id().to_string(), "3e6517d4ca367848");
        let value = "48813ed33eb42e6f2aa10b3bfb94a83971602402725b7b2646312530d9f3bb3b";
        assert_eq!(hex::encode(key.check_value()), value);
        assert!(key.matches(&hex::decode(value).unwrap()));
        assert!(!key.matches(&[]), "nothing stored");
        assert!(
            !RingKey::new(Key::random().unwrap()).matches(&key.check_value()),
            "a wrong but valid key"
        );
    }

    #[test]
    fn a_key_is_wrapped_byte_for_byte_as_the_format_says() {
        let key = Key::from_slice(&std::array::from_fn::<u8, 32, _>(|n| n as u8)).unwrap();
        for (slot, tag) in slots().into_iter().zip(TAGS) {
            let wrapped =
                ring_key().wrap(slot, &key, &std::array::from_fn(|n| n as u8 + 96)).unwrap();
            assert_eq!(hex::encode(wrapped), [WRAPPED, tag].concat(), "{slot:?}");
        }
    }

    #[test]
    fn no_wrapped_key_opens_in_another_slot() {
        let ring = Keyring::new(ring_key(), Vec::new());
        for from in slots() {
            let (_, wrapped) = ring.new_key(from).unwrap();
            for to in slots().into_iter().chain(neighbours()) {
                let same = from.owner_and_version() == to.owner_and_version();
                assert_eq!(ring.unwrap(to, &wrapped).is_ok(), same, "{from:?} as {to:?}");
            }
        }
    }

    #[test]
    fn slots_never_meet() {
        let all: Vec<_> =
            slots().into_iter().chain(neighbours()).map(Slot::owner_and_version).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        let ring = Keyring::new(ring_key(), Vec::new());
        assert!(matches!(ring.new_data_key(UserId(0), NonZeroU32::MIN), Err(SealError::NoOwner)));
        assert!(matches!(ring.new_index_key(UserId(-1)), Err(SealError::NoOwner)));
    }

    #[test]
    fn an_older_ring_key_opens_and_the_first_one_wraps() {
        let old = Keyring::new(ring_key(), Vec::new());
        let (index, wrapped) = old.new_index_key(UserId(42)).unwrap();

        let ring = Keyring::new(RingKey::new(Key::random().unwrap()), vec![ring_key()]);
        assert_eq!(ring.index_key(UserId(42), &wrapped).unwrap().expose(), index.expose());
        let (_, again) = ring.new_index_key(UserId(42)).unwrap();
        assert_eq!(again[3..11], ring.first().id().0);

        let refused = old.index_key(UserId(42), &again).unwrap_err();
        assert_eq!(refused, OpenError::UnknownRing(ring.first().id()), "the key it needs is named");
    }

    #[test]
    fn a_single_flipped_bit_of_a_wrapped_key_is_refused() {
        let ring = Keyring::new(ring_key(), Vec::new());
        let (_, wrapped) = ring.new_subject_key(-202_611).unwrap();
        for bit in 0..wrapped.len() * 8 {
            let mut wrapped = wrapped.clone();
            wrapped[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.subject_key(-202_611, &wrapped).is_err(), "bit {bit}");
        }
        for length in 0..wrapped.len() {
            assert!(ring.subject_key(-202_611, &wrapped[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_key_never_shows_itself() {
        let key =
            RingKey::parse("4d7f02a9c3e85b1064fe97dd2c38b0716a05f3489e1bd7c25f8023ae71964cb0")
                .unwrap();
        let ring = Keyring::new(key, Vec::new());
        let shown = format!(
            "{ring:?} {:?} {:?}",
            ring.new_data_key(UserId(1), NonZeroU32::MIN).unwrap().0,
            ring.new_index_key(UserId(1)).unwrap().0
        );
        assert!(shown.contains("REDACTED"), "{shown}");
        assert!(!shown.contains("77, 127") && !shown.contains("4d7f"), "{shown}");
    }

    #[test]
    fn the_first_start_makes_a_private_file_and_the_next_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.key");

        let made = RingKey::read_or_create(&path).unwrap();
        let read = RingKey::read_or_create(&path).unwrap();

        assert_eq!(made.id(), read.id());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn starters_at_the_same_time_agree_on_one_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.key");

        let ids: HashSet<_> = thread::scope(|scope| {
            let starters: Vec<_> = (0..16)
                .map(|_| scope.spawn(|| RingKey::read_or_create(&path).unwrap().id()))
                .collect();
            starters.into_iter().map(|starter| starter.join().unwrap()).collect()
        });

        assert_eq!(ids.len(), 1);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_file_that_is_no_good_stops_the_start_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encryption.key");

        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            RingKey::read_or_create(&path),
            Err(KeyFileError::Malformed { source: KeyTextError::Length(0), .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            RingKey::read_or_create(&path),
            Err(KeyFileError::OpenToAll { mode: 0o644, .. })
        ));

        assert!(matches!(
            RingKey::read_or_create(folder.path()),
            Err(KeyFileError::OpenToAll { .. } | KeyFileError::Unreadable { .. })
        ));
        let nowhere = folder.path().join("missing/encryption.key");
        assert!(matches!(RingKey::read_or_create(&nowhere), Err(KeyFileError::Unwritable { .. })));
    }

    fn ring_key() -> RingKey {
        RingKey::new(Key::from_slice(&std::array::from_fn::<u8, 32, _>(|n| n as u8 + 64)).unwrap())
    }

    fn slots() -> [Slot; 4] {
        let seven = NonZeroU32::new(7).unwrap();
        [
            Slot::Data(UserId(42), seven),
            Slot::Index(UserId(42)),
            Slot::Service(ServiceKey::ApiKeyPepper),
            Slot::Subject(42),
        ]
    }

    fn neighbours() -> [Slot; 4] {
        [
            Slot::Data(UserId(42), NonZeroU32::MIN),
            Slot::Index(UserId(1)),
            Slot::Service(ServiceKey::Cursors),
            Slot::Subject(-202_611),
        ]
    }

    const WRAPPED: &str = "4d56013e6517d4ca367848606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f720bba5c489fdc011811227a2bc482464ab5f541e5edb5dcbee2c4ca3f2f3110a6e1fa7e4eb91f61105bb5493fca74ef2ce7e61646aa839ee3d99069d742efb4";
    /// Made by Python's `cryptography`.
    const TAGS: [&str; 4] = [
        "3a88471f8e2fae7bfeb58a3b760bc675",
        "75701e2b422b052f21d467e9462a024a",
        "3fb1e3ad721f83d4b7e276ff76e1c6c5",
        "de0cbcef170bbf951095db7813b3757d",
    ];
}
