//! A login: a password traded for an access token.

use std::time::SystemTime;

use axum::{body::Body, http::StatusCode};
use memoric_contract::{
    Operation, Roles, UserId,
    audit::{Action, EventType, Record, Resource},
};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    super::{Answer, body, json, recorded},
    guessing,
    refresh::{Pair, access_token},
};
use crate::{
    app::App,
    audit::{self, Named},
    caller::Call,
    devices::Device,
    error::{ApiError, Chain},
    guesses::{Guess, Guesser, NameKey},
    memories::stored_time,
    passwords::Verdict,
    people::LoginName,
    store::{Account, NewSession},
};

/// What a client types, and where it does.
struct Attempt {
    name: String,
    password: SecretString,
    /// The device that it comes from, if somebody has logged in there before.
    device: Option<Device>,
}

/// The answer to a login.
#[derive(Serialize)]
struct LoggedIn<'a> {
    #[serde(flatten)]
    pair: Pair<'a>,
    /// To be sent along with the next login from there: whatever strangers guess at the account, it
    /// need not wait for it.
    device_token: &'a str,
    user: FullProfile<'a>,
}

/// A session that has just begun.
struct Begun {
    access_token: String,
    /// Seconds that the access token is good.
    expires_in: u64,
    refresh_token: Zeroizing<String>,
}

/// An account as a login shows it: the same and a little more.
#[derive(Serialize)]
struct FullProfile<'a> {
    id: UserId,
    username: &'a str,
    email: &'a str,
    full_name: Option<&'a str>,
    namespace: Option<&'a str>,
    roles: Roles,
    is_active: bool,
    is_verified: bool,
    created_at: String,
    updated_at: String,
    last_login_at: Option<String>,
    metadata: &'a Map<String, Value>,
}

/// Trades a password for an access token.
///
/// Whoever there is not, whoever is not active and whoever mistypes take the same way and get the
/// same answer.
pub(in crate::api) async fn login(app: &App, call: &Call, body: Body) -> Answer {
    let attempt = read_credentials(app, call, body).await?;
    // Where too many wait already, nothing is asked of the database.
    app.passwords.ensure_room(call.network())?;
    let (guess, account) = admit(app, call, &attempt).await?;
    let able = account.as_ref().filter(|account| account.is_active);
    let verdict = verify(app, call, attempt.password.clone(), account.as_ref()).await;
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(error) => {
            guess.was_none();
            return Err(error);
        }
    };
    let (Some(able), Verdict::Match { upgrade }) = (able, verdict) else {
        let status = StatusCode::UNAUTHORIZED;
        guessing::record_wrong(app, call, guess, (account.as_ref(), status)).await?;
        return Err(login_failed(app, call, account.as_ref(), &attempt.name).await);
    };
    guess.was_right();

    let session = begin_session(app, call, able).await?;
    let Some(session) = session else {
        return Err(login_failed(app, call, account.as_ref(), &attempt.name).await);
    };
    if upgrade {
        upgrade_hash(app, call, able, attempt.password).await;
    }
    let device = attempt.device.filter(|device| device.is_of(able.id, able.generation));
    let device = device.unwrap_or_else(|| Device::new(able.id, able.generation));
    let device_token = app.devices.token(device, SystemTime::now());
    let pair = Pair {
        access_token: &session.access_token,
        token_type: "bearer",
        expires_in: session.expires_in,
        refresh_token: &session.refresh_token,
        refresh_expires_in: app.sessions.lives().unrefreshed().as_secs(),
    };
    Ok(json(
        StatusCode::OK,
        &LoggedIn { pair, device_token: &device_token, user: FullProfile::of(able) },
    ))
}

impl<'a> FullProfile<'a> {
    fn of(account: &'a Account) -> Self {
        Self {
            id: account.id,
            username: &account.username,
            email: &account.email,
            full_name: account.full_name.as_deref(),
            namespace: account.namespace.as_deref(),
            roles: account.roles,
            is_active: account.is_active,
            is_verified: account.is_verified,
            created_at: stored_time(account.created_at),
            updated_at: stored_time(account.updated_at),
            last_login_at: account.last_login_at.map(stored_time),
            metadata: &account.metadata,
        }
    }
}

async fn read_credentials(app: &App, call: &Call, body: Body) -> Result<Attempt, ApiError> {
    body::fields(call.headers(), body, Operation::Login, |mut sent| {
        let (name, password) = (sent.text("username"), sent.secret("password"));
        let device = sent.maybe_text("device_token");
        match (name, password, device) {
            (Some(name), Some(password), Some(token)) => {
                let device = token.and_then(|token| app.devices.read(&token, SystemTime::now()));
                Ok(Attempt { name, password, device })
            }
            _ => Err(sent.refusal()),
        }
    })
    .await
}

/// Takes the guess that a login is, and finds the account that it is at.
///
/// A stranger who has to wait is told so before anything is asked of the database, whoever the name
/// stands for.
async fn admit(
    app: &App,
    call: &Call,
    attempt: &Attempt,
) -> Result<(Guess, Option<Account>), ApiError> {
    let name = LoginName::parse(&attempt.name);
    let counted = name.as_ref().map_or(attempt.name.as_str(), LoginName::as_str);
    let stranger = || guessing::take(app, Guesser::Stranger(NameKey::of(counted), call.network()));
    let find = async || match &name {
        Some(name) => app.store.find_login(name.as_str()).await,
        None => Ok(None),
    };
    let Some(device) = attempt.device else {
        let guess = stranger()?;
        return match find().await {
            Ok(account) => Ok((guess, account)),
            Err(error) => {
                // A fault of ours is nobody's wrong guess.
                guess.was_none();
                Err(error.into())
            }
        };
    };
    let account = find().await?;
    let guess = match &account {
        Some(account) if device.is_of(account.id, account.generation) => {
            guessing::take(app, Guesser::Known(account.id, device.id))?
        }
        _ => stranger()?,
    };
    Ok((guess, account))
}

/// Verifies a password, and meanwhile fetches what a record of the attempt is sealed with: both,
/// whoever it is, so that what takes longer shows, and not whether there is such an account. A hash of
/// an older kind takes a time of its own, until the next login renews it.
async fn verify(
    app: &App,
    call: &Call,
    password: SecretString,
    account: Option<&Account>,
) -> Result<Verdict, ApiError> {
    let able = account.filter(|account| account.is_active);
    let hash = able.map(|account| account.password_hash.as_str());
    let network = call.network();
    let verified =
        async { Ok::<_, ApiError>(app.passwords.verify(password, hash, network).await?) };
    let prepared = async { Ok(app.scribe.prepare(account.map(|account| account.id)).await?) };
    // The password first: where too many wait, nothing more is asked of the database.
    let (verdict, ()) = tokio::try_join!(biased; verified, prepared)?;
    Ok(verdict)
}

/// Begins a session for who has just proved to be `account`, and returns its first tokens.
/// `None`: the account has changed since it was read.
async fn begin_session(
    app: &App,
    call: &Call,
    account: &Account,
) -> Result<Option<Begun>, ApiError> {
    let id = Uuid::new_v4();
    let seed = random_seed().map_err(ApiError::unwritable)?;

    let record = Record { session: Some(id), ..success(call, account) };
    let entry = app.scribe.entry(record, call, Named::Known(&account.username)).await?;
    let session = NewSession {
        id,
        user: account.id,
        generation: account.generation,
        seed,
        personal: app.scribe.session(id, account.id, call).await?,
    };
    let displaced = app.scribe.entry(displaced(call, account), call, Named::Not).await?;
    let store = app.store.clone();
    let work = async move { store.start_session(&session, (&entry, &displaced)).await };
    let Some(began) = app.revoke(call, work).await? else { return Ok(None) };

    let ends_at = SystemTime::now() + app.sessions.lives().unrefreshed();
    let ends_at = ends_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = Account { generation: began.generation, ..account.clone() };
    let (access_token, expires_in) = access_token(app, &now, (id, FIRST, ends_at))?;
    let refresh_token = app.sessions.token(id, FIRST, &seed);
    Ok(Some(Begun { access_token, expires_in, refresh_token }))
}

/// Puts a hash of today's kind in the place of an older one. A login does not fail for want of it.
async fn upgrade_hash(app: &App, call: &Call, account: &Account, password: SecretString) {
    let upgraded = async {
        let hash = app.passwords.hash(password, call.network()).await?;
        let record = Record {
            number: 1,
            subject: Some(account.id),
            owner: Some(account.id),
            action: Some(Action::Update),
            resource: Some(Resource::User),
            description: Some("password hash renewed".to_owned()),
            ..audit::about(call, EventType::UserUpdated, StatusCode::OK.as_u16())
        };
        let entry = app.scribe.entry(record, call, Named::Not).await?;
        app.store.upgrade_hash(account.id, &account.password_hash, &hash, &entry).await?;
        Ok::<_, ApiError>(())
    };
    if let Err(error) = upgraded.await {
        tracing::warn!(error = %Chain(&error), "a password hash was not renewed");
    }
}

fn success(call: &Call, account: &Account) -> Record {
    Record {
        subject: Some(account.id),
        metadata: Some(json!({ "roles": account.roles })),
        ..audit::of_operation(call, Some(account.id), StatusCode::OK)
    }
}

/// The record of the session that ends for another, or of all that do.
fn displaced(call: &Call, account: &Account) -> Record {
    Record {
        number: 1,
        event: EventType::LoggedOut,
        action: Some(Action::Delete),
        resource: Some(Resource::Session),
        description: Some("more sessions than one user may have".to_owned()),
        ..Record { metadata: None, ..success(call, account) }
    }
}

/// Records a login that failed, and makes its answer.
async fn login_failed(app: &App, call: &Call, account: Option<&Account>, typed: &str) -> ApiError {
    let owner = account.map(|account| account.id);
    let record = Record {
        event: EventType::LoginFailed,
        error_message: Some("Invalid credentials".to_owned()),
        ..audit::of_operation(call, owner, StatusCode::UNAUTHORIZED)
    };
    let named = account.map_or(Named::Unknown(typed), |account| Named::Known(&account.username));
    recorded(app, call, record, named, ApiError::InvalidCredentials).await
}

/// How often a session has been refreshed that has just begun.
const FIRST: u32 = 0;

/// What refresh tokens of the session will be made with.
fn random_seed() -> Result<[u8; 32], getrandom::Error> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)?;
    Ok(seed)
}
