//! The Redis that the settings describe: one server, the master that sentinels name, or a cluster.

mod form;
mod place;

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use redis::{
    Client, ClientTlsConfig, Cmd, ConnectionInfo, RedisError, RedisResult, TlsCertificates, Value,
    aio::{ConnectionLike as _, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
};
use secrecy::{ExposeSecret as _, SecretString};
use thiserror::Error;
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use self::form::Form;
pub use self::place::Place;
use crate::{
    environment::Environment,
    error::{ConfigError, Invalid},
    pem, schema,
};

/// Redis, whichever form it has.
///
/// It is connected to when it is first asked, and again whenever a connection has failed. Nothing
/// that it is asked waits for longer than whoever asks.
pub struct Redis {
    /// The setting that says where it is.
    setting: &'static str,
    prefix: String,
    places: Vec<Place>,
    cluster: Option<ClusterClient>,
    open: Mutex<Open>,
    answers: AtomicBool,
}

/// Why Redis gave no answer.
#[derive(Debug, Error)]
pub enum RedisFailure {
    /// It could not be reached, or it refused.
    #[error("redis: {0}")]
    Refused(#[from] RedisError),
    /// It took too long.
    #[error("redis did not answer in time")]
    Late,
}

/// As whom Redis is asked, and how it is known to be the right one.
struct Access {
    user: Option<String>,
    password: Option<SecretString>,
    sentinel_password: Option<SecretString>,
    tls: Option<TlsCertificates>,
}

/// The connection that is open, if one is. They are numbered, so that one that failed is given up
/// and not the one after it.
#[derive(Default)]
struct Open {
    number: u64,
    line: Option<Line>,
}

#[derive(Clone)]
enum Line {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Refuses settings that describe no Redis.
pub(crate) fn ensure_possible(settings: &schema::Redis) -> Result<(), Invalid> {
    let form = Form::new(settings)?;
    let lacks = |field, reason| Err(Invalid::new(field, reason));
    if form.is_tls() && settings.ca.is_none() {
        return lacks("redis.ca", "is not set, and rediss:// needs it");
    }
    match (&settings.certificate, &settings.key) {
        (Some(_), None) => return lacks("redis.key", "is not set, and redis.certificate needs it"),
        (None, Some(_)) => return lacks("redis.certificate", "is not set, and redis.key needs it"),
        _ => {}
    }
    let files = [("redis.ca", &settings.ca), ("redis.certificate", &settings.certificate)];
    match files.into_iter().find(|(_, file)| file.is_some()) {
        // Whoever names one believes that what is said is encrypted.
        Some((field, _)) if !form.is_tls() => lacks(field, "is set, and is for rediss:// alone"),
        _ => Ok(()),
    }
}

impl Redis {
    /// The Redis of `settings`, its passwords from `environment`. It is not connected to yet.
    pub fn new(settings: &schema::Redis, environment: &Environment) -> Result<Self, Invalid> {
        ensure_possible(settings)?;
        let form = Form::new(settings)?;
        let access = Access::new(settings, environment, form.is_tls())?;
        let setting = form.setting();
        let mut cluster = None;
        let places = match form {
            Form::Server(info) => vec![access.place(info)?],
            Form::Master(addresses, master) => vec![Place::master(addresses, master, access)],
            Form::Cluster(nodes) => {
                cluster = Some(access.cluster(&nodes)?);
                nodes.into_iter().map(|info| access.place(info)).collect::<Result<_, _>>()?
            }
        };
        let (prefix, open, answers) =
            (settings.prefix.clone(), Mutex::default(), AtomicBool::new(false));
        Ok(Self { setting, prefix, places, cluster, open, answers })
    }

    /// What a key or a channel of ours is called there.
    pub fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The setting that says where it is.
    pub fn setting(&self) -> &'static str {
        self.setting
    }

    /// What about any of its servers would make it lose revocations, each with where that is. One that
    /// says nothing of itself is a failure: it may be anything.
    pub async fn shortcomings(&self) -> Result<Vec<String>, RedisFailure> {
        let mut told = Vec::new();
        for place in &self.places {
            let found = place.shortcomings().await?;
            told.extend(found.iter().map(|short| format!("at {place}: {short}")));
        }
        Ok(told)
    }

    /// Where a message that is published can be heard: each of them hears all.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Whether it answered when it was asked last.
    pub fn answers(&self) -> bool {
        self.answers.load(Ordering::Relaxed)
    }

    /// What Redis answers to each of `commands`, within `patience`.
    ///
    /// They are sent at once and in no order, and where a connection turns out to have failed, once
    /// more by a new one: they must do no harm twice.
    pub async fn ask(
        &self,
        commands: &[Cmd],
        patience: Duration,
    ) -> Result<Vec<Value>, RedisFailure> {
        let asked_by = AtomicU64::new(NONE);
        let asked = timeout(patience, Box::pin(self.ask_twice(commands, &asked_by))).await;
        let answered = asked.map_or(Err(RedisFailure::Late), |answer| Ok(answer?));
        self.answers.store(answered.is_ok(), Ordering::Relaxed);
        if answered.is_err()
            // Whoever holds it is connecting: then there is nothing to give up.
            && let Ok(mut open) = self.open.try_lock()
        {
            open.give_up(asked_by.into_inner());
        }
        answered
    }

    /// Whether Redis answers, within `patience`.
    pub async fn ping(&self, patience: Duration) -> Result<(), RedisFailure> {
        self.ask(&[redis::cmd("PING")], patience).await.map(drop)
    }

    /// Keeps a connection open, so that nobody has to wait for one, until it is dropped.
    pub async fn keep(&self) {
        loop {
            if let Err(error) = self.ping(KEEPING).await {
                tracing::debug!(%error, "redis does not answer");
            }
            sleep(PAUSE).await;
        }
    }

    /// Asks, and notes in `by` the number of the connection that was asked last.
    async fn ask_twice(&self, commands: &[Cmd], by: &AtomicU64) -> RedisResult<Vec<Value>> {
        let (number, line, is_new) = self.line().await?;
        by.store(number, Ordering::Relaxed);
        match line.ask(commands).await {
            Err(_) if !is_new => {
                self.open.lock().await.give_up(number);
                let (number, line, _) = self.line().await?;
                by.store(number, Ordering::Relaxed);
                line.ask(commands).await
            }
            answered => answered,
        }
    }

    /// The connection, its number, and whether it was made for this.
    async fn line(&self) -> RedisResult<(u64, Line, bool)> {
        let mut open = self.open.lock().await;
        if let Some(line) = &open.line {
            return Ok((open.number, line.clone(), false));
        }
        let line = self.connect().await?;
        open.number += 1;
        open.line = Some(line.clone());
        Ok((open.number, line, true))
    }

    async fn connect(&self) -> RedisResult<Line> {
        match (&self.cluster, &*self.places) {
            (Some(cluster), _) => {
                let connected: BoxFuture<'_, _> = Box::pin(cluster.get_async_connection());
                connected.await.map(Line::Cluster)
            }
            (None, [place, ..]) => place.connect().await.map(Line::Server),
            (None, []) => Err(std::io::Error::from(std::io::ErrorKind::NotFound).into()),
        }
    }
}

impl Open {
    /// Gives up the connection of that number, unless it is gone already.
    fn give_up(&mut self, number: u64) {
        if self.number == number {
            self.line = None;
        }
    }
}

impl Line {
    /// Sends all of `commands` before it waits for any, and hears every answer: in a cluster one may
    /// succeed where another does not.
    async fn ask(&self, commands: &[Cmd]) -> RedisResult<Vec<Value>> {
        let answers = commands.iter().map(|command| {
            let mut line = self.clone();
            async move {
                match &mut line {
                    Self::Server(line) => line.req_packed_command(command).await,
                    Self::Cluster(line) => line.req_packed_command(command).await,
                }
            }
        });
        let answers = join_all(answers).await.into_iter();
        answers.map(|answer| answer.and_then(Value::extract_error)).collect()
    }
}

impl Access {
    fn new(
        settings: &schema::Redis,
        environment: &Environment,
        is_tls: bool,
    ) -> Result<Self, Invalid> {
        let secret = |name| environment.secret(name).map_err(|error| invalid(name, error));
        Ok(Self {
            user: settings.user.clone(),
            password: secret("MEMORIC_REDIS_PASSWORD")?,
            sentinel_password: secret("MEMORIC_REDIS_SENTINEL_PASSWORD")?,
            tls: if is_tls { Some(certificates(settings)?) } else { None },
        })
    }

    fn place(&self, info: ConnectionInfo) -> Result<Place, Invalid> {
        let mut redis = info.redis_settings().clone();
        if let Some(user) = &self.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &self.password {
            redis = redis.set_password(password.expose_secret());
        }
        let info = info.set_redis_settings(redis);
        let client = match &self.tls {
            Some(tls) => Client::build_with_tls(info, tls.clone()),
            None => Client::open(info),
        };
        client.map(Place::here).map_err(|error| Invalid::new("redis", error.to_string()))
    }

    fn cluster(&self, nodes: &[ConnectionInfo]) -> Result<ClusterClient, Invalid> {
        let mut builder = ClusterClient::builder(nodes.iter().cloned())
            .connection_timeout(NODE_PATIENCE)
            .response_timeout(NODE_PATIENCE)
            .retries(1)
            .tcp_settings(TcpSettings::default().set_nodelay(true));
        if let Some(user) = &self.user {
            builder = builder.username(user);
        }
        if let Some(password) = &self.password {
            builder = builder.password(password.expose_secret());
        }
        if let Some(tls) = &self.tls {
            builder = builder.certs(tls.clone());
        }
        builder.build().map_err(|error| Invalid::new("redis.cluster", error.to_string()))
    }
}

/// The certificates of `settings`, of which every one can be used.
fn certificates(settings: &schema::Redis) -> Result<TlsCertificates, Invalid> {
    let chain = |field, file: &Path| {
        pem::certificates_text(file).map_err(|error| Invalid::new(field, error.to_string()))
    };
    let key = |file: &Path| {
        pem::private_key_text(file).map_err(|error| Invalid::new("redis.key", error.to_string()))
    };
    let root_cert = settings.ca.as_deref().map(|file| chain("redis.ca", file)).transpose()?;
    let client_tls = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(private)) => Some(ClientTlsConfig {
            client_cert: chain("redis.certificate", certificate)?,
            // The library keeps a copy.
            client_key: key(private)?.to_vec(),
        }),
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

/// The same reason as a refused setting.
fn invalid(name: &str, error: ConfigError) -> Invalid {
    match error {
        ConfigError::Invalid(invalid) => invalid,
        ConfigError::Variable { name, reason, .. } => Invalid::new(name, reason),
        other => Invalid::new(name, other.to_string()),
    }
}

/// The number of no connection.
const NONE: u64 = 0;

/// How long Redis may take to let us in where nobody waits for it.
const KEEPING: Duration = Duration::from_secs(1);

/// Between two looks at whether it is there.
const PAUSE: Duration = Duration::from_millis(500);

/// How long one node of a cluster may take.
const NODE_PATIENCE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_needs_to_know_whom_to_believe() {
        let settings = |change: fn(&mut schema::Redis)| {
            let mut settings = schema::Redis::default();
            change(&mut settings);
            Redis::new(&settings, &Environment::default()).err().map(|error| error.to_string())
        };
        let missing = settings(|s| s.url = "rediss://cache".to_owned()).unwrap();
        assert_eq!(missing, "redis.ca: is not set, and rediss:// needs it");
        let unreadable = settings(|s| {
            s.url = "rediss://cache".to_owned();
            s.ca = Some("/nonexistent/ca.pem".into());
        });
        assert!(unreadable.unwrap().starts_with("redis.ca: /nonexistent/ca.pem"));
        let half = settings(|s| s.key = Some("/nonexistent/key.pem".into())).unwrap();
        assert_eq!(half, "redis.certificate: is not set, and redis.key needs it");
        let in_clear = settings(|s| s.ca = Some("/nonexistent/ca.pem".into())).unwrap();
        assert_eq!(in_clear, "redis.ca: is set, and is for rediss:// alone");
        let in_clear = settings(|s| {
            s.url = "redis://cache".to_owned();
            s.certificate = Some("/nonexistent/certificate.pem".into());
            s.key = Some("/nonexistent/key.pem".into());
        });
        assert_eq!(in_clear.unwrap(), "redis.certificate: is set, and is for rediss:// alone");
        assert_eq!(settings(|_| {}), None);
    }

    #[test]
    fn a_password_that_is_set_and_empty_is_refused() {
        let environment = Environment::from_iter([("MEMORIC_REDIS_PASSWORD", "")]);
        let refused = Redis::new(&schema::Redis::default(), &environment).err().unwrap();
        assert_eq!(refused.to_string(), "MEMORIC_REDIS_PASSWORD: is set and empty");
    }

    #[tokio::test]
    async fn a_redis_that_is_nowhere_is_said_not_to_answer() {
        let url = "redis+unix:///nonexistent/redis.sock".to_owned();
        let settings = schema::Redis { url, ..Default::default() };
        let redis = Redis::new(&settings, &Environment::default()).unwrap();

        assert!(redis.ping(Duration::from_secs(5)).await.is_err());
        assert!(!redis.answers());
    }
}
