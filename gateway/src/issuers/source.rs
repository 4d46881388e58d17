//! The keys of one issuer, kept fresh.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use memoric_contract::token::foreign::{Foreign, IssuerKeys};
use sha2::{Digest as _, Sha256};
use tokio::{
    select,
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::fetch::{FetchError, fetch};
use crate::{
    authn::{Disbelief, TokenDigest, Verified},
    config::Issuer,
    metrics::Metrics,
    rejection::Rejection,
};

/// An issuer, and the keys that it was last known to have.
///
/// What it had is believed for as long as it says nothing else: an issuer that is away logs nobody out.
pub(super) struct Source {
    pub(super) issuer: Issuer,
    keys: ArcSwapOption<KeySet>,
    wanted: Notify,
    asked: watch::Sender<u64>,
    /// How often a token whose key is not known may make us ask.
    budget: DefaultDirectRateLimiter,
    metrics: Arc<Metrics>,
}

/// The keys that an issuer tells, and what was verified by them. With the keys all of that goes: who was
/// let in by a key that is told no more is not remembered past it.
struct KeySet {
    /// SHA-256 of how they were told.
    told: [u8; 32],
    keys: IssuerKeys,
    /// Whether a token still lives, and whom it stands for, is asked at every use.
    verified: Verified<Foreign>,
}

impl Source {
    pub(super) fn new(issuer: Issuer, metrics: Arc<Metrics>) -> Self {
        let quota = Quota::with_period(PAUSE)
            .unwrap_or_else(|| Quota::per_hour(NonZeroU32::MIN))
            .allow_burst(BURST);
        Self {
            issuer,
            keys: ArcSwapOption::empty(),
            wanted: Notify::new(),
            asked: watch::Sender::new(0),
            budget: RateLimiter::direct(quota),
            metrics,
        }
    }

    /// What the token of `digest` says, if it was verified by the keys that are known now.
    pub(super) fn recall(&self, digest: &TokenDigest) -> Option<Arc<Foreign>> {
        self.keys.load().as_ref()?.verified.recall(digest)
    }

    /// Believes `token` only if it is this issuer's, for us, and `now` (epoch seconds) is within its life.
    pub(super) async fn verify(
        &self,
        token: &str,
        digest: TokenDigest,
        now: u64,
    ) -> Result<Arc<Foreign>, Disbelief> {
        let set = self.keys_for(token).await.ok_or(Rejection::IssuerUnavailable)?;
        let wanted = (self.issuer.name.as_str(), self.issuer.audience.as_str());
        let foreign = set.keys.verify(token, wanted, now)?;
        Ok(set.verified.remember(digest, foreign))
    }

    /// The keys, after another look where the one that `token` names is not among them. There are only
    /// so many other looks, however many such tokens come. `None`: there never were any.
    async fn keys_for(&self, token: &str) -> Option<Arc<KeySet>> {
        let known = self.keys.load_full();
        let is_known = known.as_ref().is_some_and(|set| set.keys.know_key_of(token));
        if is_known || self.budget.check().is_err() {
            return known;
        }
        let mut asked = self.asked.subscribe();
        self.wanted.notify_one();
        let _ = timeout(PATIENCE, asked.changed()).await;
        self.keys.load_full()
    }

    /// Asks for the keys now and then, and when they are wanted, until it is dropped.
    pub(super) async fn follow(&self) {
        let mut pause = SOON;
        loop {
            pause = match self.look().await {
                Ok(()) => REFRESH,
                Err(error) => {
                    tracing::warn!(issuer = self.issuer.name, %error, "the keys of an issuer are not to be had");
                    if pause == REFRESH { SOON } else { (pause * 2).min(REFRESH / 2) }
                }
            };
            self.asked.send_modify(|times| *times = times.wrapping_add(1));
            select! {
                () = sleep(pause) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Asks once.
    async fn look(&self) -> Result<(), FetchError> {
        let name = self.issuer.name.as_str();
        let looked = fetch(&self.issuer.place).await.and_then(|set| self.take_up(&set));
        let outcome = if looked.is_ok() { "had" } else { "failed" };
        self.metrics.issuer_fetches.with_label_values(&[name, outcome]).inc();
        self.metrics.issuer_up.with_label_values(&[name]).set(i64::from(looked.is_ok()));
        looked?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let at = i64::try_from(now).unwrap_or(i64::MAX);
        self.metrics.issuer_keys_at.with_label_values(&[name]).set(at);
        Ok(())
    }

    /// Puts the keys of a `set` in the place of the others whole, and forgets what was verified by those.
    /// Where it is told again as it was, nothing has changed.
    fn take_up(&self, set: &[u8]) -> Result<(), FetchError> {
        let told = Sha256::digest(set).into();
        if self.keys.load().as_ref().is_some_and(|known| known.told == told) {
            return Ok(());
        }
        let keys = IssuerKeys::read(set, &self.issuer.algorithms).ok_or(FetchError::Unusable)?;
        tracing::debug!(issuer = self.issuer.name, ?keys, "the keys of an issuer are had");
        self.keys.store(Some(Arc::new(KeySet { told, keys, verified: Verified::new() })));
        Ok(())
    }
}

/// Between two looks that nobody asked for.
const REFRESH: Duration = Duration::from_secs(300);

/// After the first look that came to nothing; each further pause is twice as long.
const SOON: Duration = Duration::from_secs(1);

/// How long a request waits for another look.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks for the sake of unknown keys: at once, and how often after that.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
const PAUSE: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    use memoric_contract::token::foreign::IssuerAlgorithm;
    use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
    use serde_json::json;

    use super::*;
    use crate::config::Place;

    #[tokio::test(start_paused = true)]
    async fn what_was_verified_is_remembered_until_the_keys_are_others() {
        let (source, key, other) = (source(), Key::new("a"), Key::new("b"));
        let token = key.mint(NOW + 600);
        let digest = TokenDigest::of(&token);
        source.take_up(&set(&[&key])).unwrap();
        assert!(source.recall(&digest).is_none(), "it was not verified yet");

        let said = source.verify(&token, digest, NOW).await.unwrap();
        assert_eq!(source.recall(&digest), Some(said));
        source.take_up(&set(&[&key])).unwrap();
        assert!(source.recall(&digest).is_some(), "nothing has changed");
        for unusable in [&b"{}"[..], b"no keys", br#"{"keys": []}"#] {
            assert!(source.take_up(unusable).is_err());
            assert!(source.recall(&digest).is_some(), "an issuer that is away logs nobody out");
        }

        source.take_up(&set(&[&key, &other])).unwrap();
        assert!(source.recall(&digest).is_none());
        assert!(source.verify(&token, digest, NOW).await.is_ok(), "its key is still there");
        for taken_away in [set(&[&other]), set(&[&Key::new("a")])] {
            source.take_up(&taken_away).unwrap();
            assert!(source.recall(&digest).is_none());
            assert!(source.verify(&token, digest, NOW).await.is_err());
        }
    }

    #[tokio::test]
    async fn what_was_not_verified_is_not_remembered() {
        let (source, key) = (source(), Key::new("a"));
        source.take_up(&set(&[&key])).unwrap();
        let good = key.mint(NOW + 600);
        source.verify(&good, TokenDigest::of(&good), NOW).await.unwrap();

        let (message, _) = good.rsplit_once('.').unwrap();
        let forged = Key::new("a").mint(NOW + 600);
        for bad in [forged, format!("{message}."), format!("{good}="), key.mint(NOW)] {
            let digest = TokenDigest::of(&bad);
            assert!(source.verify(&bad, digest, NOW).await.is_err(), "{bad}");
            assert!(source.recall(&digest).is_none(), "{bad}");
        }
    }

    /// One that nobody asks for its keys.
    fn source() -> Source {
        let (host, authority) = ("127.0.0.1".to_owned(), "127.0.0.1:1".to_owned());
        let issuer = Issuer {
            name: ISSUER.to_owned(),
            audience: "us".to_owned(),
            algorithms: vec![IssuerAlgorithm::EdDsa],
            may_grant_roles: false,
            place: Place { host, port: 1, authority, path: "/".to_owned(), tls: None },
        };
        Source::new(issuer, Arc::new(Metrics::new().unwrap()))
    }

    struct Key {
        kid: &'static str,
        pair: KeyPair,
    }

    impl Key {
        fn new(kid: &'static str) -> Self {
            Self { kid, pair: KeyPair::generate_for(&PKCS_ED25519).unwrap() }
        }

        /// A token that ends at `exp`.
        fn mint(&self, exp: u64) -> String {
            let header = json!({"alg": "EdDSA", "kid": self.kid}).to_string();
            let claims = json!({"iss": ISSUER, "aud": "us", "sub": "s", "exp": exp}).to_string();
            let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
            let signature = self.pair.sign(message.as_bytes()).unwrap();
            format!("{message}.{}", BASE64.encode(signature))
        }
    }

    fn set(keys: &[&Key]) -> Vec<u8> {
        let jwk = |key: &&Key| {
            let public = BASE64.encode(key.pair.der_bytes());
            json!({"kty": "OKP", "crv": "Ed25519", "kid": key.kid, "x": public})
        };
        json!({"keys": keys.iter().map(jwk).collect::<Vec<_>>()}).to_string().into_bytes()
    }

    const ISSUER: &str = "https://id.example.com";
    const NOW: u64 = 1_800_000_000;
}
