//! Sessions: begun by a login, carried on by refresh tokens, ended by their owner, by time or by theft.

use std::time::Duration;

use memoric_contract::{
    UserId,
    revocation::{Revocation, Revoked},
};
use time::OffsetDateTime;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Store, StoreError, first, fitting, mismatch,
    revocations::revoked,
    sole,
    trail::{Appended, done},
    users::ended,
};
use crate::{
    audit::Entry,
    crossing::Crossing,
    scope::{Custody, Scope},
    sessions::Lives,
};

/// A session to be.
#[derive(Clone)]
pub(crate) struct NewSession {
    /// Its id, which tokens carry as `sid`.
    pub(crate) id: Uuid,
    /// Whose it is.
    pub(crate) user: UserId,
    /// The generation in which the user proved who they are.
    pub(crate) generation: u64,
    /// What refresh tokens are made with besides the ring.
    pub(crate) seed: [u8; 32],
    /// Address and user agent, sealed.
    pub(crate) personal: Option<Vec<u8>>,
}

/// A session that has begun.
pub(crate) struct Began {
    /// The generation that it is of.
    pub(crate) generation: u64,
    /// What ended for it: their oldest session, where they had as many as they may have.
    pub(crate) ended: Option<Revocation>,
}

/// A session that lives, as its owner sees it.
pub(crate) struct SessionRow {
    /// Its id.
    pub(crate) id: Uuid,
    /// When it began.
    pub(crate) created_at: OffsetDateTime,
    /// When it was refreshed last.
    pub(crate) last_used_at: OffsetDateTime,
    /// When it ends unless it is refreshed.
    pub(crate) ends_at: OffsetDateTime,
    /// Address and user agent at its beginning, sealed.
    pub(crate) personal: Option<Vec<u8>>,
}

/// The records of all that may come of a refresh, of which one is written.
pub(crate) struct RefreshEntries {
    /// There is a new pair.
    pub(crate) refreshed: Entry,
    /// The same pair was told again.
    pub(crate) repeated: Entry,
    /// The same pair was told again, to another network than before.
    pub(crate) elsewhere: Entry,
    /// The token is in other hands too.
    pub(crate) reused: Entry,
}

/// What came of a refresh token whose MAC was right.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Refreshed {
    /// The session goes on with the token of `counter`, which is new or was given before.
    On {
        /// The counter of the token to give.
        counter: u32,
        /// When the session ends unless it is refreshed.
        ends_at: OffsetDateTime,
    },
    /// An older copy of a token came late. Nothing happened.
    Late,
    /// The token is in other hands too, and the session has ended.
    Reused(Revocation),
    /// The session has ended before.
    Ended,
}

/// Why a refresh token whose MAC was right is good for nothing any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Worthless {
    /// Its user is not active.
    Inactive,
    /// It is an older copy that came late.
    Late,
    /// Its session has ended.
    Ended,
}

impl Worthless {
    /// Its label in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Inactive => "inactive_user",
            Self::Late => "older_token",
            Self::Ended => "ended_session",
        }
    }

    /// What it is, for the trail.
    pub(crate) const fn describe(self) -> &'static str {
        match self {
            Self::Inactive => "the account is not active",
            Self::Late => "an older token",
            Self::Ended => "the session has ended",
        }
    }

    /// The bit that stands for it in the database.
    const fn bit(self) -> i32 {
        match self {
            Self::Inactive => 1,
            Self::Late => 2,
            Self::Ended => 4,
        }
    }
}

impl Store {
    /// Begins a session and notes the login; where another ended for it, `displaced` says so. `None`: the
    /// account has changed since it was read, and there is no session.
    pub(crate) async fn start_session(
        &self,
        session: &NewSession,
        (entry, displaced): (&Entry, &Entry),
    ) -> Result<Option<Began>, StoreError> {
        const SQL: &str = "\
            SELECT generation, ended, ended_all, revoked_until FROM credentials.start_session($1, $2, $3, $4, $5, $6, $7)";
        let NewSession { id, user, generation, seed, personal } = session;
        let (generation, record) = (fitting::<_, i64>(*generation)?, Appended::new(entry));
        let (seed, displaced) = (seed.as_slice(), Appended::new(displaced));
        let rows = self
            .pools
            .auth
            .call(SQL, &[&user.0, &generation, id, &seed, personal, &record, &displaced])
            .await?;
        let Some(row) = first(rows) else { return Ok(None) };
        entry.note_written();
        Began::read(&row, *user).map(Some)
    }

    /// Whether an access token lives: its user is active and still in its generation, its session has
    /// not ended, and it was not revoked itself.
    pub(crate) async fn is_live(
        &self,
        user: UserId,
        token: Uuid,
        session: Uuid,
        generation: u64,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.is_live($1, $2, $3, $4)";
        // No user is in a generation beyond what the database can count.
        let Ok(generation) = i64::try_from(generation) else { return Ok(false) };
        let rows = self.pools.auth.call(SQL, &[&user.0, &token, &session, &generation]).await?;
        Ok(sole(rows)?.try_get(0)?)
    }

    /// Whose the session is, and the random value that its refresh tokens are made with.
    pub(crate) async fn find_session(
        &self,
        session: Uuid,
    ) -> Result<Option<(UserId, Vec<u8>)>, StoreError> {
        const SQL: &str = "SELECT user_id, seed FROM credentials.find_session($1)";
        let found = first(self.pools.auth.call(SQL, &[&session]).await?);
        found.map(|row| Ok((UserId(row.try_get("user_id")?), row.try_get("seed")?))).transpose()
    }

    /// Carries `session`, which is `user`'s, on from the refresh token of `presented`, which came from `network`, and
    /// appends the one of the records that says what came of it.
    pub(crate) async fn refresh(
        &self,
        (session, user): (Uuid, UserId),
        (presented, network): (u32, [u8; 32]),
        lives: Lives,
        entries: &RefreshEntries,
    ) -> Result<Refreshed, StoreError> {
        const SQL: &str = "\
            SELECT outcome, counter, ends_at, revoked_until
            FROM credentials.refresh($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5), make_interval(secs => $6), $7, $8, $9, $10)";
        // No token of ours has a counter beyond what the database can count.
        let Ok(presented) = i32::try_from(presented) else { return Ok(Refreshed::Ended) };
        let RefreshEntries { refreshed, repeated, elsewhere, reused } = entries;
        let [advanced, again, away, copied] =
            [refreshed, repeated, elsewhere, reused].map(Appended::new);
        let network = network.as_slice();
        let seconds = [lives.idle, lives.life, OVERLAP].map(|span| span.as_secs_f64());
        let [idle, life, overlap] = &seconds;
        let rows = self
            .pools
            .auth
            .call(
                SQL,
                &[
                    &session, &presented, &network, idle, life, overlap, &advanced, &again, &away,
                    &copied,
                ],
            )
            .await?;
        let came_of_it = Refreshed::read(&sole(rows)?, session, user)?;
        match came_of_it {
            Refreshed::On { .. } => refreshed.note_written(),
            Refreshed::Reused(_) => reused.note_written(),
            Refreshed::Late | Refreshed::Ended => {}
        }
        Ok(came_of_it)
    }

    /// Records that a refresh token of `session` was refused because of `why`. `false`: that is on
    /// record, and `entry` is not.
    pub(crate) async fn note_refusal(
        &self,
        session: Uuid,
        why: Worthless,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.note_refusal($1, $2, $3)";
        let record = Appended::new(entry);
        done(self.pools.auth.call(SQL, &[&session, &why.bit(), &record]).await?, entry)
    }

    /// Notes that the answer which brought an access token of `counter` has arrived.
    pub(crate) async fn note_received(
        &self,
        session: Uuid,
        counter: u32,
    ) -> Result<(), StoreError> {
        const SQL: &str = "SELECT credentials.note_received($1, $2)";
        let counter: i32 = fitting(counter)?;
        self.pools.auth.call(SQL, &[&session, &counter]).await?;
        Ok(())
    }

    /// Ends one of the owner's sessions; where too many ended so lately that it ends all of them,
    /// `everywhere` says so. `None`: they have no such session, or it has ended.
    pub(crate) async fn end_session<C: Custody>(
        &self,
        whose: &C,
        session: Uuid,
        (entry, everywhere): (&Entry, &Entry),
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str = "\
            SELECT revoked_until, generation FROM credentials.end_session($1, $2, $3, $4, $5, $6)";
        let (owner, record) = (whose.owner(), Appended::new(entry));
        let (act, everywhere) = (whose.context().purpose, Appended::new(everywhere));
        let scoped = C::credentials(&self.pools).scoped(whose.context());
        let rows = scoped.write(SQL, &[&act, &owner.0, &session, &record, &everywhere]).await?;
        let Some(row) = first(rows) else { return Ok(None) };
        entry.note_written();
        ended_or_all(owner, Revoked::Session(session), &row).map(Some)
    }

    /// Ends all of the owner's sessions. `None`: there is no such user.
    pub(crate) async fn end_sessions<C: Custody>(
        &self,
        whose: &C,
        entry: &Entry,
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str = "SELECT generation, expires_at FROM credentials.end_sessions($1, $2, $3)";
        let (owner, record) = (whose.owner(), Appended::new(entry));
        let scoped = C::credentials(&self.pools).scoped(whose.context());
        let rows = scoped.write(SQL, &[&owner.0, &record]).await?;
        ended(owner, rows, entry)
    }

    /// The owner's sessions that live, the one used last first.
    pub(crate) async fn sessions(
        &self,
        scope: &Scope,
        lives: Lives,
    ) -> Result<Vec<SessionRow>, StoreError> {
        const SQL: &str = "\
            SELECT id, created_at, last_used_at, ends_at, personal
            FROM credentials.list_sessions($1, $2, make_interval(secs => $3), make_interval(secs => $4), $5)";
        let (owner, idle, life) =
            (scope.owner(), lives.idle.as_secs_f64(), lives.life.as_secs_f64());
        let scoped = self.pools.auth.scoped(scope.context());
        let rows = scoped.write(SQL, &[&owner.0, &idle, &life, &MOST]).await?;
        rows.iter().map(SessionRow::read).collect()
    }

    /// Another user's sessions that live, once `entry` says in the trail that an admin looks at them.
    pub(crate) async fn sessions_across(
        &self,
        crossing: &Crossing,
        lives: Lives,
        entry: &Entry,
    ) -> Result<Vec<SessionRow>, StoreError> {
        const RECORD: &str = "SELECT audit.append($1, NULL)";
        const SQL: &str = "\
            SELECT id, created_at, last_used_at, ends_at, personal
            FROM credentials.list_sessions(current_setting('memoric.context'), $1, make_interval(secs => $2), make_interval(secs => $3), $4)";
        let (owner, idle, life) =
            (crossing.owner(), lives.idle.as_secs_f64(), lives.life.as_secs_f64());
        let mut tx = self.pools.admin.scoped(crossing.context()).begin().await?;
        tx.query(RECORD, &[&Appended::new(entry)]).await?;
        let rows = tx.query(SQL, &[&owner.0, &idle, &life, &MOST]).await?;
        tx.commit().await?;
        entry.note_written();
        rows.iter().map(SessionRow::read).collect()
    }
}

impl Began {
    fn read(row: &Row, user: UserId) -> Result<Self, StoreError> {
        let generation = fitting(row.try_get::<_, i64>("generation")?)?;
        let ended: Option<Uuid> = row.try_get("ended")?;
        let ended = match row.try_get("ended_all")? {
            true => Some(Revoked::Before(generation)),
            false => ended.map(Revoked::Session),
        };
        let until = || row.try_get("revoked_until");
        let ended = ended.map(|ended| revoked(user, ended, until()?)).transpose()?;
        Ok(Self { generation, ended })
    }
}

impl Refreshed {
    fn read(row: &Row, session: Uuid, user: UserId) -> Result<Self, StoreError> {
        match row.try_get("outcome")? {
            "advanced" | "repeated" => Ok(Self::On {
                counter: fitting(row.try_get::<_, i32>("counter")?)?,
                ends_at: row.try_get("ends_at")?,
            }),
            "late" => Ok(Self::Late),
            "reused" => {
                let until = row.try_get("revoked_until")?;
                revoked(user, Revoked::Session(session), until).map(Self::Reused)
            }
            "ended" => Ok(Self::Ended),
            _ => Err(mismatch("an outcome that is none")),
        }
    }
}

impl SessionRow {
    fn read(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.try_get("id")?,
            created_at: row.try_get("created_at")?,
            last_used_at: row.try_get("last_used_at")?,
            ends_at: row.try_get("ends_at")?,
            personal: row.try_get("personal")?,
        })
    }
}

/// What `row` says has ended of `owner`'s: `one`, or all before the generation that it tells.
pub(super) fn ended_or_all(
    owner: UserId,
    one: Revoked,
    row: &Row,
) -> Result<Revocation, StoreError> {
    let generation: Option<i64> = row.try_get("generation")?;
    let ended = match generation {
        Some(generation) => Revoked::Before(fitting(generation)?),
        None => one,
    };
    revoked(owner, ended, row.try_get("revoked_until")?)
}

/// How long the token before the newest is good, even where its successor has arrived: for two
/// requests of one client that cross.
const OVERLAP: Duration = Duration::from_secs(10);

/// Sessions that are shown.
const MOST: i32 = 1_000;

#[cfg(test)]
mod tests;
