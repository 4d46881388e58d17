//! Whom the tokens of other issuers speak of.

use memoric_contract::{
    UserId,
    revocation::{Revocation, Revoked},
    token::foreign::{Linked, Subject},
};
use uuid::Uuid;

use super::{
    Store, StoreError, first, fitting, mismatch,
    sessions::ended_or_all,
    sole,
    trail::Appended,
    users::{ended, roles_in},
};
use crate::{
    administration::Administration,
    audit::Entry,
    scope::{Custody as _, Scope},
};

/// What came of a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum LinkOutcome {
    Done,
    Forbidden,
    Absent,
    Taken,
}

impl Store {
    /// Which active user a subject is.
    pub(crate) async fn resolve_subject(
        &self,
        subject: &Subject,
    ) -> Result<Option<Linked>, StoreError> {
        const SQL: &str = "\
            SELECT user_id, roles, namespace, generation, ended_at
            FROM credentials.resolve_subject($1, $2)";
        let rows = self.pools.auth.call(SQL, &[&subject.issuer, &subject.subject]).await?;
        let linked = |row: tokio_postgres::Row| -> Result<Linked, StoreError> {
            Ok(Linked {
                user: UserId(row.try_get("user_id")?),
                roles: roles_in(&row)?,
                namespace: row.try_get("namespace")?,
                generation: fitting(row.try_get::<_, i64>("generation")?)?,
                ended_at: row.try_get::<_, Option<i64>>("ended_at")?.map(fitting).transpose()?,
            })
        };
        first(rows).map(linked).transpose()
    }

    /// Whether a foreign token of `user`'s may be used, and they are still of `generation`.
    pub(crate) async fn is_foreign_live(
        &self,
        user: UserId,
        token: Uuid,
        generation: u64,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.is_foreign_live($1, $2, $3)";
        let Ok(generation) = i64::try_from(generation) else { return Ok(false) };
        let rows = self.pools.auth.call(SQL, &[&user.0, &token, &generation]).await?;
        Ok(sole(rows)?.try_get(0)?)
    }

    /// Ends a foreign token of the owner's, which lives until `expires_at`; where too many ended so lately
    /// that it ends all that is theirs, `everywhere` says so. `None`: it has ended.
    pub(crate) async fn end_foreign(
        &self,
        scope: &Scope,
        (token, expires_at): (Uuid, u64),
        (entry, everywhere): (&Entry, &Entry),
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str = "\
            SELECT revoked_until, generation
            FROM credentials.end_foreign($1, $2, $3, to_timestamp($4::bigint), $5, $6)";
        let (owner, expires_at) = (scope.owner(), fitting::<_, i64>(expires_at)?);
        let (record, everywhere) = (Appended::new(entry), Appended::new(everywhere));
        let scoped = self.pools.auth.scoped(scope.context());
        let rows =
            scoped.write(SQL, &[&owner.0, &token, &expires_at, &record, &everywhere]).await?;
        let Some(row) = first(rows) else { return Ok(None) };
        entry.note_written();
        ended_or_all(owner, Revoked::Token(token), &row).map(Some)
    }

    /// Lets a subject in as the user whom the act is about. `entry` says so.
    pub(crate) async fn link(
        &self,
        act: &Administration,
        (issuer, subject): (&str, &str),
        entry: &Entry,
    ) -> Result<LinkOutcome, StoreError> {
        const SQL: &str = "SELECT credentials.link($1, $2, $3, $4, $5)";
        let (target, record) = (act.owner(), Appended::new(entry));
        let scoped = self.pools.admin.scoped(act.context());
        let rows = scoped.write(SQL, &[&target.0, &issuer, &subject, &record]).await?;
        match sole(rows)?.try_get(0)? {
            "done" => {
                entry.note_written();
                Ok(LinkOutcome::Done)
            }
            "forbidden" => Ok(LinkOutcome::Forbidden),
            "absent" => Ok(LinkOutcome::Absent),
            "taken" => Ok(LinkOutcome::Taken),
            _ => Err(mismatch("an outcome that is none")),
        }
    }

    /// The issuers and subjects that are let in as the user whom the act is about, in order.
    pub(crate) async fn links(
        &self,
        act: &Administration,
    ) -> Result<Vec<(String, String)>, StoreError> {
        const SQL: &str = "SELECT issuer, subject FROM credentials.list_links($1, $2)";
        let scoped = self.pools.admin.scoped(act.context());
        let rows = scoped.write(SQL, &[&act.owner().0]).await?;
        rows.iter().map(|row| Ok((row.try_get("issuer")?, row.try_get("subject")?))).collect()
    }

    /// Lets a subject in no more, and ends what was begun as the user. `None`: there was no such link.
    pub(crate) async fn unlink(
        &self,
        act: &Administration,
        (issuer, subject): (&str, &str),
        entry: &Entry,
    ) -> Result<Option<Revocation>, StoreError> {
        const SQL: &str =
            "SELECT generation, expires_at FROM credentials.unlink($1, $2, $3, $4, $5)";
        let (target, record) = (act.owner(), Appended::new(entry));
        let scoped = self.pools.admin.scoped(act.context());
        let rows = scoped.write(SQL, &[&target.0, &issuer, &subject, &record]).await?;
        ended(target, rows, entry)
    }
}
