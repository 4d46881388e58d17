//! One server of Redis, wherever it is at the moment.

use std::{fmt, time::Duration};

use futures_util::future::{BoxFuture, select_ok};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, InfoDict, RedisResult, TlsMode,
    aio::{MultiplexedConnection, PubSub},
    io::tcp::TcpSettings,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use secrecy::ExposeSecret as _;
use tokio::time::timeout;

use super::{Access, RedisFailure};

/// One server, wherever it is at the moment.
pub struct Place(At);

enum At {
    /// Where it always is.
    Here(Box<Client>),
    /// Where sentinels say.
    Master(Box<Sentinels>),
}

/// Sentinels, and what they are asked for.
struct Sentinels {
    addresses: Vec<ConnectionAddr>,
    master: String,
    access: Access,
}

impl Place {
    pub(super) fn here(client: Client) -> Self {
        Self(At::Here(Box::new(client)))
    }

    pub(super) fn master(addresses: Vec<ConnectionAddr>, master: String, access: Access) -> Self {
        Self(At::Master(Box::new(Sentinels { addresses, master, access })))
    }

    /// Begins to listen to `channel`.
    pub async fn subscribe(&self, channel: &str) -> Result<PubSub, RedisFailure> {
        let subscribed = async {
            let mut subscription = self.client().await?.get_async_pubsub().await?;
            subscription.subscribe(channel).await?;
            Ok(subscription)
        };
        timeout(PATIENCE, subscribed).await.unwrap_or(Err(RedisFailure::Late))
    }

    /// What about this server would make it lose revocations, one sentence each.
    ///
    /// That is no harm while PostgreSQL has them all; where Redis had the only copy it would be.
    pub async fn shortcomings(&self) -> Result<Vec<String>, RedisFailure> {
        let asked = async {
            let mut connection = self.connect().await?;
            let info: InfoDict = redis::cmd("INFO").query_async(&mut connection).await?;
            Ok(shortcomings(&info))
        };
        timeout(PATIENCE, asked).await.unwrap_or(Err(RedisFailure::Late))
    }

    // In a box: what the library makes of it is a type too deep for whoever awaits it.
    pub(super) fn connect(&self) -> BoxFuture<'_, RedisResult<MultiplexedConnection>> {
        Box::pin(async {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(PATIENCE))
                .set_response_timeout(Some(PATIENCE));
            self.client().await?.get_multiplexed_async_connection_with_config(&config).await
        })
    }

    fn client(&self) -> BoxFuture<'_, RedisResult<Client>> {
        Box::pin(async {
            match &self.0 {
                At::Here(client) => Ok(Client::clone(client)),
                At::Master(sentinels) => sentinels.find().await,
            }
        })
    }
}

impl Sentinels {
    /// The master, by the word of the first sentinel that has one; it has been asked whether it is.
    ///
    /// All are asked at once: one that is silent keeps nobody waiting.
    async fn find(&self) -> RedisResult<Client> {
        let asked = self.addresses.iter().map(|address| Box::pin(self.ask(address.clone())));
        select_ok(asked).await.map(|(client, _)| client)
    }

    async fn ask(&self, sentinel: ConnectionAddr) -> RedisResult<Client> {
        let Access { user, password, sentinel_password, tls } = &self.access;
        let tcp = || TcpSettings::default().set_nodelay(true);
        let mut builder =
            SentinelClientBuilder::new([sentinel], &self.master, SentinelServerType::Master)?
                .set_client_to_redis_tcp_settings(tcp())
                .set_client_to_sentinel_tcp_settings(tcp());
        if let Some(user) = user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = password {
            builder = builder.set_client_to_redis_password(password.expose_secret());
        }
        if let Some(password) = sentinel_password {
            builder = builder.set_client_to_sentinel_password(password.expose_secret());
        }
        if let Some(tls) = tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(tls.clone())
                .set_client_to_sentinel_certificates(tls.clone());
        }
        builder.build()?.async_get_client().await
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            At::Here(client) => client.get_connection_info().addr().fmt(f),
            At::Master(sentinels) => write!(f, "master {}", sentinels.master),
        }
    }
}

fn shortcomings(info: &InfoDict) -> Vec<String> {
    let told = |name| info.get::<String>(name).unwrap_or_default();
    let mut found = Vec::new();
    let policy = told("maxmemory_policy");
    if policy != "noeviction" {
        let policy = if policy.is_empty() { "not known" } else { &policy };
        found.push(format!(
            "maxmemory-policy is {policy}, not noeviction: it may forget revocations"
        ));
    }
    if told("aof_enabled") != "1" {
        found.push("appendonly is off: what it was told last is gone after a crash".to_owned());
    }
    found
}

/// How long a server may take to let us in, or to answer a question that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_lose_revocations_is_told() {
        let info = |text: &str| InfoDict::new(text);
        let good = info("aof_enabled:1\r\nmaxmemory_policy:noeviction\r\n");
        assert_eq!(shortcomings(&good), [""; 0]);
        let bad = shortcomings(&info("aof_enabled:0\r\nmaxmemory_policy:allkeys-lru\r\n"));
        assert_eq!(bad.len(), 2);
        assert!(bad.concat().contains("allkeys-lru"), "{bad:?}");
        assert_eq!(shortcomings(&info("")).len(), 2, "not knowing is not good");
    }
}
