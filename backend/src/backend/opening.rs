//! Everything that must be as it should before a backend serves.

use std::{io, net::SocketAddr, num::NonZeroUsize, sync::Arc, thread, time::Instant};

use memoric_config::Invalid;
use memoric_contract::api_key::CheckKey;
use thiserror::Error;
use tokio_util::task::TaskTracker;

use crate::{
    accounts::{self, AccountError, FirstAdminIs},
    api_keys::ApiKeys,
    app::App,
    audit::Scribe,
    config::{Config, EncryptionKey},
    cursor::Cursors,
    devices::Devices,
    guesses::Guesses,
    metrics::Metrics,
    migrate::{self, MigrateError},
    password_rules::PasswordRules,
    passwords::{PasswordError, Passwords},
    resets::Resets,
    revocation::Courier,
    seal::{
        KeyFileError, KeyTextError, Keyring, RingKey, SealError, Sealing, ServiceError, ServiceKey,
        ServiceSecrets,
    },
    sessions::Sessions,
    store::{Pools, Store, StoreError, TlsError},
    tokens::Tokens,
    vault::Vault,
};

/// Why a backend does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The place where the gateway connects is taken, or not ours to take.
    #[error("backend.listen: {at} cannot be listened on")]
    Listen {
        /// The place.
        at: String,
        /// What the system says.
        source: io::Error,
    },
    /// The certificates that the channel needs cannot be used.
    #[error(transparent)]
    Channel(#[from] Invalid),
    /// The private port is taken, or not ours to take.
    #[error("backend.metrics: {at} cannot be listened on")]
    Metrics {
        /// The port.
        at: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The database, a key or a secret is not as it must be.
    #[error(transparent)]
    #[expect(private_interfaces, reason = "opaque to callers; they read the message")]
    Unfit(#[from] Unfit),
}

/// What is not as it must be.
#[derive(Debug, Error)]
pub(crate) enum Unfit {
    #[error(transparent)]
    Schema(#[from] MigrateError),
    #[error(transparent)]
    Database(#[from] StoreError),
    #[error("database.ca")]
    Tls(#[from] TlsError),
    #[error("MEMORIC_ENCRYPTION_KEY")]
    KeyText(#[from] KeyTextError),
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    #[error(
        "Decryption failed: MEMORIC_ENCRYPTION_KEY is not the key that this database was sealed with"
    )]
    WrongKey,
    #[error(
        "privacy.encrypt_content: must be {}, as it was when this database was begun: \
         what is sealed and what is not cannot lie side by side", !.wanted
    )]
    OtherSealing { wanted: bool },
    #[error("Decryption failed")]
    Secrets(#[from] ServiceError),
    #[error("a key could not be made")]
    Unmade(#[from] SealError),
    #[error("passwords cannot be hashed")]
    Passwords(#[from] PasswordError),
    #[error("the metrics cannot be registered")]
    Metrics(#[from] prometheus::Error),
    #[error("CREATE_ADMIN")]
    FirstAdmin(#[from] AccountError),
}

/// Opens the database and the keys, and makes the first admin if one is asked for.
pub(super) async fn open(config: &Config, metrics: &Metrics) -> Result<App, Unfit> {
    let store = Store::new(Pools::new(&config.database)?);
    migrate::ensure_compatible(&store.pools().auth).await?;
    store.register_context_key().await?;

    let ring = Keyring::new(ring_key(&config.encryption_key)?, Vec::new());
    ensure_right_key(&store, &ring).await?;
    ensure_same_sealing(config.seals_content, store.keep_sealing(config.seals_content).await?)?;
    let secrets = Arc::new(service_secrets(&store, &ring).await?);
    let vault = Arc::new(Vault::new(ring));

    let app = App {
        scribe: Scribe::new(Arc::clone(&vault), Arc::clone(&secrets), store.clone()),
        api_keys: Arc::new(ApiKeys::new(
            CheckKey::new(*config.check_key.expose()),
            Arc::clone(&secrets),
        )),
        devices: Arc::new(Devices::new(Arc::clone(&secrets))),
        resets: Arc::new(Resets::new(Arc::clone(&secrets))),
        cursors: Arc::new(Cursors::new(Arc::clone(&secrets))),
        sessions: Arc::new(Sessions::new(secrets, config.sessions)),
        passwords: Passwords::new(hashing_threads(), config.password_queue.get())?,
        password_rules: Arc::new(PasswordRules::new(
            config.password_rules,
            config.password_min_length,
        )),
        guesses: Guesses::new(Instant::now()),
        tokens: Arc::new(Tokens::new(config.token_ring.clone(), config.access_token_ttl)),
        repeated_refusals: metrics.repeated_refusals.clone(),
        courier: Arc::new(Courier::new(Arc::clone(&config.redis), metrics)),
        registration: config.registration,
        sealing: Sealing::of(config.seals_content),
        errands: TaskTracker::new(),
        store,
        vault,
    };
    if let Some(admin) = &config.first_admin {
        match accounts::ensure_first_admin(&app.store, &app.passwords, admin).await? {
            FirstAdminIs::Made => tracing::info!(user = admin.username, "the first admin is made"),
            FirstAdminIs::There => {
                tracing::info!(user = admin.username, "the first admin is there")
            }
        }
    }
    Ok(app)
}

/// One fewer than there are cores, and one at least: whatever comes to log in, a core is left to everybody else. Giving way
/// alone does not do it, because the kernel shares cores by group first, and the database is a group of its own.
fn hashing_threads() -> NonZeroUsize {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores - 1).unwrap_or(NonZeroUsize::MIN)
}

/// The key-encryption key, from where the settings say it is.
pub(crate) fn ring_key(from: &EncryptionKey) -> Result<RingKey, Unfit> {
    use secrecy::ExposeSecret as _;

    match from {
        EncryptionKey::Given(text) => Ok(RingKey::parse(text.expose_secret())?),
        EncryptionKey::Generated(path) => Ok(RingKey::read_or_create(path)?),
    }
}

/// Tells a wrong but valid key from the right one, before anything is sealed with it.
pub(crate) async fn ensure_right_key(store: &Store, ring: &Keyring) -> Result<(), Unfit> {
    let first = ring.first();
    let entries = store.ring_entries(&first.id().0, &first.check_value()).await?;
    let is_ours = |(id, check): &(Vec<u8>, Vec<u8>)| *id == first.id().0 && first.matches(check);
    if entries.iter().any(is_ours) { Ok(()) } else { Err(Unfit::WrongKey) }
}

/// Refuses to seal where nothing is sealed, and the other way round.
pub(crate) fn ensure_same_sealing(wanted: bool, begun_with: bool) -> Result<(), Unfit> {
    if wanted == begun_with { Ok(()) } else { Err(Unfit::OtherSealing { wanted }) }
}

/// The service's own secrets, made at the first start.
pub(crate) async fn service_secrets(
    store: &Store,
    ring: &Keyring,
) -> Result<ServiceSecrets, Unfit> {
    let mut wrapped = Vec::with_capacity(ServiceKey::ALL.len());
    for which in ServiceKey::ALL {
        let (_, candidate) = ring.new_service_secret(which)?;
        wrapped.push((which, store.service_key(which.number(), &candidate).await?));
    }
    let find = |which| {
        wrapped.iter().find(|(known, _)| *known == which).map(|(_, bytes)| bytes.as_slice())
    };
    Ok(ServiceSecrets::open(ring, find)?)
}
