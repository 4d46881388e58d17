//! The audit trail: appended to with every change, and read by admins.

use std::error::Error;

use bytes::{BufMut as _, BytesMut};
use memoric_contract::{
    Operation, UserId,
    audit::{Action, Resource},
};
use serde_json::Value;
use time::OffsetDateTime;
use tokio_postgres::{
    Row,
    types::{IsNull, Kind, ToSql, Type, to_sql_checked},
};
use uuid::Uuid;

use super::{Store, StoreError, mismatch, sole};
use crate::{
    administration::Administration,
    audit::{Entry, SealedPersonal},
    scope::{Custody as _, Scope},
};

/// Which records are wanted. What is `None` does not matter.
#[derive(Clone, Debug)]
pub(crate) struct TrailFilter {
    pub(crate) event_type: Option<String>,
    /// Who acted.
    pub(crate) subject: Option<UserId>,
    pub(crate) resource_type: Option<String>,
    pub(crate) resource_id: Option<String>,
    pub(crate) severity: Option<String>,
    pub(crate) success: Option<bool>,
    /// What stands for the address.
    pub(crate) address_hash: Option<[u8; 32]>,
    /// What stands for the name.
    pub(crate) username_hash: Option<[u8; 32]>,
    /// Only what failed, or is worse than it should be.
    pub(crate) only_notable: bool,
    /// When it happened at the earliest.
    pub(crate) since: OffsetDateTime,
    pub(crate) limit: i64,
    pub(crate) offset: i64,
}

/// How many records there are.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) total: i64,
    /// Those of each event, the most frequent first.
    pub(crate) by_event: Vec<(String, i64)>,
    pub(crate) failed: i64,
    /// Users who acted.
    pub(crate) subjects: i64,
}

/// A page of the trail.
#[derive(Clone, Debug)]
pub(crate) struct TrailPage {
    /// The newest first.
    pub(crate) rows: Vec<TrailRow>,
    /// How many records match, on this page and beyond.
    pub(crate) total: i64,
}

/// A record as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct TrailRow {
    /// Its place in the order of receipt.
    pub(crate) id: i64,
    pub(crate) event_id: Uuid,
    pub(crate) occurred_at: OffsetDateTime,
    pub(crate) event_type: String,
    pub(crate) severity: String,
    pub(crate) emitter: i16,
    pub(crate) subject: Option<UserId>,
    pub(crate) owner: Option<UserId>,
    pub(crate) credential_kind: Option<String>,
    pub(crate) credential_id: Option<String>,
    pub(crate) session_id: Option<Uuid>,
    pub(crate) request_id: Uuid,
    pub(crate) operation: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) status: Option<i16>,
    pub(crate) success: bool,
    pub(crate) resource_type: Option<String>,
    pub(crate) resource_id: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) error_message: Option<String>,
    pub(crate) metadata: Option<Value>,
    pub(crate) personal: Option<SealedPersonal>,
    /// The key that opens the personal fields, wrapped. `None`: it was destroyed.
    pub(crate) wrapped: Option<Vec<u8>>,
}

/// A record that a gateway delivered.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) entry: Entry,
    /// The id of what it was about.
    pub(crate) resource_id: Option<String>,
    /// The record of the backend's in whose place it stands, if it can be that there is one.
    pub(crate) instead_of: Option<Uuid>,
}

/// An entry as a parameter of type `audit.record`.
#[derive(Debug)]
pub(super) struct Appended<'a> {
    entry: &'a Entry,
    event_id: Uuid,
    canonical_head: Vec<u8>,
}

impl TrailFilter {
    /// Whatever happened since then.
    pub(crate) fn recent(since: OffsetDateTime, limit: i64) -> Self {
        Self {
            event_type: None,
            subject: None,
            resource_type: None,
            resource_id: None,
            severity: None,
            success: None,
            address_hash: None,
            username_hash: None,
            only_notable: false,
            since,
            limit,
            offset: 0,
        }
    }
}

impl Store {
    /// Appends a record of what changed nothing. One that is there already is not doubled.
    pub(crate) async fn append(
        &self,
        entry: &Entry,
        resource_id: Option<&str>,
    ) -> Result<(), StoreError> {
        const SQL: &str = "SELECT audit.append($1, $2)";
        match self.pools.auth.call(SQL, &[&Appended::new(entry), &resource_id]).await {
            Ok(_) => {}
            Err(error) if error.constraint() == Some(RECORDED) => {}
            Err(error) => return Err(error),
        }
        entry.note_written();
        Ok(())
    }

    /// Takes what a gateway delivered, all of it or nothing. What is known is left as it is.
    pub(crate) async fn deliver(
        &self,
        scope: &Scope,
        batch: &[Delivered],
    ) -> Result<(), StoreError> {
        const SQL: &str = "SELECT audit.deliver($1, $2, $3, $4)";
        let records: Vec<_> = batch.iter().map(|told| Appended::new(&told.entry)).collect();
        let resources: Vec<_> = batch.iter().map(|told| told.resource_id.as_deref()).collect();
        let instead_of: Vec<_> = batch.iter().map(|told| told.instead_of).collect();
        let scoped = self.pools.auth.scoped(scope.context());
        scoped.write(SQL, &[&records, &resources, &instead_of]).await?;
        Ok(())
    }

    /// The records that match, the newest first, and how many there are.
    pub(crate) async fn read_trail(
        &self,
        act: &Administration,
        filter: &TrailFilter,
    ) -> Result<TrailPage, StoreError> {
        let TrailFilter {
            event_type,
            subject,
            resource_type,
            resource_id,
            severity,
            success,
            address_hash,
            username_hash,
            only_notable,
            since,
            limit,
            offset,
        } = filter;
        let subject = subject.map(|UserId(subject)| subject);
        let address_hash = address_hash.as_ref().map(<[u8; 32]>::as_slice);
        let username_hash = username_hash.as_ref().map(<[u8; 32]>::as_slice);
        let rows = self
            .pools
            .admin
            .scoped(act.context())
            .read(
                READ_TRAIL,
                &[
                    since,
                    event_type,
                    &subject,
                    resource_type,
                    resource_id,
                    severity,
                    success,
                    &address_hash,
                    &username_hash,
                    only_notable,
                    limit,
                    offset,
                ],
            )
            .await?;
        TrailPage::read(&rows)
    }

    /// How many records there are of what happened `since`.
    pub(crate) async fn count_trail(
        &self,
        act: &Administration,
        since: OffsetDateTime,
    ) -> Result<Counts, StoreError> {
        let rows = self.pools.admin.scoped(act.context()).read(COUNT_TRAIL, &[&since]).await?;
        let (all, each) =
            rows.split_first().ok_or_else(|| mismatch("a count of the trail without a total"))?;
        ensure_open(all)?;
        let of_event = |row: &Row| Ok((row.try_get("event_type")?, row.try_get("total")?));
        Ok(Counts {
            total: all.try_get("total")?,
            by_event: each.iter().map(of_event).collect::<Result<_, StoreError>>()?,
            failed: all.try_get("failed")?,
            subjects: all.try_get("subjects")?,
        })
    }
}

impl<'a> Appended<'a> {
    pub(super) fn new(entry: &'a Entry) -> Self {
        let personal = entry.personal.as_ref().map_or(&[][..], |personal| &personal.bytes);
        Self {
            entry,
            event_id: entry.record.id(),
            canonical_head: entry.record.canonical_head(personal),
        }
    }

    /// Writes the value of one attribute of the type.
    fn write(&self, name: &str, ty: &Type, out: &mut BytesMut) -> Written {
        let record = &self.entry.record;
        let (kind, credential) =
            record.credential.as_ref().map(|(kind, id)| (kind.name(), id)).unzip();
        let personal = self.entry.personal.as_ref();
        let value: &dyn ToSql = match name {
            "event_id" => &self.event_id,
            "occurred_at" => &record.occurred_at,
            "emitter" => &i16::from(record.emitter.code()),
            "event_type" => &record.event.name(),
            "severity" => &record.severity.name(),
            "subject" => &record.subject.map(|user| user.0),
            "owner" => &record.owner.map(|user| user.0),
            "credential_kind" => &kind,
            "credential_id" => &credential,
            "session_id" => &record.session,
            "request_id" => &record.request.0,
            "operation" => &record.operation.map(Operation::name),
            "action" => &record.action.map(Action::name),
            "method" => &record.operation.map(Operation::method),
            "path" => &record.operation.map(Operation::path),
            "status" => &record.status.map(i16::try_from).transpose()?,
            "success" => &record.success,
            "resource_type" => &record.resource.map(Resource::name),
            "namespace" => &record.namespace,
            "description" => &record.description,
            "error_message" => &record.error_message,
            "metadata" => &record.metadata,
            "personal" => &personal.map(|personal| personal.bytes.as_slice()),
            "personal_subject" => &personal.map(|personal| personal.subject),
            "address_hash" => &self.entry.address_hash.as_ref().map(<[u8; 32]>::as_slice),
            "username_hash" => &self.entry.username_hash.as_ref().map(<[u8; 32]>::as_slice),
            "canonical_head" => &self.canonical_head,
            unknown => return Err(format!("a record has no {unknown}").into()),
        };
        value.to_sql_checked(ty, out)
    }
}

impl ToSql for Appended<'_> {
    /// Writes the binary form of a composite: how many attributes, then type, length and value of each.
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Written {
        let Kind::Composite(attributes) = ty.kind() else {
            return Err("a record is composite".into());
        };
        out.put_i32(i32::try_from(attributes.len())?);
        let mut value = BytesMut::new();
        for attribute in attributes {
            out.put_u32(attribute.type_().oid());
            value.clear();
            match self.write(attribute.name(), attribute.type_(), &mut value)? {
                IsNull::Yes => out.put_i32(-1),
                IsNull::No => {
                    out.put_i32(i32::try_from(value.len())?);
                    out.extend_from_slice(&value);
                }
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        (ty.schema(), ty.name()) == ("audit", "record")
    }

    to_sql_checked!();
}

impl TrailPage {
    fn read(rows: &[Row]) -> Result<Self, StoreError> {
        let head = rows.first().ok_or_else(|| mismatch("a page of the trail without a total"))?;
        ensure_open(head)?;
        let total = head.try_get("total")?;
        // Where nothing is on the page, its one row has a total and nothing else.
        let is_empty = head.try_get::<_, Option<i64>>("id")?.is_none();
        let on_page = if is_empty { &[][..] } else { rows };
        Ok(Self { rows: on_page.iter().map(TrailRow::read).collect::<Result<_, _>>()?, total })
    }
}

impl TrailRow {
    fn read(row: &Row) -> Result<Self, StoreError> {
        let personal: Option<Vec<u8>> = row.try_get("personal")?;
        let of_subject: Option<i64> = row.try_get("personal_subject")?;
        Ok(Self {
            id: row.try_get("id")?,
            event_id: row.try_get("event_id")?,
            occurred_at: row.try_get("occurred_at")?,
            event_type: row.try_get("event_type")?,
            severity: row.try_get("severity")?,
            emitter: row.try_get("emitter")?,
            subject: row.try_get::<_, Option<i64>>("subject")?.map(UserId),
            owner: row.try_get::<_, Option<i64>>("owner")?.map(UserId),
            credential_kind: row.try_get("credential_kind")?,
            credential_id: row.try_get("credential_id")?,
            session_id: row.try_get("session_id")?,
            request_id: row.try_get("request_id")?,
            operation: row.try_get("operation")?,
            action: row.try_get("action")?,
            method: row.try_get("method")?,
            path: row.try_get("path")?,
            status: row.try_get("status")?,
            success: row.try_get("success")?,
            resource_type: row.try_get("resource_type")?,
            resource_id: row.try_get("resource_id")?,
            namespace: row.try_get("namespace")?,
            description: row.try_get("description")?,
            error_message: row.try_get("error_message")?,
            metadata: row.try_get("metadata")?,
            personal: personal
                .zip(of_subject)
                .map(|(bytes, subject)| SealedPersonal { bytes, subject }),
            wrapped: row.try_get("wrapped")?,
        })
    }
}

/// Whether it was done, and with it what `entry` says.
pub(super) fn done(rows: Vec<Row>, entry: &Entry) -> Result<bool, StoreError> {
    let is_done = sole(rows)?.try_get(0)?;
    if is_done {
        entry.note_written();
    }
    Ok(is_done)
}

/// Refuses an answer in which the trail was not to be seen.
fn ensure_open(row: &Row) -> Result<(), StoreError> {
    if row.try_get("is_open")? {
        return Ok(());
    }
    Err(mismatch("the trail is not open to the context"))
}

type Written = Result<IsNull, Box<dyn Error + Sync + Send>>;

/// What happened since `$1`. Partitions that were full before that are not looked at: a record is
/// received after it happened, or, by a clock that is ahead, an hour before at most.
macro_rules! recent {
    () => {
        "trail.occurred_at >= $1 AND trail.received_at >= $1 - interval '1 hour'"
    };
}

/// Whether the policies of the trail let the context read it. Where they do not they show nothing, which
/// nobody may take for a trail without a record.
macro_rules! is_open {
    () => {
        "sec.administers('read_audit', 'read_user_audit', 'read_security_audit', 'count_audit') AS is_open"
    };
}

/// What a filter means.
macro_rules! matching {
    () => {
        concat!(
            recent!(),
            "
             AND ($2::text IS NULL OR trail.event_type = $2)
             AND ($3::bigint IS NULL OR trail.subject = $3)
             AND ($4::text IS NULL OR trail.resource_type = $4)
             AND ($5::text IS NULL OR trail.resource_id = $5)
             AND ($6::text IS NULL OR trail.severity = $6)
             AND ($7::boolean IS NULL OR trail.success = $7)
             AND ($8::bytea IS NULL OR trail.address_hash = $8)
             AND ($9::bytea IS NULL OR trail.username_hash = $9)
             AND (NOT $10 OR NOT trail.success OR trail.severity IN ('warning', 'error', 'critical'))"
        )
    };
}

const READ_TRAIL: &str = concat!(
    "SELECT counted.is_open, counted.total, page.id, page.event_id, page.occurred_at, page.event_type, page.severity, page.emitter,
            page.subject, page.owner, page.credential_kind, page.credential_id, page.session_id, page.request_id,
            page.operation, page.action, page.method, page.path, page.status, page.success, page.resource_type,
            page.resource_id, page.namespace, page.description, page.error_message, page.metadata, page.personal,
            page.personal_subject, keys.wrapped
     FROM (SELECT count(*) AS total, ",
    is_open!(),
    " FROM audit.trail WHERE ",
    matching!(),
    ") AS counted
     LEFT JOIN (
         SELECT trail.id, trail.event_id, trail.occurred_at, trail.event_type, trail.severity, trail.emitter,
                trail.subject, trail.owner, trail.credential_kind, trail.credential_id, trail.session_id,
                trail.request_id, trail.operation, trail.action, trail.method, trail.path, trail.status,
                trail.success, trail.resource_type, trail.resource_id, trail.namespace, trail.description,
                trail.error_message, trail.metadata, trail.personal, trail.personal_subject
         FROM audit.trail WHERE ",
    matching!(),
    "    ORDER BY trail.id DESC LIMIT $11 OFFSET $12
     ) AS page ON true
     LEFT JOIN audit.subject_keys AS keys ON keys.subject = page.personal_subject
     ORDER BY page.id DESC"
);

/// The total comes first, without an event.
const COUNT_TRAIL: &str = concat!(
    "SELECT trail.event_type, count(*) AS total, count(*) FILTER (WHERE NOT trail.success) AS failed,
            count(DISTINCT trail.subject) AS subjects, ",
    is_open!(),
    " FROM audit.trail WHERE ",
    recent!(),
    " GROUP BY GROUPING SETS ((), (trail.event_type))
     ORDER BY grouping(trail.event_type) DESC, total DESC, trail.event_type"
);

/// The constraint by which a second record of one event is refused.
const RECORDED: &str = "event_ids_pkey";

#[cfg(test)]
mod tests {
    use memoric_contract::{
        CredentialKind, Role,
        audit::{Emitter, EventType, Record, Severity},
    };
    use serde_json::json;
    use time::Duration;

    use super::*;
    use crate::store::{
        Context,
        fixture::{World, act, entry, scope},
    };

    #[tokio::test]
    async fn a_record_is_read_as_it_was_appended() {
        let world = World::new().await;
        let mut entry = entry(EventType::AccessDenied, Some(world.alice));
        entry.record = Record {
            severity: Severity::Warning,
            credential: Some((CredentialKind::AccessToken, "jti".to_owned())),
            session: Some(Uuid::from_u128(7)),
            operation: Some(Operation::RecallMemories),
            action: Some(Action::Read),
            status: Some(403),
            success: false,
            resource: Some(Resource::Memory),
            namespace: Some("company.a".to_owned()),
            description: Some("why".to_owned()),
            error_message: Some("what".to_owned()),
            metadata: Some(json!({ "a": [1, null] })),
            digest: Some([9; 32]),
            ..entry.record
        };
        entry.personal = Some(SealedPersonal { bytes: b"sealed".to_vec(), subject: world.alice.0 });
        entry.address_hash = Some([1; 32]);
        entry.username_hash = Some([2; 32]);
        world.store.subject_key(world.alice.0, b"key").await.unwrap();

        world.store.append(&entry, Some("µ42")).await.unwrap();

        let page =
            world.read(&TrailFilter { severity: Some("warning".to_owned()), ..everything() }).await;
        let [row] = page.rows.as_slice() else { panic!("{page:?}") };
        assert_eq!(
            (row.event_id, row.event_type.as_str()),
            (entry.record.id(), "authz.access.denied")
        );
        assert_eq!((row.method.as_deref(), row.path.as_deref()), (Some("GET"), Some("/memories")));
        assert_eq!(
            (row.status, row.success, row.action.as_deref()),
            (Some(403), false, Some("read"))
        );
        assert_eq!(
            (row.resource_type.as_deref(), row.resource_id.as_deref()),
            (Some("memory"), Some("µ42"))
        );
        assert_eq!(row.metadata, Some(json!({ "a": [1, null] })));
        assert_eq!((row.subject, row.session_id), (Some(world.alice), Some(Uuid::from_u128(7))));
        assert_eq!(row.personal.as_ref().unwrap().bytes, b"sealed");
        assert_eq!(row.wrapped.as_deref(), Some(&b"key"[..]));
        let head = hex::encode(entry.record.canonical_head(b"sealed"));
        let canonical =
            "SELECT encode(canonical, 'hex') FROM audit.trail WHERE severity = 'warning'";
        assert_eq!(
            world.as_superuser(canonical).await,
            [format!("{head}00000004c2b53432")],
            "the id comes last"
        );
    }

    #[tokio::test]
    async fn a_retry_does_not_double_a_record() {
        let world = World::new().await;
        let failed = entry(EventType::LoginFailed, None);

        world.store.append(&failed, None).await.unwrap();
        world.store.append(&failed, None).await.unwrap();

        let page = world
            .read(&TrailFilter { event_type: Some("auth.login.failed".to_owned()), ..everything() })
            .await;
        assert_eq!((page.rows.len(), page.total), (1, 1));
        assert_eq!((page.rows[0].subject, page.rows[0].personal.is_none()), (None, true));
    }

    #[tokio::test]
    async fn every_filter_narrows_and_the_total_counts_beyond_the_page() {
        let world = World::new().await;
        for number in 0..5 {
            let mut denied = entry(EventType::AccessDenied, Some(world.bob));
            denied.record.success = false;
            denied.record.resource = Some(Resource::Memory);
            denied.record.severity = Severity::Warning;
            denied.record.occurred_at -= Duration::hours(number);
            denied.address_hash = (number == 0).then_some([1; 32]);
            world.store.append(&denied, Some(&format!("{number}"))).await.unwrap();
        }
        let count = async |filter: TrailFilter| {
            let page = world.read(&filter).await;
            (page.rows.len(), page.total)
        };
        let text = |text: &str| Some(text.to_owned());

        assert_eq!(count(everything()).await, (7, 7), "two registrations, five refusals");
        assert_eq!(
            count(TrailFilter { event_type: text("user.created"), ..everything() }).await,
            (2, 2)
        );
        assert_eq!(count(TrailFilter { subject: Some(world.bob), ..everything() }).await, (6, 6));
        assert_eq!(count(TrailFilter { subject: Some(UserId(0)), ..everything() }).await, (0, 0));
        assert_eq!(
            count(TrailFilter { resource_type: text("memory"), ..everything() }).await,
            (5, 5)
        );
        assert_eq!(count(TrailFilter { resource_id: text("3"), ..everything() }).await, (1, 1));
        assert_eq!(count(TrailFilter { severity: text("warning"), ..everything() }).await, (5, 5));
        assert_eq!(count(TrailFilter { success: Some(true), ..everything() }).await, (2, 2));
        assert_eq!(count(TrailFilter { only_notable: true, ..everything() }).await, (5, 5));
        let hash = Some([1; 32]);
        assert_eq!(count(TrailFilter { address_hash: hash, ..everything() }).await, (1, 1));
        assert_eq!(count(TrailFilter { username_hash: hash, ..everything() }).await, (0, 0));
        assert_eq!(count(TrailFilter { limit: 2, offset: 4, ..everything() }).await, (2, 7));
        assert_eq!(count(TrailFilter { limit: 5, offset: 4, ..everything() }).await, (3, 7));
        assert_eq!(count(TrailFilter { limit: 7, ..everything() }).await, (7, 7), "just full");
        assert_eq!(
            count(TrailFilter { offset: 7, ..everything() }).await,
            (0, 7),
            "beyond the end"
        );
        let since = OffsetDateTime::now_utc() - Duration::minutes(90);
        assert_eq!(count(TrailFilter { since, ..everything() }).await, (4, 4));
        let newest_first: Vec<_> =
            world.read(&everything()).await.rows.iter().map(|row| row.id).collect();
        assert!(newest_first.is_sorted_by(|one, next| one > next));
    }

    #[tokio::test]
    async fn the_trail_is_counted() {
        let world = World::new().await;
        for _ in 0..3 {
            let mut denied = entry(EventType::AccessDenied, Some(world.bob));
            denied.record.success = false;
            world.store.append(&denied, None).await.unwrap();
        }
        let count = async |operation, since| {
            world.store.count_trail(&act(world.alice, Role::Admin, operation), since).await
        };
        let now = OffsetDateTime::now_utc();

        let counts = count(Operation::CountAudit, now - Duration::hours(1)).await.unwrap();

        assert_eq!((counts.total, counts.failed, counts.subjects), (5, 3, 2));
        let by_event = [("authz.access.denied".to_owned(), 3), ("user.created".to_owned(), 2)];
        assert_eq!(counts.by_event, by_event);
        let ahead = count(Operation::CountAudit, now + Duration::hours(1)).await.unwrap();
        assert_eq!(ahead.total, 0);
        let elsewhere = count(Operation::RecallMemories, now - Duration::hours(1)).await;
        assert!(elsewhere.is_err(), "not allowed is no trail without a record");
    }

    #[tokio::test]
    async fn the_trail_is_for_admins_who_come_to_read_it() {
        let world = World::new().await;
        let seen = async |role, operation| {
            const COUNT: &str = "SELECT count(*) FROM audit.trail";
            let act = act(world.alice, role, operation);
            let admin = world.store.pools().admin.scoped(act.context());
            let rows: i64 = admin.read(COUNT, &[]).await.unwrap()[0].get(0);
            let page = world.store.read_trail(&act, &everything()).await;
            (rows, page.map(|page| page.total).ok())
        };

        assert_eq!(seen(Role::Admin, Operation::ReadAudit).await, (2, Some(2)));
        for (role, operation) in [
            (Role::User, Operation::ReadAudit),
            (Role::Readonly, Operation::ReadAudit),
            (Role::Admin, Operation::RecallMemories),
        ] {
            let refused = (0, None);
            assert_eq!(seen(role, operation).await, refused, "{role:?}: not a page without rows");
        }
    }

    #[tokio::test]
    async fn who_writes_the_trail_can_neither_change_nor_empty_it() {
        let world = World::new().await;
        let pools = world.store.pools();
        let admin = scope(world.alice, Role::Admin, Operation::ReadAudit);

        for sql in [
            "UPDATE audit.trail SET success = true",
            "DELETE FROM audit.trail",
            "TRUNCATE audit.trail",
            "DROP TABLE audit.trail",
            "ALTER TABLE audit.trail DISABLE ROW LEVEL SECURITY",
            "DELETE FROM audit.trail_default",
            "DELETE FROM audit.event_ids",
            "DELETE FROM audit.subject_keys",
            "SET ROLE memoric_trail",
        ] {
            for refused in [
                pools.auth.call(sql, &[]).await,
                pools.app.call(sql, &[]).await,
                pools.maintenance.call(sql, &[]).await,
                pools.admin.call(sql, &[]).await,
            ] {
                assert_eq!(refused.unwrap_err().code().unwrap().code(), "42501", "{sql}");
            }
            assert!(
                pools
                    .admin
                    .scoped(admin.context())
                    .begin()
                    .await
                    .unwrap()
                    .query(sql, &[])
                    .await
                    .is_err(),
                "{sql}"
            );
        }
        assert_eq!(world.as_superuser("SELECT count(*) FROM audit.trail").await, ["2"]);
    }

    #[tokio::test]
    async fn nobody_speaks_in_another_name() {
        const SQL: &str = "SELECT audit.append($1, NULL)";
        let world = World::new().await;
        let app = &world.store.pools().app;
        let scope = scope(world.alice, Role::User, Operation::RememberMemory);
        let (own, stranger, other) = (
            entry(EventType::MemoryCreated, Some(world.alice)),
            entry(EventType::MemoryCreated, None),
            entry(EventType::MemoryCreated, Some(world.bob)),
        );

        for (entry, case) in [(&stranger, "nobody's"), (&other, "Bob's")] {
            let mut tx = app.scoped(scope.context()).begin().await.unwrap();
            let refused = tx.query(SQL, &[&Appended::new(entry)]).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "28000", "{case}");
        }
        let unscoped = app.call(SQL, &[&Appended::new(&stranger)]).await.unwrap_err();
        assert_eq!(unscoped.code().unwrap().code(), "28000", "without a context");
        let mut tx = app.scoped(scope.context()).begin().await.unwrap();
        tx.query(SQL, &[&Appended::new(&own)]).await.unwrap();
    }

    #[tokio::test]
    async fn a_delivery_is_a_gateways_and_of_its_own_records() {
        let world = World::new().await;
        let delivered = |emitter, event| {
            let mut entry = entry(event, None);
            entry.record.emitter = emitter;
            [Delivered { entry, resource_id: None, instead_of: None }]
        };
        let read = delivered(Emitter::Gateway, EventType::MemoryRetrieved);
        let context = Context {
            user: UserId(0),
            target: UserId(0),
            role: "none",
            namespace: None,
            purpose: "internal_deliver_records",
        };
        let deliver = async |purpose, batch: &[Delivered]| {
            let context = Context { purpose, ..context.clone() };
            let refused = world.store.deliver(&Scope::in_context(context), batch).await.err();
            refused.map(|error| error.code().unwrap().code().to_owned())
        };

        assert_eq!(deliver("internal_deliver_records", &read).await, None);
        assert_eq!(deliver("read_audit", &read).await.as_deref(), Some("28000"));
        for emitter in [Emitter::Backend, Emitter::Console] {
            let forged = delivered(emitter, EventType::MemoryCreated);
            let refused = deliver("internal_deliver_records", &forged).await;
            assert_eq!(refused.as_deref(), Some("28000"), "{emitter:?}");
        }
        for role in ["memoric_app", "memoric_admin", "memoric_maintenance"] {
            let may = format!(
                "SELECT has_function_privilege('{role}', 'audit.deliver(text, audit.record[], text[], uuid[])', 'EXECUTE')"
            );
            assert_eq!(world.as_superuser(&may).await, ["f"], "{role}");
        }
    }

    #[tokio::test]
    async fn there_is_a_partition_for_this_month_and_the_next() {
        let world = World::new().await;
        let partitions =
            "SELECT count(*) FROM pg_inherits WHERE inhparent = 'audit.trail'::regclass";
        assert_eq!(world.as_superuser(partitions).await, ["5"], "four months and the default");

        world.store.make_partitions(5).await.unwrap();
        world.store.make_partitions(5).await.unwrap();

        assert_eq!(world.as_superuser(partitions).await, ["7"]);
        assert_eq!(world.as_superuser("SELECT count(*) FROM audit.trail_default").await, ["0"]);
    }

    impl World {
        async fn read(&self, filter: &TrailFilter) -> TrailPage {
            let act = act(self.alice, Role::Admin, Operation::ReadAudit);
            self.store.read_trail(&act, filter).await.unwrap()
        }
    }

    fn everything() -> TrailFilter {
        TrailFilter::recent(OffsetDateTime::now_utc() - Duration::hours(24), 100)
    }
}
