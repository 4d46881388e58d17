//! How many requests may be with the backend at once.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use memoric_contract::{Caller, Network, UserId};

use crate::{config::InFlight, rejection::Rejection, tally::Tally};

/// Counts the requests that are with the backend, and turns away more than it should hold.
///
/// Each of them has a connection of the backend's for as long as its body takes to come and its
/// answer to leave, which is as long as its client likes, within a deadline.
pub(crate) struct Seats {
    bounds: InFlight,
    taken: Mutex<Taken>,
}

/// Room for one request with the backend. Dropping it makes room for another.
pub(crate) struct Seat {
    seats: Arc<Seats>,
    network: Network,
    user: Option<UserId>,
}

#[derive(Default)]
struct Taken {
    total: usize,
    strangers: usize,
    by_network: Tally<Network>,
    by_user: Tally<UserId>,
}

impl Seats {
    pub(crate) fn new(bounds: InFlight) -> Arc<Self> {
        Arc::new(Self { bounds, taken: Mutex::default() })
    }

    /// A seat for a request of `caller` from `client`, if there is one left for them.
    ///
    /// Strangers have half of them at most, so that a storm of log-ins keeps nobody out who is
    /// logged in.
    pub(crate) fn take(
        self: &Arc<Self>,
        client: Option<IpAddr>,
        caller: &Caller,
    ) -> Result<Seat, Rejection> {
        let network = client.map(Network::of).ok_or(Rejection::Unaccountable)?;
        let user = match caller {
            Caller::Known(identity) => Some(identity.user),
            Caller::Anonymous => None,
        };
        self.taken().seat(network, user, self.bounds)?;
        Ok(Seat { seats: Arc::clone(self), network, user })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn seat(
        &mut self,
        network: Network,
        user: Option<UserId>,
        bounds: InFlight,
    ) -> Result<(), Rejection> {
        let is_full_of_strangers = || self.strangers >= bounds.total.div_ceil(2);
        if self.total >= bounds.total || user.is_none() && is_full_of_strangers() {
            return Err(Rejection::Overloaded);
        }
        if !self.by_network.add(network, bounds.per_address) {
            return Err(Rejection::Crowded);
        }
        if user.is_some_and(|user| !self.by_user.add(user, bounds.per_identity)) {
            self.by_network.remove(network);
            return Err(Rejection::Crowded);
        }
        self.total += 1;
        self.strangers += usize::from(user.is_none());
        Ok(())
    }

    fn free(&mut self, network: Network, user: Option<UserId>) {
        self.by_network.remove(network);
        self.total = self.total.saturating_sub(1);
        match user {
            Some(user) => self.by_user.remove(user),
            None => self.strangers = self.strangers.saturating_sub(1),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.taken().free(self.network, self.user);
    }
}

#[cfg(test)]
mod tests {
    use memoric_contract::Role;

    use super::*;
    use crate::authn::tests::somebody;

    #[test]
    fn one_client_or_account_cannot_take_every_seat() {
        let seats = seats(10, 3, 2);
        let take = |last: u8, user| seats.take(from(last), &caller(user));

        let alices = [take(1, 1), take(2, 1)];
        assert_eq!(take(3, 1).err(), Some(Rejection::Crowded), "from wherever");
        let others = [take(1, 2), take(1, 3)];
        assert!(alices.iter().chain(&others).all(Result::is_ok));
        assert_eq!(take(1, 4).err(), Some(Rejection::Crowded), "whoever asks");
        assert!(take(2, 4).is_ok(), "another account elsewhere");

        drop(alices);
        assert!(take(1, 1).is_ok(), "the seats are free again");
        drop(others);
        let taken = seats.taken();
        assert_eq!((taken.total, taken.strangers), (0, 0));
        assert!(taken.by_network.is_empty() && taken.by_user.is_empty(), "nobody is remembered");
    }

    #[test]
    fn the_house_has_a_bound_of_its_own() {
        let seats = seats(2, 9, 9);
        let taken = [seats.take(from(1), &caller(1)), seats.take(from(2), &caller(2))];

        assert_eq!(seats.take(from(3), &caller(3)).err(), Some(Rejection::Overloaded));
        drop(taken);
        assert!(seats.take(from(3), &caller(3)).is_ok());
        assert_eq!(seats.take(None, &caller(3)).err(), Some(Rejection::Unaccountable));
    }

    #[test]
    fn strangers_keep_nobody_out_who_is_known() {
        let seats = seats(4, 9, 9);
        let strangers = [1, 2].map(|last| seats.take(from(last), &Caller::Anonymous));

        assert!(strangers.iter().all(Result::is_ok));
        let third = seats.take(from(3), &Caller::Anonymous);
        assert_eq!(third.err(), Some(Rejection::Overloaded));
        assert!(seats.take(from(3), &caller(1)).is_ok());
    }

    fn seats(total: usize, per_address: usize, per_identity: usize) -> Arc<Seats> {
        Seats::new(InFlight { total, per_address, per_identity })
    }

    fn from(last: u8) -> Option<IpAddr> {
        Some([192, 0, 2, last].into())
    }

    fn caller(user: i64) -> Caller {
        Caller::Known(somebody(user, Role::User))
    }
}
