//! What the gateway and the backend say to each other, byte for byte.
//!
//! Everything here crosses the wire between the two processes, or is written by both for
//! someone else to read. Nothing here does any I/O. The backend owns this crate: it is what
//! the backend demands of a caller. The gateway depends on it, and on nothing else of ours.

pub mod api_key;
pub mod assertion;
pub mod audit;
mod base62;
mod fields;
mod identity;
mod key_id;
mod network;
mod operation;
mod permission;
pub mod problem;
pub mod refresh;
pub mod revocation;
pub mod spool;
mod takes;
pub mod token;

pub use assertion::{ASSERTION_HEADER, Assertion, AssertionError, AssertionKey, VerifiedAssertion};
pub use fields::{FieldReader, FieldWriter};
pub use identity::{Caller, CredentialKind, Identity, KeyId, PresentedBy, RequestId, UserId};
pub use key_id::{KeyPurpose, key_id};
pub use network::{Network, Site};
pub use operation::{AnsweredBy, Demands, InternalOperation, LimitClass, Operation, RecordedBy};
pub use permission::{Permission, Permissions, Role, Roles};
pub use problem::{FieldError, Problem};
pub use takes::Takes;
