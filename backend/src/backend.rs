//! A backend, from its settings to its last request.

mod listener;
mod opening;
mod private;
mod serving;
mod tasks;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{api::Api, caller::Gatekeeper, config::Config, metrics::Metrics, tokens::Tokens};

pub(crate) use self::opening::{ensure_right_key, ensure_same_sealing, ring_key, service_secrets};
pub use self::{listener::Addr, opening::StartError};
use self::{listener::Listener, opening::Unfit, private::Private};

/// A backend that has its place and its database, and is ready to serve.
pub struct Backend {
    listener: Listener,
    private: Option<Private>,
    api: Arc<Api>,
    tasks: tasks::Tasks,
    tokens: Arc<Tokens>,
    errands: TaskTracker,
    grace: Duration,
}

/// What can be changed while a backend serves.
#[derive(Clone)]
pub struct Reins {
    tokens: Arc<Tokens>,
}

impl Reins {
    /// Signs and believes tokens by the keys of `config` from now on, and by no others. Everything else
    /// stays as it was.
    pub fn take_up(&self, config: Config) {
        let keys = config.token_ring.keys();
        tracing::info!(?keys, "the keys of access tokens are in force");
        self.tokens.replace_keys(config.token_ring);
    }
}

impl Backend {
    /// Takes the place, opens the database and its keys, and refuses to go on where anything is not
    /// as it must be. Serves nothing yet.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let metrics = Arc::new(Metrics::new().map_err(Unfit::from)?);
        let listener =
            Listener::bind(&config.listen, config.gateway_uid, metrics.strangers.clone()).await?;
        let private = Private::bind(config.metrics).await?;
        let app = opening::open(&config, &metrics).await?;
        let private = private.map(|bound| bound.serving(&app, &metrics));
        let tasks = tasks::Tasks::new(&app, &metrics);
        let (errands, tokens) = (app.errands.clone(), Arc::clone(&app.tokens));
        let gatekeeper =
            Gatekeeper::new(memoric_contract::AssertionKey::new(*config.assertion_key.expose()));
        let api = Arc::new(Api::new(app, gatekeeper, metrics));
        Ok(Self { listener, private, api, tasks, tokens, errands, grace: config.grace })
    }

    /// Where the gateway connects.
    pub fn addr(&self) -> io::Result<Addr> {
        self.listener.addr()
    }

    /// Where Prometheus connects, if it may.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.private.as_ref().map(Private::addr)
    }

    /// What can be changed while it serves.
    pub fn reins(&self) -> Reins {
        Reins { tokens: Arc::clone(&self.tokens) }
    }

    /// Serves until `shutdown` resolves, then lets requests in flight end, but not for ever.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let background = TaskTracker::new();
        let stop = CancellationToken::new();
        self.tasks.spawn(&background, &stop);
        if let Some(private) = self.private {
            background.spawn(private.run(stop.clone()));
        }
        background.close();

        serving::serve(self.listener, self.api, self.grace, shutdown).await;
        self.errands.close();
        self.errands.wait().await;

        stop.cancel();
        background.wait().await;
    }
}
