//! API keys, of which the database knows a keyed hash and nothing that opens anything.

use std::time::Duration;

use memoric_contract::{
    KeyId, Permission, Permissions, UserId,
    api_key::Standing,
    revocation::{Revocation, Revoked},
};
use time::OffsetDateTime;
use tokio_postgres::Row;

use super::{
    Store, StoreError, first, fitting, mismatch, revocations::revoked, sole, trail::Appended,
    users::roles_in,
};
use crate::{
    audit::Entry,
    scope::{Custody, Scope},
};

/// What is to be kept of a key.
pub(crate) struct NewApiKey<'a> {
    pub(crate) id: &'a KeyId,
    /// Its owner's name for it.
    pub(crate) name: &'a str,
    /// The keyed hash of the whole key.
    pub(crate) hash: [u8; 32],
    pub(crate) scopes: Permissions,
    /// From where it may be used. None: from anywhere.
    pub(crate) allowed_addresses: &'a [String],
    /// How long it lives.
    pub(crate) life: Duration,
}

/// A key that lives, as its owner sees it.
pub(crate) struct ApiKeyRow {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) scopes: Permissions,
    pub(crate) allowed_addresses: Vec<String>,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) last_used_at: Option<OffsetDateTime>,
    /// Until when the secret before the last rotation is good, or of those before it the last.
    pub(crate) previous_until: Option<OffsetDateTime>,
}

/// What came of a rotation.
pub(crate) enum Rotated {
    /// The key has another secret.
    Done(ApiKeyRow),
    /// As many earlier secrets as a key may have are good yet, the first of them until then.
    Full(OffsetDateTime),
    /// The owner has no such living key.
    Absent,
}

impl Store {
    /// Whose the key is whose keyed hash is `hash`, if it lives.
    pub(crate) async fn resolve_key(
        &self,
        key: &KeyId,
        hash: [u8; 32],
    ) -> Result<Option<Standing>, StoreError> {
        const SQL: &str = "\
            SELECT user_id, roles, namespace, generation, scopes, expires_at, allowed_addresses
            FROM credentials.resolve_key($1, $2)";
        let rows = self.pools.auth.call(SQL, &[&key.0, &hash.as_slice()]).await?;
        first(rows).map(|row| standing(&row)).transpose()
    }

    /// Whether a key of `user`'s lives, and they are still of `generation`.
    pub(crate) async fn is_key_live(
        &self,
        user: UserId,
        key: &KeyId,
        generation: u64,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.is_key_live($1, $2, $3)";
        let Ok(generation) = i64::try_from(generation) else { return Ok(false) };
        let rows = self.pools.auth.call(SQL, &[&user.0, &key.0, &generation]).await?;
        Ok(sole(rows)?.try_get(0)?)
    }

    /// Notes that a key was used.
    pub(crate) async fn note_key_used(&self, key: &KeyId) -> Result<(), StoreError> {
        self.pools.auth.call("SELECT credentials.note_key_used($1)", &[&key.0]).await?;
        Ok(())
    }

    /// Makes a key for the owner. `None`: they are not active, or have as many as they may have.
    pub(crate) async fn create_key<C: Custody>(
        &self,
        whose: &C,
        key: &NewApiKey<'_>,
        entry: &Entry,
    ) -> Result<Option<ApiKeyRow>, StoreError> {
        const SQL: &str = "\
            SELECT created_at, expires_at
            FROM credentials.create_key($1, $2, $3, $4, $5, $6, $7, make_interval(secs => $8), $9)";
        let (owner, record) = (whose.owner(), Appended::new(entry));
        let (scopes, life) = (key.scopes.names(), key.life.as_secs_f64());
        let (hash, from) = (key.hash.as_slice(), key.allowed_addresses);
        let scoped = C::credentials(&self.pools).scoped(whose.context());
        let rows = scoped
            .write(SQL, &[&owner.0, &key.id.0, &key.name, &hash, &scopes, &from, &life, &record])
            .await?;
        let Some(row) = first(rows) else { return Ok(None) };
        entry.note_written();
        Ok(Some(ApiKeyRow {
            id: key.id.0.clone(),
            name: key.name.to_owned(),
            scopes: key.scopes,
            allowed_addresses: from.to_vec(),
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: None,
            previous_until: None,
        }))
    }

    /// The owner's keys that live, the newest first.
    pub(crate) async fn api_keys<C: Custody>(
        &self,
        whose: &C,
    ) -> Result<Vec<ApiKeyRow>, StoreError> {
        const SQL: &str = "\
            SELECT id, name, scopes, allowed_addresses, created_at, expires_at, last_used_at, previous_until
            FROM credentials.list_keys($1, $2)";
        let scoped = C::credentials(&self.pools).scoped(whose.context());
        let rows = scoped.write(SQL, &[&whose.owner().0]).await?;
        rows.iter()
            .map(|row| {
                Ok(ApiKeyRow {
                    last_used_at: row.try_get("last_used_at")?,
                    ..ApiKeyRow::read(row, row.try_get("id")?)?
                })
            })
            .collect()
    }

    /// Gives a key of the owner's another secret; the one it had is good for `overlap` longer, and earlier ones for as
    /// long as they were promised to be.
    pub(crate) async fn rotate_key(
        &self,
        scope: &Scope,
        key: &KeyId,
        (hash, overlap): ([u8; 32], Duration),
        entry: &Entry,
    ) -> Result<Rotated, StoreError> {
        const SQL: &str = "\
            SELECT name, scopes, allowed_addresses, created_at, expires_at, previous_until, full_until
            FROM credentials.rotate_key($1, $2, $3, $4, make_interval(secs => $5), $6)";
        let (owner, record) = (scope.owner(), Appended::new(entry));
        let (hash, overlap) = (hash.as_slice(), overlap.as_secs_f64());
        let scoped = self.pools.auth.scoped(scope.context());
        let rows = scoped.write(SQL, &[&owner.0, &key.0, &hash, &overlap, &record]).await?;
        let Some(row) = first(rows) else { return Ok(Rotated::Absent) };
        if let Some(until) = row.try_get("full_until")? {
            return Ok(Rotated::Full(until));
        }
        entry.note_written();
        ApiKeyRow::read(&row, key.0.clone()).map(Rotated::Done)
    }

    /// Ends a key of the owner's. `None`: they have no such living key.
    pub(crate) async fn revoke_key<C: Custody>(
        &self,
        whose: &C,
        key: &KeyId,
        entry: &Entry,
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str = "SELECT revoked_until FROM credentials.revoke_key($1, $2, $3, $4)";
        let owner = whose.owner();
        let scoped = C::credentials(&self.pools).scoped(whose.context());
        let rows = scoped.write(SQL, &[&owner.0, &key.0, &Appended::new(entry)]).await?;
        let Some(row) = first(rows) else { return Ok(None) };
        entry.note_written();
        revoked(owner, Revoked::Key(key.clone()), row.try_get("revoked_until")?).map(Some)
    }
}

impl ApiKeyRow {
    fn read(row: &Row, id: String) -> Result<Self, StoreError> {
        Ok(Self {
            id,
            name: row.try_get("name")?,
            scopes: scopes_in(row)?,
            allowed_addresses: row.try_get("allowed_addresses")?,
            created_at: row.try_get("created_at")?,
            expires_at: row.try_get("expires_at")?,
            last_used_at: None,
            previous_until: row.try_get("previous_until")?,
        })
    }
}

fn standing(row: &Row) -> Result<Standing, StoreError> {
    let expires_at: OffsetDateTime = row.try_get("expires_at")?;
    Ok(Standing {
        user: UserId(row.try_get("user_id")?),
        roles: roles_in(row)?,
        namespace: row.try_get("namespace")?,
        generation: fitting(row.try_get::<_, i64>("generation")?)?,
        scopes: scopes_in(row)?.bits(),
        expires_at: fitting(expires_at.unix_timestamp())?,
        allowed_addresses: row.try_get("allowed_addresses")?,
    })
}

fn scopes_in(row: &Row) -> Result<Permissions, StoreError> {
    let names: Vec<String> = row.try_get("scopes")?;
    let scopes: Option<Permissions> = names.iter().map(|name| Permission::named(name)).collect();
    scopes.ok_or_else(|| mismatch("a scope that is none"))
}
