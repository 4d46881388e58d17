//! Which Redis there is, by the settings.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, io::tcp::TcpSettings};

use crate::{error::Invalid, schema};

/// Which Redis there is.
pub(super) enum Form {
    /// One server.
    Server(ConnectionInfo),
    /// Whichever server the sentinels at these addresses call the master of this name.
    Master(Vec<ConnectionAddr>, String),
    /// A cluster of which these are some nodes.
    Cluster(Vec<ConnectionInfo>),
}

impl Form {
    /// What `settings` describe, as far as they alone can tell.
    pub(super) fn new(settings: &schema::Redis) -> Result<Self, Invalid> {
        let schema::Redis { url, sentinels, master, cluster, .. } = settings;
        let is_given = *url != schema::Redis::default().url;
        let form = match (&**sentinels, &**cluster) {
            ([], []) => Self::Server(address(URL, url)?),
            (_, _) if is_given => return refuse(URL, "is one of several places: set one"),
            (sentinels, []) => {
                let name = master.clone().filter(|name| !name.is_empty());
                let name = name.ok_or_else(|| Invalid::new("redis.master", NAMELESS))?;
                let sentinels = nodes("redis.sentinels", sentinels)?;
                Self::Master(sentinels.iter().map(|info| info.addr().clone()).collect(), name)
            }
            ([], cluster) => Self::Cluster(nodes("redis.cluster", cluster)?),
            (_, _) => return refuse("redis.cluster", "is set, and so is redis.sentinels: set one"),
        };
        if master.is_some() && !matches!(form, Self::Master(..)) {
            return refuse("redis.master", "is set, and redis.sentinels is not");
        }
        Ok(form)
    }

    /// The setting that says where it is.
    pub(super) const fn setting(&self) -> &'static str {
        match self {
            Self::Server(_) => URL,
            Self::Master(..) => "redis.sentinels",
            Self::Cluster(_) => "redis.cluster",
        }
    }

    /// Whether it is spoken to by TLS.
    pub(super) fn is_tls(&self) -> bool {
        match self {
            Self::Server(info) => is_tls(info.addr()),
            Self::Master(sentinels, _) => sentinels.iter().any(is_tls),
            Self::Cluster(nodes) => nodes.iter().any(|info| is_tls(info.addr())),
        }
    }
}

/// The servers of a list. None of them is a socket, and all are spoken to in one way.
fn nodes(field: &str, urls: &[String]) -> Result<Vec<ConnectionInfo>, Invalid> {
    let nodes: Vec<_> = urls.iter().map(|url| address(field, url)).collect::<Result<_, _>>()?;
    let is_node = |info: &ConnectionInfo| {
        !matches!(info.addr(), ConnectionAddr::Unix(_)) && info.redis_settings().db() == 0
    };
    if !nodes.iter().all(is_node) {
        return refuse(field, "must be redis://host:port or rediss://host:port");
    }
    let encrypted = nodes.iter().filter(|info| is_tls(info.addr())).count();
    if encrypted != 0 && encrypted != nodes.len() {
        return refuse(field, "must be rediss:// throughout, or not at all");
    }
    Ok(nodes)
}

/// Where the Redis at `url` is.
fn address(field: &str, url: &str) -> Result<ConnectionInfo, Invalid> {
    let unusable = || {
        let reason =
            "must be redis://host:port/db, rediss://host:port/db or redis+unix:///path?db=0";
        Invalid::new(field, reason)
    };
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("redis" | "rediss" | "redis+unix")) {
        return Err(unusable());
    }
    let info = url.into_connection_info().map_err(|_| unusable())?;
    if info.redis_settings().password().is_some() {
        return refuse(
            field,
            "must have no password in it: that is what MEMORIC_REDIS_PASSWORD is for",
        );
    }
    if info.redis_settings().username().is_some() {
        return refuse(field, "must have no user in it: that is what redis.user is for");
    }
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        return Err(unusable());
    }
    // A message is small, and must not wait for the next one.
    Ok(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

fn is_tls(address: &ConnectionAddr) -> bool {
    matches!(address, ConnectionAddr::TcpTls { .. })
}

fn refuse<T>(field: &str, reason: &str) -> Result<T, Invalid> {
    Err(Invalid::new(field, reason))
}

const URL: &str = "redis.url";

const NAMELESS: &str = "is not set, and redis.sentinels needs it";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_and_a_host_are_taken() {
        let socket = address(URL, "redis+unix:///run/redis/redis.sock?db=2").unwrap();
        let host = address(URL, "redis://cache.example:6380/3").unwrap();

        assert_eq!(socket.addr(), &ConnectionAddr::Unix("/run/redis/redis.sock".into()));
        assert_eq!(socket.redis_settings().db(), 2);
        assert_eq!(host.addr(), &ConnectionAddr::Tcp("cache.example".to_owned(), 6380));
        assert_eq!(host.redis_settings().db(), 3);
        assert!(is_tls(address(URL, "rediss://cache").unwrap().addr()));
    }

    #[test]
    fn a_secret_in_the_url_is_refused_without_repeating_it() {
        for (url, instead) in [
            ("redis://:hunter2@cache", "MEMORIC_REDIS_PASSWORD"),
            ("redis+unix:///run/redis.sock?pass=hunter2", "MEMORIC_REDIS_PASSWORD"),
            ("rediss://hunter2@cache", "redis.user"),
        ] {
            let refusal = address(URL, url).unwrap_err().to_string();

            assert!(refusal.contains(instead), "{refusal}");
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_redis_is_refused_without_repeating_it() {
        for url in [
            "",
            "cache",
            "http://hunter2",
            "redis://",
            "redis://cache/hunter2",
            "redis+unix://x/y",
            "rediss://cache/#insecure",
        ] {
            let refusal = address(URL, url).unwrap_err().to_string();
            assert!(!refusal.contains("hunter2"), "{url}: {refusal}");
        }
    }

    #[test]
    fn there_is_one_redis_and_it_is_described_whole() {
        let refusal = |change: fn(&mut schema::Redis)| {
            let mut settings = schema::Redis::default();
            change(&mut settings);
            Form::new(&settings).err().map(|refusal| refusal.field)
        };
        let named = |settings: &mut schema::Redis| settings.master = Some("m".to_owned());
        assert_eq!(refusal(|s| s.sentinels = list(&["redis://a:26379"])), field("redis.master"));
        assert_eq!(refusal(named), field("redis.master"), "and no sentinels");
        assert_eq!(
            refusal(|s| s.cluster = list(&["redis://a", "rediss://b"])),
            field("redis.cluster")
        );
        assert_eq!(refusal(|s| s.cluster = list(&["redis://a/3"])), field("redis.cluster"));
        assert_eq!(refusal(|s| s.cluster = list(&["redis+unix:///a"])), field("redis.cluster"));
        let both = |s: &mut schema::Redis| {
            s.sentinels = list(&["redis://a"]);
            s.cluster = list(&["redis://b"]);
        };
        assert_eq!(refusal(both), field("redis.cluster"));
        let url = |s: &mut schema::Redis| {
            s.url = "redis://a".to_owned();
            s.cluster = list(&["redis://b"]);
        };
        assert_eq!(refusal(url), field("redis.url"));
        assert_eq!(refusal(|s| s.cluster = list(&["redis://a", "redis://b:7000"])), None);
        let sentinels = |s: &mut schema::Redis| {
            s.sentinels = list(&["rediss://a:26379"]);
            s.master = Some("mine".to_owned());
        };
        assert_eq!(refusal(sentinels), None);
    }

    fn list(urls: &[&str]) -> Vec<String> {
        urls.iter().map(|url| (*url).to_owned()).collect()
    }

    fn field(name: &str) -> Option<String> {
        Some(name.to_owned())
    }
}
