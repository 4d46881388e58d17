//! Wrapped keys: of users, of audit subjects, of the service, and what tells the right ring from a wrong one.

use memoric_contract::UserId;
use tokio_postgres::Row;

use super::{Store, StoreError, fitting, mismatch, sole};
use crate::scope::Reach;

/// One key of a user, as it rests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct WrappedKey {
    /// 0 is the index key, the others are data keys.
    pub(crate) version: u32,
    /// `None`: it was destroyed.
    pub(crate) wrapped: Option<Vec<u8>>,
}

impl Store {
    /// Every key of the scope's owner, by rising version. None at all: nothing was ever written.
    pub(crate) async fn user_keys<R: Reach>(
        &self,
        scope: &R,
    ) -> Result<Vec<WrappedKey>, StoreError> {
        const SQL: &str =
            "SELECT version, wrapped FROM memoric.user_keys WHERE user_id = $1 ORDER BY version";
        let UserId(owner) = scope.owner();
        let rows = R::pool(&self.pools).scoped(scope.context()).read(SQL, &[&owner]).await?;
        rows.iter().map(WrappedKey::read).collect()
    }

    /// The same, after `index` and `data` became the owner's first keys if there were none.
    pub(crate) async fn keep_user_keys<R: Reach>(
        &self,
        scope: &R,
        index: &[u8],
        data: &[u8],
    ) -> Result<Vec<WrappedKey>, StoreError> {
        const SQL: &str = "SELECT version, wrapped FROM memoric.keep_keys($1, $2, $3, $4)";
        let UserId(owner) = scope.owner();
        let scoped = R::pool(&self.pools).scoped(scope.context());
        let rows = scoped.write(SQL, &[&owner, &index, &data]).await?;
        rows.iter().map(WrappedKey::read).collect()
    }

    /// The key for the personal fields of an audit subject, after `candidate` became it if there was none.
    /// `None`: it was destroyed.
    pub(crate) async fn subject_key(
        &self,
        subject: i64,
        candidate: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        const SQL: &str = "SELECT wrapped FROM audit.subject_key($1, $2)";
        let row = sole(self.pools.auth.call(SQL, &[&subject, &candidate]).await?)?;
        Ok(row.try_get("wrapped")?)
    }

    /// A secret of the service, after `candidate` became it if there was none.
    pub(crate) async fn service_key(
        &self,
        number: i32,
        candidate: &[u8],
    ) -> Result<Vec<u8>, StoreError> {
        const SQL: &str = "SELECT credentials.service_key($1, $2)";
        let row = sole(self.pools.auth.call(SQL, &[&number, &candidate]).await?)?;
        Ok(row.try_get(0)?)
    }

    /// Whether a secret of the service is stored: the first start makes them all.
    pub(crate) async fn has_service_key(&self, number: i32) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.service_key($1, NULL) IS NOT NULL";
        let row = sole(self.pools.auth.call(SQL, &[&number]).await?)?;
        Ok(row.try_get(0)?)
    }

    /// The ring entries that this database was written with, each with its check value, after `id`
    /// became the first of them if there were none.
    pub(crate) async fn ring_entries(
        &self,
        id: &[u8; 8],
        check_value: &[u8; 32],
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        const SQL: &str = "SELECT ring_id, check_of FROM credentials.ring_entries($1, $2)";
        let rows = self.pools.auth.call(SQL, &[&id.as_slice(), &check_value.as_slice()]).await?;
        rows.iter().map(|row| Ok((row.try_get("ring_id")?, row.try_get("check_of")?))).collect()
    }

    /// Whether content is sealed in this database: as the first start `wanted` it.
    pub(crate) async fn keep_sealing(&self, wanted: bool) -> Result<bool, StoreError> {
        self.sealing_or(Some(wanted)).await?.ok_or_else(|| mismatch("nothing says how to seal"))
    }

    /// The same, where there was a first start.
    pub(crate) async fn sealing(&self) -> Result<Option<bool>, StoreError> {
        self.sealing_or(None).await
    }

    async fn sealing_or(&self, wanted: Option<bool>) -> Result<Option<bool>, StoreError> {
        const SQL: &str = "SELECT credentials.seals_content($1)";
        let row = sole(self.pools.auth.call(SQL, &[&wanted]).await?)?;
        Ok(row.try_get(0)?)
    }
}

impl WrappedKey {
    fn read(row: &Row) -> Result<Self, StoreError> {
        let version = fitting(row.try_get::<_, i32>("version")?)?;
        Ok(Self { version, wrapped: row.try_get("wrapped")? })
    }
}

#[cfg(test)]
mod tests {
    use memoric_contract::{Operation, Role};

    use crate::{
        scope::Custody as _,
        store::fixture::{World, scope},
    };

    #[tokio::test]
    async fn of_two_first_writes_both_get_the_keys_of_one() {
        let World { store, alice, .. } = World::new().await;
        let scope = scope(alice, Role::User, Operation::RememberMemory);

        let (one, other) = tokio::join!(
            store.keep_user_keys(&scope, b"index 1", b"data 1"),
            store.keep_user_keys(&scope, b"index 2", b"data 2"),
        );

        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.len(), 2);
        assert_eq!(one, other);
        assert_eq!(store.user_keys(&scope).await.unwrap(), one);
    }

    #[tokio::test]
    async fn keys_are_their_owners() {
        let world = World::new().await;
        world.make_keys(&scope(world.alice, Role::User, Operation::RememberMemory)).await;

        let of_bob = scope(world.bob, Role::User, Operation::RememberMemory);
        assert_eq!(world.store.user_keys(&of_bob).await.unwrap(), []);

        let readonly = scope(world.bob, Role::Readonly, Operation::RememberMemory);
        let refused = world.store.keep_user_keys(&readonly, b"index", b"data").await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "who may not write makes no keys");
    }

    #[tokio::test]
    async fn no_key_is_made_for_who_was_erased() {
        let world = World::new().await;
        let scope = scope(world.alice, Role::User, Operation::RememberMemory);
        world.make_keys(&scope).await;
        world.as_superuser("UPDATE memoric.user_keys SET wrapped = NULL").await;

        let kept = world.store.keep_user_keys(&scope, b"index", b"data").await.unwrap();
        assert!(kept.iter().all(|key| key.wrapped.is_none()), "a destroyed key stays destroyed");

        let mut tx = world.store.pools().app.scoped(scope.context()).begin().await.unwrap();
        let next = tx
            .query("INSERT INTO memoric.user_keys VALUES ($1, 2, 'data')", &[&world.alice.0])
            .await;
        assert_eq!(
            next.unwrap_err().constraint(),
            Some("user_keys_owner_lives"),
            "nor a later one"
        );
    }

    #[tokio::test]
    async fn the_first_ring_is_the_ring() {
        let World { store, .. } = World::new().await;

        let (one, other) = tokio::join!(
            store.ring_entries(&[1; 8], &[1; 32]),
            store.ring_entries(&[2; 8], &[2; 32])
        );

        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(one.len(), 1);
        assert_eq!(one, other);
    }

    #[tokio::test]
    async fn the_first_start_says_whether_content_is_sealed() {
        let World { store, .. } = World::new().await;
        assert_eq!(store.sealing().await.unwrap(), None, "asking says nothing");

        let (one, other) = tokio::join!(store.keep_sealing(true), store.keep_sealing(false));

        let first = one.unwrap();
        assert_eq!(other.unwrap(), first, "of two first starts one wins");
        assert_eq!(store.keep_sealing(!first).await.unwrap(), first);
        assert_eq!(store.sealing().await.unwrap(), Some(first));
    }

    #[tokio::test]
    async fn a_service_key_is_made_once() {
        let World { store, .. } = World::new().await;

        assert_eq!(store.service_key(1, b"first").await.unwrap(), b"first");
        assert_eq!(store.service_key(1, b"second").await.unwrap(), b"first");
        assert_eq!(store.service_key(2, b"second").await.unwrap(), b"second");
    }

    #[tokio::test]
    async fn a_subject_key_is_made_once_and_destroyed_for_good() {
        let world = World::new().await;

        assert_eq!(world.store.subject_key(-202_611, b"first").await.unwrap().unwrap(), b"first");
        assert_eq!(world.store.subject_key(-202_611, b"second").await.unwrap().unwrap(), b"first");
        world.as_superuser("UPDATE audit.subject_keys SET wrapped = NULL").await;
        assert_eq!(world.store.subject_key(-202_611, b"third").await.unwrap(), None);
    }
}
