//! Redis, asked about one request.

use std::{sync::Arc, time::Duration};

use memoric_config::redis::{Redis, RedisFailure};
use memoric_contract::{
    Identity, PresentedBy,
    revocation::{Revocation, Revoked},
};
use redis::Value;
use thiserror::Error;

/// Asks Redis what ended, for every request.
pub(crate) struct Lookup {
    redis: Arc<Redis>,
}

/// Why Redis does not say whether a credential lives.
#[derive(Debug, Error)]
pub(crate) enum LookupError {
    #[error("redis did not answer when it was asked last")]
    Away,
    #[error(transparent)]
    Failed(#[from] RedisFailure),
    #[error("what redis answers is not what we write there")]
    Unusable,
}

impl Lookup {
    pub(crate) fn new(redis: Arc<Redis>) -> Self {
        Self { redis }
    }

    /// Whether Redis knows of something that ends `identity`'s credential.
    ///
    /// One that did not answer when it was asked last is not waited for: what keeps the connection to
    /// it finds out when it is back.
    pub(super) async fn revokes(&self, identity: &Identity) -> Result<bool, LookupError> {
        if !self.redis.answers() {
            return Err(LookupError::Away);
        }
        let ends = ends(identity);
        let mut question = redis::cmd("MGET");
        for end in &ends {
            question.arg(self.redis.name(&end.redis_key()));
        }
        let answer = self.redis.ask(&[question], PATIENCE).await?.pop();
        read(&ends, answer.unwrap_or(Value::Nil))
    }
}

/// What would end `identity`'s credential. All of it is one user's, and so on one node of a cluster.
fn ends(identity: &Identity) -> Vec<Revocation> {
    let revoked = match &identity.presented {
        PresentedBy::AccessToken { jti, sid, generation, .. } => {
            vec![Revoked::Token(*jti), Revoked::Session(*sid), Revoked::Before(*generation)]
        }
        PresentedBy::ForeignToken { id, .. } => vec![Revoked::Token(*id)],
        PresentedBy::ApiKey { id, .. } => vec![Revoked::Key(id.clone())],
    };
    let user = identity.user;
    revoked.into_iter().map(|revoked| Revocation { user, revoked, expires_at: 0 }).collect()
}

/// Whether any of `ends` is there. What we would not have written tells nothing.
fn read(ends: &[Revocation], answer: Value) -> Result<bool, LookupError> {
    let found: Vec<Option<String>> =
        redis::from_redis_value(answer).map_err(|_| LookupError::Unusable)?;
    if found.len() != ends.len() {
        return Err(LookupError::Unusable);
    }
    let mut is_revoked = false;
    for (end, found) in ends.iter().zip(found) {
        let Some(found) = found else { continue };
        is_revoked |= match end.revoked {
            Revoked::Before(generation) => {
                generation < found.parse::<u64>().map_err(|_| LookupError::Unusable)?
            }
            _ if found == end.redis_value() => true,
            _ => return Err(LookupError::Unusable),
        };
    }
    Ok(is_revoked)
}

/// How long a request waits for Redis.
const PATIENCE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use memoric_contract::Role;
    use uuid::Uuid;

    use super::*;
    use crate::authn::tests::somebody;

    #[test]
    fn what_is_there_ends_the_credential_and_what_is_strange_tells_nothing() {
        let presented = PresentedBy::AccessToken {
            jti: Uuid::from_u128(1),
            sid: Uuid::from_u128(2),
            ctr: 0,
            generation: 1,
            expires_at: 1,
        };
        let ends = ends(&Identity { presented, ..somebody(3, Role::User) });
        let told = |values: [Option<&str>; 3]| {
            let value = |text: &str| Value::BulkString(text.as_bytes().to_vec());
            let values = values.map(|found| found.map_or(Value::Nil, value));
            read(&ends, Value::Array(values.to_vec())).ok()
        };
        assert_eq!(told([None, None, None]), Some(false));
        assert_eq!(told([Some("1"), None, None]), Some(true));
        assert_eq!(told([None, Some("1"), None]), Some(true));
        assert_eq!(told([None, None, Some("1")]), Some(false), "its own generation");
        assert_eq!(told([None, None, Some("2")]), Some(true));
        for strange in [[Some("0"), None, None], [None, Some(""), None], [None, None, Some("x")]] {
            assert_eq!(told(strange), None, "{strange:?}");
        }
        for strange in [Value::Nil, Value::Okay, Value::Array(vec![Value::Nil; 2]), Value::Int(0)] {
            assert!(read(&ends, strange.clone()).is_err(), "{strange:?}");
        }
    }
}
