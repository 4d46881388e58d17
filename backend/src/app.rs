//! What handlers share.

use std::sync::Arc;

use memoric_config::schema::Registration;
use prometheus::IntCounterVec;
use tokio_util::task::TaskTracker;

use crate::{
    api_keys::ApiKeys,
    audit::Scribe,
    caller::Call,
    cursor::Cursors,
    devices::Devices,
    error::{ApiError, Chain},
    guesses::Guesses,
    metrics::Metrics,
    password_rules::PasswordRules,
    passwords::Passwords,
    resets::Resets,
    revocation::{Courier, Ends},
    seal::Sealing,
    sessions::Sessions,
    store::{Store, StoreError},
    tokens::Tokens,
    vault::Vault,
};

/// Everything that a request may need, each part built once.
#[derive(Clone)]
pub(crate) struct App {
    /// The database.
    pub(crate) store: Store,
    /// The keys of users.
    pub(crate) vault: Arc<Vault>,
    /// Makes records for the trail.
    pub(crate) scribe: Scribe,
    /// Hashes and verifies passwords.
    pub(crate) passwords: Passwords,
    /// What new passwords must be like.
    pub(crate) password_rules: Arc<PasswordRules>,
    /// Who has guessed at passwords, and has to wait.
    pub(crate) guesses: Arc<Guesses>,
    /// Knows devices on which somebody has logged in.
    pub(crate) devices: Arc<Devices>,
    /// Makes tokens by which a password is set anew.
    pub(crate) resets: Arc<Resets>,
    /// Makes cursors.
    pub(crate) cursors: Arc<Cursors>,
    /// Mints access tokens.
    pub(crate) tokens: Arc<Tokens>,
    /// Makes API keys.
    pub(crate) api_keys: Arc<ApiKeys>,
    /// Carries sessions on.
    pub(crate) sessions: Arc<Sessions>,
    /// Refused refreshes that the trail has told of before, by reason.
    pub(crate) repeated_refusals: IntCounterVec,
    /// Tells the gateways of revocations.
    pub(crate) courier: Arc<Courier>,
    /// Whether strangers may make themselves an account.
    pub(crate) registration: Registration,
    /// Whether what people said is sealed.
    pub(crate) sealing: Sealing,
    /// What is carried through, asked for or no longer.
    pub(crate) errands: TaskTracker,
}

impl App {
    /// Does `work` to its end, even where whoever awaits it goes away.
    ///
    /// A client that disconnects takes its request along, in the middle of whatever it does. What
    /// has to follow a commit must not depend on that.
    pub(crate) async fn carry_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.errands.spawn(work).await.map_err(ApiError::unwritable)?
    }

    /// Does `work`, which may end a credential, to its end; then tells whoever has to know before
    /// `call` is answered: the feed, Redis, and with the answer the gateway that carried it.
    pub(crate) fn revoke<T: Ends + Send + Sync + 'static>(
        &self,
        call: &Call,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, ApiError>> + Send {
        // In a box, or every handler that ends something would carry it about on the stack.
        let (courier, work) = (Arc::clone(&self.courier), Box::pin(work));
        async move {
            let carried = self.carry_through(async move {
                let came_of_it = work.await?;
                if let Some(ended) = came_of_it.ended() {
                    courier.carry(ended).await;
                }
                Ok(came_of_it)
            });
            let came_of_it = carried.await?;
            if let Some(ended) = came_of_it.ended() {
                call.revokes(ended);
            }
            Ok(came_of_it)
        }
    }

    /// Whether the database can be reached and answers.
    pub(crate) async fn is_database_up(&self) -> bool {
        match self.store.ping().await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(error = %Chain(&error), "the database does not answer");
                false
            }
        }
    }

    /// Takes the measures that nobody takes along the way.
    pub(crate) fn measure(&self, metrics: &Metrics) {
        let pools = self.store.pools();
        let roles =
            [pools.app.usage(), pools.auth.usage(), pools.admin.usage(), pools.maintenance.usage()];
        for usage in roles {
            let gauge = |state, count| {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                metrics.database_connections.with_label_values(&[usage.role, state]).set(count);
            };
            gauge("resting", usage.resting);
            gauge("free", usage.free);
        }
        metrics.redis_up.set(i64::from(self.courier.redis().answers()));
        metrics.passwords_waiting.set(i64::try_from(self.passwords.waiting()).unwrap_or(i64::MAX));
    }
}
