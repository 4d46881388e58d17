//! The gateway's signed word about one request.
//!
//! A header of base64url: version u8 ‖ key id 8 ‖ a length-prefixed list ‖ HMAC-SHA256 over all
//! before it. The list: method, target, operation, expiry, request id, client address, form
//! (0 anonymous, 1 known) and, for a known caller, user, roles, namespace and the credential.

use std::net::IpAddr;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    Caller, FieldReader, FieldWriter, Identity, KeyId, KeyPurpose, Permissions, PresentedBy,
    RequestId, Roles, UserId, identity::canonical_address, key_id,
};

/// The only header that the backend believes.
pub const ASSERTION_HEADER: &str = "x-memoric-assertion";

/// Says for whom one request is made, this once.
///
/// It names method, target and operation, so that one captured on its way to a read cannot be
/// replayed as a write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assertion<'a> {
    /// The method, as forwarded.
    pub method: &'a str,
    /// The path and query, as forwarded.
    pub target: &'a str,
    /// The name of the operation.
    pub operation: &'a str,
    /// The request that this belongs to.
    pub request: RequestId,
    /// Where the client connects from.
    pub client: IpAddr,
    /// For whom it is made.
    pub caller: &'a Caller,
}

/// What an assertion says, believed. [`AssertionKey::verify`] is its only maker.
#[derive(Clone, Debug)]
pub struct VerifiedAssertion {
    request: RequestId,
    client: IpAddr,
    caller: Caller,
}

/// Signs and checks assertions. Held by the gateway and the backend, and by nobody else.
#[derive(Clone)]
pub struct AssertionKey {
    id: [u8; 8],
    /// The secret, padded with zeros to the block of HMAC, which is how HMAC takes a shorter key.
    secret: Zeroizing<[u8; 64]>,
}

/// Why an assertion was not believed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum AssertionError {
    /// It is not in our format.
    #[error("the assertion is malformed")]
    Malformed,
    /// It is signed with a key that is not ours.
    #[error("the assertion names another key")]
    UnknownKey,
    /// The gateway did not sign it.
    #[error("the assertion has a bad signature")]
    Forged,
    /// It was signed too long ago, or for too long.
    #[error("the assertion is stale")]
    Stale,
    /// It was made for something else.
    #[error("the assertion is for a different request")]
    Misdirected,
}

impl AssertionKey {
    /// Uses 32 random bytes.
    pub fn new(secret: [u8; 32]) -> Self {
        let mut padded = Zeroizing::new([0; 64]);
        padded.iter_mut().zip(secret).for_each(|(byte, secret)| *byte = secret);
        Self { id: key_id(&secret, KeyPurpose::Assertion), secret: padded }
    }

    /// Signs `assertion` as of `now`, in epoch seconds, in the form that goes in the header.
    pub fn sign(&self, assertion: &Assertion<'_>, now: u64) -> String {
        let mut header = vec![VERSION];
        header.extend_from_slice(&self.id);
        let list = FieldWriter::behind(&header)
            .text(assertion.method)
            .text(assertion.target)
            .text(assertion.operation)
            .integer(signed(now.saturating_add(LIFETIME)))
            .uuid(assertion.request.0)
            .text(&canonical_address(assertion.client).to_string());
        let mut bytes = write_caller(list, assertion.caller).finish();
        let mac = self.mac(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac);
        BASE64.encode(bytes)
    }

    /// Believes `header` only if the gateway signed it, for this, just now.
    pub fn verify(
        &self,
        header: &str,
        (method, target): (&str, &str),
        operation: &str,
        now: u64,
    ) -> Result<VerifiedAssertion, AssertionError> {
        let bytes = BASE64.decode(header).map_err(|_| AssertionError::Malformed)?;
        let (signed_part, mac) = bytes.split_last_chunk::<32>().ok_or(AssertionError::Malformed)?;
        let (head, list) = signed_part.split_first_chunk::<9>().ok_or(AssertionError::Malformed)?;
        let [version, id @ ..] = head;
        if *version != VERSION {
            return Err(AssertionError::Malformed);
        }
        if *id != self.id {
            return Err(AssertionError::UnknownKey);
        }
        self.mac(signed_part).verify_slice(mac).map_err(|_| AssertionError::Forged)?;

        let read = read(list).ok_or(AssertionError::Malformed)?;
        if read.expires_at <= now || read.expires_at > now.saturating_add(LIFETIME + SKEW) {
            return Err(AssertionError::Stale);
        }
        if (read.method, read.target, read.operation) != (method, target, operation) {
            return Err(AssertionError::Misdirected);
        }
        Ok(VerifiedAssertion { request: read.request, client: read.client, caller: read.caller })
    }

    fn mac(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new((&*self.secret).into());
        mac.update(bytes);
        mac
    }
}

impl VerifiedAssertion {
    /// The request that this belongs to.
    pub fn request(&self) -> RequestId {
        self.request
    }

    /// Where the client connects from.
    pub fn client(&self) -> IpAddr {
        self.client
    }

    /// For whom it is made.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

struct Read<'a> {
    method: &'a str,
    target: &'a str,
    operation: &'a str,
    expires_at: u64,
    request: RequestId,
    client: IpAddr,
    caller: Caller,
}

fn write_caller(list: FieldWriter, caller: &Caller) -> FieldWriter {
    let Caller::Known(identity) = caller else { return list.integer(0) };
    let list = list
        .integer(1)
        .integer(identity.user.0)
        .integer(identity.roles.bits().into())
        .maybe_text(identity.namespace.as_deref());
    match &identity.presented {
        PresentedBy::AccessToken { jti, sid, ctr, generation, expires_at } => list
            .integer(1)
            .uuid(*jti)
            .uuid(*sid)
            .integer((*ctr).into())
            .integer(signed(*generation))
            .integer(signed(*expires_at)),
        PresentedBy::ForeignToken { id, is_named, generation, expires_at } => list
            .integer(3)
            .uuid(*id)
            .integer(i64::from(*is_named))
            .integer(signed(*generation))
            .integer(signed(*expires_at)),
        PresentedBy::ApiKey { id, scopes, generation, expires_at } => list
            .integer(2)
            .text(&id.0)
            .integer(scopes.bits().into())
            .integer(signed(*generation))
            .integer(signed(*expires_at)),
    }
}

fn read(list: &[u8]) -> Option<Read<'_>> {
    let mut fields = FieldReader::new(list);
    let read = Read {
        method: fields.text()?,
        target: fields.text()?,
        operation: fields.text()?,
        expires_at: unsigned(fields.integer()?)?,
        request: RequestId(fields.uuid()?),
        client: fields.text()?.parse().ok()?,
        caller: read_caller(&mut fields)?,
    };
    fields.is_empty().then_some(read)
}

fn read_caller(fields: &mut FieldReader<'_>) -> Option<Caller> {
    match fields.integer()? {
        0 => Some(Caller::Anonymous),
        1 => Some(Caller::Known(Identity {
            user: UserId(fields.integer()?),
            roles: Roles::from_bits(u8::try_from(fields.integer()?).ok()?)?,
            namespace: fields.maybe_text()?.map(str::to_owned),
            presented: read_credential(fields)?,
        })),
        _ => None,
    }
}

fn read_credential(fields: &mut FieldReader<'_>) -> Option<PresentedBy> {
    match fields.integer()? {
        1 => Some(PresentedBy::AccessToken {
            jti: fields.uuid()?,
            sid: fields.uuid()?,
            ctr: u32::try_from(fields.integer()?).ok()?,
            generation: unsigned(fields.integer()?)?,
            expires_at: unsigned(fields.integer()?)?,
        }),
        2 => Some(PresentedBy::ApiKey {
            id: KeyId(fields.text()?.to_owned()),
            scopes: Permissions::from_bits(u16::try_from(fields.integer()?).ok()?)?,
            generation: unsigned(fields.integer()?)?,
            expires_at: unsigned(fields.integer()?)?,
        }),
        3 => Some(PresentedBy::ForeignToken {
            id: fields.uuid()?,
            is_named: match fields.integer()? {
                0 => false,
                1 => true,
                _ => return None,
            },
            generation: unsigned(fields.integer()?)?,
            expires_at: unsigned(fields.integer()?)?,
        }),
        _ => None,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

const VERSION: u8 = 1;

/// Seconds: long enough for a slow hop, short enough to be useless once logged.
const LIFETIME: u64 = 30;

/// Seconds that the gateway's clock may be ahead of the backend's.
const SKEW: u64 = 5;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use uuid::Uuid;

    use super::*;
    use crate::{Permission, Role};

    #[test]
    fn what_the_gateway_signed_is_believed() {
        for caller in [Caller::Anonymous, alice(), keyed()] {
            let verified =
                verify(&sign(&caller), "GET", "/memories?top_k=3", "recall_memories", NOW).unwrap();
            assert_eq!(verified.caller(), &caller);
            assert_eq!(
                verified.client(),
                IpAddr::from(Ipv4Addr::LOCALHOST),
                "an IPv4 address has one form"
            );
        }
    }

    #[test]
    fn it_is_good_for_one_request_only() {
        let header = sign(&alice());
        let elsewhere = [
            ("POST", "/memories?top_k=3", "recall_memories"),
            ("GET", "/memories?top_k=4", "recall_memories"),
            ("GET", "/memories?top_k=3", "list_clusters"),
        ];
        for (method, target, operation) in elsewhere {
            let refused = verify(&header, method, target, operation, NOW).unwrap_err();
            assert_eq!(refused, AssertionError::Misdirected, "{method} {target} {operation}");
        }
    }

    #[test]
    fn it_is_good_for_half_a_minute() {
        let header = sign(&alice());
        let at =
            |now| verify(&header, "GET", "/memories?top_k=3", "recall_memories", now).map(drop);
        assert_eq!(at(NOW + 29), Ok(()));
        assert_eq!(at(NOW + 30), Err(AssertionError::Stale));
        assert_eq!(at(NOW - 6), Err(AssertionError::Stale), "nor from the future");
    }

    #[test]
    fn no_bit_of_it_can_be_changed() {
        let bytes = BASE64.decode(sign(&alice())).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut forged = bytes.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let refused =
                verify(&BASE64.encode(forged), "GET", "/memories?top_k=3", "recall_memories", NOW);
            assert!(refused.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_key_is_named_as_such() {
        let refused = AssertionKey::new([8; 32])
            .verify(&sign(&alice()), ("GET", "/memories?top_k=3"), "recall_memories", NOW)
            .unwrap_err();
        assert_eq!(refused, AssertionError::UnknownKey);
    }

    fn sign(caller: &Caller) -> String {
        let assertion = Assertion {
            method: "GET",
            target: "/memories?top_k=3",
            operation: "recall_memories",
            request: RequestId(Uuid::from_u128(5)),
            client: Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
            caller,
        };
        AssertionKey::new([7; 32]).sign(&assertion, NOW)
    }

    fn verify(
        header: &str,
        method: &str,
        target: &str,
        operation: &str,
        now: u64,
    ) -> Result<VerifiedAssertion, AssertionError> {
        AssertionKey::new([7; 32]).verify(header, (method, target), operation, now)
    }

    fn alice() -> Caller {
        Caller::Known(Identity {
            user: UserId(3),
            roles: [Role::User].into_iter().collect(),
            namespace: Some("company.a".to_owned()),
            presented: PresentedBy::AccessToken {
                jti: Uuid::from_u128(1),
                sid: Uuid::from_u128(2),
                ctr: 4,
                generation: 6,
                expires_at: NOW + 3600,
            },
        })
    }

    fn keyed() -> Caller {
        let Caller::Known(alice) = alice() else { unreachable!() };
        Caller::Known(Identity {
            presented: PresentedBy::ApiKey {
                id: KeyId("0123456789ab".to_owned()),
                scopes: [Permission::ReadMemories].into_iter().collect(),
                generation: 4,
                expires_at: NOW + 60,
            },
            namespace: None,
            ..alice
        })
    }

    const NOW: u64 = 1_800_000_000;
}
