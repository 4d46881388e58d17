//! Records of what is done here, made safe and sealed before anybody writes them down.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::http::StatusCode;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use memoric_contract::{
    CredentialKind, Identity, Network, Operation, RequestId, UserId,
    audit::{Emitter, EventType, LONGEST_NAME, Personal, Record, Severity, safe_text},
    spool::Poisoned,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    caller::Call,
    seal::{DataKey, Envelope, OpenError, Place, Purpose, Sealing, ServiceSecrets, seal},
    store::{SessionRow, Store, TrailRow},
    vault::{Vault, VaultError},
};

/// A record as the trail takes it: personal fields sealed, and hashed for those who search.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What happened.
    pub(crate) record: Record,
    /// Who it was, sealed; nothing where there is nobody, or where they have been forgotten.
    pub(crate) personal: Option<SealedPersonal>,
    /// Stands for the address in searches.
    pub(crate) address_hash: Option<[u8; 32]>,
    /// Stands for the name in searches.
    pub(crate) username_hash: Option<[u8; 32]>,
    /// Tells whoever serves the request, once it is written.
    pub(crate) recorded: Recorded,
}

/// Whether a request has its record. A call and the entries made for it share one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded(Arc<AtomicBool>);

/// The personal fields of a record, and whose key opens them.
#[derive(Clone, Debug)]
pub(crate) struct SealedPersonal {
    /// The sealed fields.
    pub(crate) bytes: Vec<u8>,
    /// A user, or the strangers of one month.
    pub(crate) subject: i64,
}

/// Makes entries.
#[derive(Clone)]
pub(crate) struct Scribe {
    vault: Arc<Vault>,
    secrets: Arc<ServiceSecrets>,
    store: Store,
}

/// Somebody's name, as far as it may be written down.
#[derive(Clone, Copy)]
pub(crate) enum Named<'a> {
    /// The name of an account.
    Known(&'a str),
    /// A name as typed, which is nobody's. People type passwords there, so only its hash is kept.
    Unknown(&'a str),
    /// No name was given.
    Not,
}

/// The personal fields as they are sealed.
#[derive(Default, Deserialize, Serialize)]
struct Payload {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// What could not be taken as a record, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    poison: Option<String>,
}

/// The record of a request, but for what came of it.
pub(crate) fn about(call: &Call, event: EventType, status: u16) -> Record {
    let known = call.known();
    Record {
        subject: known.map(|identity| identity.user),
        credential: known.map(credential),
        session: known.and_then(|identity| identity.presented.session()),
        operation: call.operation(),
        status: Some(status),
        success: status < 400,
        severity: if status < 400 { Severity::Info } else { Severity::Warning },
        namespace: known.and_then(|identity| identity.namespace.clone()),
        ..Record::new(call.request(), Emitter::Backend, event, now())
    }
}

/// The record that what `call` asks for was done to what is `owner`'s, or by its `status` was not. What the
/// trail calls it the operation says.
pub(crate) fn of_operation(call: &Call, owner: Option<UserId>, status: StatusCode) -> Record {
    let audited = call.operation().and_then(Operation::audited);
    // Nobody records what has no name in the trail.
    let event = audited.map_or(EventType::SystemError, |(event, _, _)| event);
    Record {
        owner,
        action: audited.and_then(|(_, action, _)| action),
        resource: audited.map(|(_, _, resource)| resource),
        ..about(call, event, status.as_u16())
    }
}

/// The record of what a person does at the command line, which is not a request of anybody's.
pub(crate) fn at_the_console(command: &str, event: EventType) -> Record {
    Record {
        description: Some(format!("{command} at the console")),
        ..Record::new(RequestId::new(), Emitter::Console, event, now())
    }
}

impl Scribe {
    pub(crate) fn new(vault: Arc<Vault>, secrets: Arc<ServiceSecrets>, store: Store) -> Self {
        Self { vault, secrets, store }
    }

    /// Seals `record`, together with where the client of `call` is and how it is `named`.
    ///
    /// The personal fields are sealed for who acted; for whose account it was, where that is not
    /// known; and for the strangers of this month otherwise.
    pub(crate) async fn entry(
        &self,
        record: Record,
        call: &Call,
        named: Named<'_>,
    ) -> Result<Entry, VaultError> {
        let personal = personal(call, named);
        let username_hash = named.typed().map(|name| self.username_hash(name));
        let received = record.occurred_at;
        let entry = self.sealed(record, personal, received).await?;
        Ok(Entry { username_hash, recorded: call.recorded().clone(), ..entry })
    }

    /// Seals `record`, which a gateway delivered at `received`, together with who it was.
    ///
    /// As in [`entry`](Self::entry), but the month of strangers is that of receipt: when it happened
    /// is only what the gateway says.
    pub(crate) async fn delivered(
        &self,
        record: Record,
        personal: Personal,
        received: OffsetDateTime,
    ) -> Result<Entry, VaultError> {
        let username_hash = personal.username.as_deref().map(|name| self.username_hash(name));
        Ok(Entry { username_hash, ..self.sealed(record, personal, received).await? })
    }

    /// An error that stands for what ought to have been a record, with its bytes sealed if there is a key for it.
    pub(crate) async fn poisoned(
        &self,
        poisoned: &Poisoned,
        received: OffsetDateTime,
    ) -> Result<Entry, VaultError> {
        let (request, number) = poisoned.origin();
        let record = Record {
            number,
            severity: Severity::Error,
            success: false,
            description: Some("what was delivered is no record".to_owned()),
            metadata: Some(json!({
                "reason": poisoned.reason.name(),
                "bytes": poisoned.bytes.len(),
            })),
            ..Record::new(request, Emitter::Gateway, EventType::SystemError, received)
        };
        let poison = Some(BASE64_STANDARD.encode(&poisoned.bytes));
        let payload = Payload { poison, ..Payload::default() };
        let personal = match self.seal(&record, &payload, strangers_of(received)).await {
            // Nobody else takes it: refused, it would come again for ever and hold back what is behind it.
            Err(VaultError::Closed(error)) => {
                tracing::error!(%error, "what is no record is not kept: the key of this month's strangers is spoilt");
                None
            }
            sealed => sealed?,
        };
        Ok(Entry { personal, ..Entry::impersonal(record) })
    }

    /// Fetches what a record about `owner`, or about nobody, will be sealed with.
    ///
    /// It is fetched whether it is at hand or not: were it not, how long a failed login takes would
    /// tell an account, whose key is rarely at hand, from nobody, whose key is used all the time.
    pub(crate) async fn prepare(&self, owner: Option<UserId>) -> Result<(), VaultError> {
        let subject = owner.map_or_else(|| strangers_of(now()), |UserId(owner)| owner);
        self.vault.fetch_subject_key(&self.store, subject).await?;
        Ok(())
    }

    /// Seals the `record` that makes `user`, and comes with the key that it is sealed under, wrapped.
    ///
    /// The two are to be stored together: of somebody who could not be made nothing is kept.
    pub(crate) fn first_entry(
        &self,
        record: Record,
        call: &Call,
        (user, name): (UserId, &str),
    ) -> Result<(Entry, Vec<u8>), VaultError> {
        let personal = personal(call, Named::Known(name));
        let address_hash = personal.address.map(|address| self.address_hash(address));
        let (key, wrapped) = self.vault.new_subject_key(user)?;
        let payload = Payload::from(personal).to_bytes();
        let bytes = seal(Sealing::On, &key, &place(record.id(), user.0), &payload)?;
        let entry = Entry {
            address_hash,
            username_hash: Some(self.username_hash(name)),
            personal: Some(SealedPersonal { bytes, subject: user.0 }),
            recorded: call.recorded().clone(),
            ..Entry::impersonal(record)
        };
        Ok((entry, wrapped))
    }

    /// Stands for a network where two are compared: what is written for debugging is good enough for that.
    pub(crate) fn network_hash(&self, network: Network) -> [u8; 32] {
        self.secrets.audit_hash("network", &format!("{network:?}"))
    }

    /// What the trail is searched by in place of an address.
    pub(crate) fn address_hash(&self, address: IpAddr) -> [u8; 32] {
        self.secrets.audit_hash("address", &address.to_canonical().to_string())
    }

    /// What the trail is searched by in place of a name.
    pub(crate) fn username_hash(&self, name: &str) -> [u8; 32] {
        self.secrets.audit_hash("username", &safe_text(name, LONGEST_NAME).to_lowercase())
    }

    /// What the trail keeps of one writing of a memory.
    pub(crate) fn record_digest(&self, memory: Uuid, version: i64) -> [u8; 32] {
        self.secrets.record_digest(memory, version)
    }

    /// The personal fields of a new session of `user`'s, sealed. Nothing where they are to be forgotten.
    pub(crate) async fn session(
        &self,
        session: Uuid,
        user: UserId,
        call: &Call,
    ) -> Result<Option<Vec<u8>>, VaultError> {
        let key = self.vault.subject_key(&self.store, user.0).await?;
        let Some(key) = key.as_ref() else { return Ok(None) };
        let payload = Payload::from(personal(call, Named::Not));
        Ok(Some(seal(Sealing::On, key, &place_of_session(session, user), &payload.to_bytes())?))
    }

    /// The personal fields of a row of the trail, as far as they have not been forgotten.
    pub(crate) fn reveal(&self, row: &TrailRow) -> Personal {
        let Some((personal, wrapped)) = row.personal.as_ref().zip(row.wrapped.as_deref()) else {
            return Personal::default();
        };
        let opened = self.vault.ring().subject_key(personal.subject, wrapped);
        opened.and_then(|key| personal.open(row.event_id, &key)).unwrap_or_else(|error| {
            // The rest of the trail must stay readable.
            tracing::error!(event = %row.event_id, %error, "the personal fields of a record do not open");
            Personal::default()
        })
    }

    /// The personal fields of a session of `owner`'s, as far as they have not been forgotten.
    pub(crate) fn reveal_session(
        &self,
        row: &SessionRow,
        owner: UserId,
        key: Option<&DataKey>,
    ) -> Personal {
        let Some((personal, key)) = row.personal.as_ref().zip(key) else {
            return Personal::default();
        };
        open(personal, key, &place_of_session(row.id, owner)).unwrap_or_else(|error| {
            tracing::error!(session = %row.id, %error, "the personal fields of a session do not open");
            Personal::default()
        })
    }

    async fn sealed(
        &self,
        record: Record,
        personal: Personal,
        received: OffsetDateTime,
    ) -> Result<Entry, VaultError> {
        let subject = match record.subject.or(record.owner) {
            Some(user) => user.0,
            None => strangers_of(received),
        };
        Ok(Entry {
            address_hash: personal.address.map(|address| self.address_hash(address)),
            personal: self.seal(&record, &personal.into(), subject).await?,
            ..Entry::impersonal(record)
        })
    }

    async fn seal(
        &self,
        record: &Record,
        payload: &Payload,
        subject: i64,
    ) -> Result<Option<SealedPersonal>, VaultError> {
        let key = self.vault.subject_key(&self.store, subject).await?;
        let Some(key) = key.as_ref() else { return Ok(None) };
        let bytes = seal(Sealing::On, key, &place(record.id(), subject), &payload.to_bytes())?;
        Ok(Some(SealedPersonal { bytes, subject }))
    }
}

impl Entry {
    /// A record that tells of nobody who they are.
    pub(crate) fn impersonal(record: Record) -> Self {
        Self {
            record,
            personal: None,
            address_hash: None,
            username_hash: None,
            recorded: Recorded::default(),
        }
    }

    /// Takes note that it is in the trail. Whoever writes an entry must call this.
    pub(crate) fn note_written(&self) {
        // The others stand beside the record of the request.
        if self.record.number == 0 {
            self.recorded.note();
        }
    }
}

impl Recorded {
    /// It has.
    pub(crate) fn note(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it has.
    pub(crate) fn is_there(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl<'a> Named<'a> {
    fn kept(self) -> Option<String> {
        match self {
            Self::Known(name) => Some(name.to_owned()),
            Self::Unknown(_) | Self::Not => None,
        }
    }

    fn typed(self) -> Option<&'a str> {
        match self {
            Self::Known(name) | Self::Unknown(name) => Some(name),
            Self::Not => None,
        }
    }
}

impl SealedPersonal {
    /// The fields, opened with the subject's `key`.
    pub(crate) fn open(&self, event: Uuid, key: &DataKey) -> Result<Personal, OpenError> {
        open(&self.bytes, key, &place(event, self.subject))
    }
}

impl Payload {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        // Text and addresses always make JSON.
        Zeroizing::new(serde_json::to_vec(self).unwrap_or_default())
    }
}

impl From<Personal> for Payload {
    fn from(personal: Personal) -> Self {
        let Personal { address, user_agent, username } = personal;
        Self { address, user_agent, username, poison: None }
    }
}

fn credential(identity: &Identity) -> (CredentialKind, String) {
    (identity.presented.kind(), identity.presented.id())
}

fn personal(call: &Call, named: Named<'_>) -> Personal {
    Personal {
        address: Some(call.client().to_canonical()),
        user_agent: call.user_agent(),
        username: named.kept(),
    }
}

fn place(event: Uuid, subject: i64) -> Place {
    Place { purpose: Purpose::Audit, owner: subject, record: event, version: 0 }
}

fn place_of_session(session: Uuid, user: UserId) -> Place {
    Place { purpose: Purpose::Session, owner: user.0, record: session, version: 0 }
}

fn open(sealed: &[u8], key: &DataKey, place: &Place) -> Result<Personal, OpenError> {
    let opened = Envelope::parse(sealed)?.open(Sealing::On, key, place)?;
    let Payload { address, user_agent, username, poison: _ } =
        serde_json::from_slice(&opened).map_err(|_| OpenError::Forged)?;
    Ok(Personal { address, user_agent, username })
}

/// The subject that stands for the strangers of one month: -(yyyymm).
fn strangers_of(time: OffsetDateTime) -> i64 {
    -(i64::from(time.year()) * 100 + i64::from(u8::from(time.month())))
}

/// Now, to the microsecond, as the database will keep it.
fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_microsecond(now.microsecond()).unwrap_or(now)
}
