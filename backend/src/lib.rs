//! The vault: where memories rest, sealed, one owner's rows at a time.
//!
//! A request arrives through [`api`], where [`caller`] believes the gateway's assertion. From what
//! it says comes a [`Scope`](scope::Scope), without which no row of anybody's is touched.

mod accounts;
mod administration;
mod api;
mod api_keys;
mod app;
mod audit;
mod backend;
mod caller;
pub mod command;
mod config;
mod crossing;
mod cursor;
mod devices;
mod error;
mod guesses;
mod members;
mod memories;
mod metrics;
mod migrate;
mod password_rules;
mod passwords;
mod people;
mod presented;
mod resets;
mod revocation;
mod scope;
mod seal;
mod sessions;
mod store;
mod tokens;
mod vault;

pub use backend::{Addr, Backend, Reins, StartError};
pub use config::{Config, role_password};
pub use migrate::migrate;

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use crate::{
        audit::Named,
        memories::{Memory, Metadata, NewMemory, Payload, Recalled},
        people::LoginName,
        resets::ResetToken,
        store::{Account, MemoryRow, NewAccount, NewMemoryRow, NewSession},
    };

    trait Asked<Answer> {
        const ANSWER: () = ();
    }

    impl<T> Asked<()> for T {}
    impl<T: Debug> Asked<bool> for T {}

    /// Content, hashes and seeds end up in no log by way of `{:?}`. This does not compile if one of
    /// these types can be printed: then there are two answers, and neither is the one.
    #[test]
    fn what_is_nobodys_to_see_cannot_be_printed() {
        macro_rules! unprintable {
            ($($secret:ty),+) => { $(let () = <$secret as Asked<_>>::ANSWER;)+ };
        }
        unprintable!(Account, NewAccount<'_>, NewSession, LoginName, Named<'_>, ResetToken);
        unprintable!(
            NewMemory,
            Memory,
            Metadata,
            Payload<'_>,
            Recalled<'_>,
            MemoryRow,
            NewMemoryRow
        );
    }
}
