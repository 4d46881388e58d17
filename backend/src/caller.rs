//! From the gateway's assertion to who asks for what.

use std::{net::IpAddr, sync::OnceLock, time::SystemTime};

use axum::http::{HeaderMap, HeaderValue, Method, Uri, header::USER_AGENT, request::Parts};
use memoric_contract::{
    ASSERTION_HEADER, AnsweredBy, AssertionKey, Caller, Demands, Identity, InternalOperation,
    Network, Operation, RequestId, UserId, VerifiedAssertion,
    audit::{OWNER_HEADER, RECORDED_HEADER, RESOURCE_HEADER, user_agent},
    revocation::{REVOKED_HEADER, Revocation},
};

use crate::{audit::Recorded, error::ApiError};

/// What is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    /// Something for a client.
    Public(Operation),
    /// Something for the gateway itself.
    Internal(InternalOperation),
}

/// One request that the gateway vouches for. [`Gatekeeper::admit`] is its only maker.
pub(crate) struct Call {
    asked: Asked,
    assertion: VerifiedAssertion,
    parts: Parts,
    recorded: Recorded,
    owner: OnceLock<UserId>,
    resource: OnceLock<UserId>,
    revoked: OnceLock<Revocation>,
}

/// Lets in what the gateway vouches for, and nothing else.
pub(crate) struct Gatekeeper {
    key: AssertionKey,
}

impl Gatekeeper {
    /// Believes what is signed with `key`.
    pub(crate) fn new(key: AssertionKey) -> Self {
        Self { key }
    }

    /// Admits a request whose assertion names exactly its method, its target and its operation.
    pub(crate) fn admit(&self, parts: Parts, now: SystemTime) -> Result<Call, ApiError> {
        let asked = Asked::at(&parts.method, &parts.uri).ok_or(ApiError::NoAssertion)?;
        let header = sole_assertion(&parts.headers).ok_or(ApiError::NoAssertion)?;
        let target = parts.uri.to_string();
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let assertion =
            self.key.verify(header, (parts.method.as_str(), &target), asked.name(), now)?;
        let (recorded, owner, resource, revoked) = Default::default();
        Ok(Call { asked, assertion, parts, recorded, owner, resource, revoked })
    }
}

impl Asked {
    fn at(method: &Method, uri: &Uri) -> Option<Self> {
        let internal = || {
            let is_here = |each: &InternalOperation| {
                each.method() == method.as_str() && each.path() == uri.path()
            };
            InternalOperation::ALL.into_iter().find(is_here).map(Self::Internal)
        };
        Operation::at(method.as_str(), uri.path()).map(Self::Public).or_else(internal)
    }

    /// Its name in the assertion, in logs and in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Public(operation) => operation.name(),
            Self::Internal(operation) => operation.name(),
        }
    }
}

impl Call {
    /// What is asked for.
    pub(crate) fn asked(&self) -> Asked {
        self.asked
    }

    /// The operation of a client, where it is one.
    pub(crate) fn operation(&self) -> Option<Operation> {
        match self.asked {
            Asked::Public(operation) => Some(operation),
            Asked::Internal(_) => None,
        }
    }

    /// The name of what is asked for.
    pub(crate) fn operation_name(&self) -> &'static str {
        self.asked.name()
    }

    /// The request that this is.
    pub(crate) fn request(&self) -> RequestId {
        self.assertion.request()
    }

    /// Where the client connects from.
    pub(crate) fn client(&self) -> IpAddr {
        self.assertion.client()
    }

    /// Who counts as one client with the one that connects.
    pub(crate) fn network(&self) -> Network {
        Network::of(self.client())
    }

    /// The client's program, by its own word.
    pub(crate) fn user_agent(&self) -> Option<String> {
        self.parts.headers.get(USER_AGENT).and_then(|agent| user_agent(agent.as_bytes()))
    }

    /// For whom it is made, if for anyone in particular.
    pub(crate) fn known(&self) -> Option<&Identity> {
        match self.assertion.caller() {
            Caller::Known(identity) => Some(identity),
            Caller::Anonymous => None,
        }
    }

    /// For whom it is made.
    pub(crate) fn identity(&self) -> Result<&Identity, ApiError> {
        self.known().ok_or(ApiError::NobodyKnown)
    }

    /// The headers, of which those about the body and the client's own credential are of use.
    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// The path and query, as forwarded.
    pub(crate) fn target(&self) -> &Uri {
        &self.parts.uri
    }

    /// The segment of the path that comes after `before` others, or nothing.
    pub(crate) fn segment(&self, before: usize) -> &str {
        self.parts.uri.path().split('/').nth(before).unwrap_or_default()
    }

    /// The last segment of the path, for operations in whose path it varies.
    pub(crate) fn last_segment(&self) -> &str {
        self.parts.uri.path().rsplit('/').next().unwrap_or_default()
    }

    /// Whether its record is in the trail already.
    pub(crate) fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// Takes note of whose data it is about. What is noted first counts.
    pub(crate) fn concerns(&self, owner: UserId) {
        self.owner.get_or_init(|| owner);
    }

    /// Takes note that it is about the account of `user`.
    pub(crate) fn concerns_account(&self, user: UserId) {
        self.concerns(user);
        self.resource.get_or_init(|| user);
    }

    /// Takes note of what it ended, once that is committed. It ends one thing at most.
    pub(crate) fn revokes(&self, revocation: &Revocation) {
        self.revoked.get_or_init(|| revocation.clone());
    }

    /// Tells the gateway, beside the answer, what was revoked by it, and what it needs for a record
    /// of its own, or that it need not make one.
    pub(crate) fn tell_aside(&self, headers: &mut HeaderMap) {
        if self.recorded.is_there() {
            headers.insert(RECORDED_HEADER, HeaderValue::from_static("1"));
        }
        for (name, said) in [(OWNER_HEADER, &self.owner), (RESOURCE_HEADER, &self.resource)] {
            if let Some(UserId(id)) = said.get() {
                headers.insert(name, HeaderValue::from(*id));
            }
        }
        let revoked = self.revoked.get().map(|revoked| HeaderValue::try_from(revoked.message()));
        if let Some(Ok(message)) = revoked {
            headers.insert(REVOKED_HEADER, message);
        }
    }

    /// Refuses what the caller may not ask for.
    ///
    /// The gateway has decided this already, from the same table; a mistake there is not one here.
    pub(crate) fn ensure_permitted(&self) -> Result<(), ApiError> {
        let Some(operation) = self.operation() else { return Ok(()) };
        if operation.answered_by() == AnsweredBy::Gateway {
            return Err(ApiError::NotHere);
        }
        match operation.demands() {
            Demands::Nothing | Demands::Refresh => Ok(()),
            Demands::Access => {
                let identity = self.identity()?;
                let takes = operation.accepts(identity.presented.kind());
                let may =
                    takes && operation.needs().is_none_or(|permission| identity.may(permission));
                if may { Ok(()) } else { Err(ApiError::Forbidden) }
            }
        }
    }
}

/// The assertion, if there is exactly one.
fn sole_assertion(headers: &HeaderMap) -> Option<&str> {
    let mut assertions = headers.get_all(ASSERTION_HEADER).iter();
    let first = assertions.next()?;
    if assertions.next().is_some() {
        return None;
    }
    first.to_str().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::http::Request;
    use memoric_contract::{Assertion, AssertionError, PresentedBy, Role, UserId};
    use uuid::Uuid;

    use super::*;

    #[test]
    fn who_asks_for_what_comes_from_the_assertion_alone() {
        let parts = request(
            "GET",
            "/memories?top_k=3",
            &[&signed("GET", "/memories?top_k=3", "recall_memories", &alice())],
        );

        let call = gatekeeper().admit(parts, now()).unwrap();

        assert_eq!(call.identity().unwrap().user, UserId(3));
        assert_eq!(call.asked(), Asked::Public(Operation::RecallMemories));
        call.ensure_permitted().unwrap();
    }

    #[test]
    fn what_nobody_vouches_for_is_refused() {
        let good = signed("GET", "/memories", "recall_memories", &alice());
        let cases: [(&str, &str, Vec<&str>); 6] = [
            ("GET", "/memories", vec![]),
            ("GET", "/memories", vec!["nonsense"]),
            ("GET", "/memories", vec![&good, &good]),
            ("HEAD", "/memories", vec![&good]),
            ("GET", "/nowhere", vec![&good]),
            ("POST", "/internal/health", vec![&good]),
        ];
        for (method, target, assertions) in cases {
            let refused =
                gatekeeper().admit(request(method, target, &assertions), now()).err().unwrap();
            assert_eq!(refused.status().as_u16(), 401, "{method} {target} {assertions:?}");
        }
    }

    #[test]
    fn an_assertion_for_one_thing_is_worth_nothing_for_another() {
        let good = signed("GET", "/memories", "recall_memories", &alice());
        let elsewhere = [
            ("POST", "/memories"),
            ("GET", "/memories?user_id=4"),
            ("GET", "/audit/logs"),
            ("GET", "/internal/live"),
        ];
        for (method, target) in elsewhere {
            let refused =
                gatekeeper().admit(request(method, target, &[&good]), now()).err().unwrap();
            assert!(
                matches!(refused, ApiError::Assertion(AssertionError::Misdirected)),
                "{method} {target}: {refused}"
            );
        }
    }

    #[test]
    fn a_path_by_another_spelling_is_another_target() {
        let good = signed("GET", "/memories", "recall_memories", &alice());
        for target in ["http://elsewhere/memories", "/memories?"] {
            assert!(
                gatekeeper().admit(request("GET", target, &[&good]), now()).is_err(),
                "{target}"
            );
        }
    }

    #[test]
    fn what_the_gateway_let_through_by_mistake_is_refused_here() {
        let refused = |method: &str, target: &str, operation: &str, caller: &Caller| {
            let parts = request(method, target, &[&signed(method, target, operation, caller)]);
            let call = gatekeeper().admit(parts, now()).unwrap();
            call.ensure_permitted().err().map(|refused| refused.status().as_u16())
        };
        assert_eq!(
            refused("GET", "/audit/logs", "read_audit", &alice()),
            Some(403),
            "not an admin"
        );
        assert_eq!(refused("GET", "/audit/logs", "read_audit", &Caller::Anonymous), Some(401));
        assert_eq!(refused("POST", "/auth/login", "login", &Caller::Anonymous), None);
        assert_eq!(
            refused("GET", "/health", "show_health", &Caller::Anonymous),
            Some(404),
            "the gateway's own"
        );
    }

    fn gatekeeper() -> Gatekeeper {
        Gatekeeper::new(AssertionKey::new([7; 32]))
    }

    fn request(method: &str, target: &str, assertions: &[&str]) -> Parts {
        let mut request = Request::builder().method(method).uri(target);
        for assertion in assertions {
            request = request.header(ASSERTION_HEADER, *assertion);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn signed(method: &str, target: &str, operation: &str, caller: &Caller) -> String {
        let client = [127, 0, 0, 1].into();
        let assertion = Assertion {
            method,
            target,
            operation,
            request: RequestId(Uuid::from_u128(5)),
            client,
            caller,
        };
        AssertionKey::new([7; 32]).sign(&assertion, NOW)
    }

    fn alice() -> Caller {
        Caller::Known(Identity {
            user: UserId(3),
            roles: [Role::User].into_iter().collect(),
            namespace: None,
            presented: PresentedBy::AccessToken {
                jti: Uuid::from_u128(1),
                sid: Uuid::from_u128(2),
                ctr: 0,
                generation: 1,
                expires_at: NOW + 3600,
            },
        })
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    const NOW: u64 = 1_800_000_000;
}
