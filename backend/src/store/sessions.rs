//! Sessions: begun by a login, alive until they or their user's generation end.

use memoric_contract::UserId;
use uuid::Uuid;

use super::{
    Store, StoreError, fitting, sole,
    trail::{Appended, done},
};
use crate::audit::Entry;

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

impl Store {
    /// Begins a session and notes the login. `false`: the account has changed since it was read, and
    /// there is no session.
    pub(crate) async fn start_session(
        &self,
        session: &NewSession,
        entry: &Entry,
    ) -> Result<bool, StoreError> {
        const SQL: &str = "SELECT credentials.start_session($1, $2, $3, $4, $5, $6)";
        let NewSession { id, user, generation, seed, personal } = session;
        let (generation, record) = (fitting::<_, i64>(*generation)?, Appended::new(entry));
        let rows = self
            .pools
            .auth
            .call(SQL, &[&user.0, &generation, id, &seed.as_slice(), personal, &record])
            .await?;
        done(rows, entry)
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
}

#[cfg(test)]
mod tests {
    use crate::store::fixture::World;

    #[tokio::test]
    async fn sessions_that_ended_are_found_without_reading_the_others() {
        let world = World::new().await;
        let body = world
            .as_superuser("SELECT prosrc FROM pg_proc WHERE oid = 'credentials.purge'::regproc")
            .await
            .concat();
        let delete = body.split(';').find(|each| each.contains("memoric.sessions")).unwrap();

        let plan = world.as_superuser(&format!("SET enable_seqscan = off; EXPLAIN {delete}")).await;

        assert!(plan.concat().contains("sessions_ended"), "{plan:#?}");
    }
}
