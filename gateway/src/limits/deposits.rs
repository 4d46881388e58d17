//! What addresses are charged for attempts at a secret, and get back where it was no guess.

use std::{
    collections::HashMap,
    mem,
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use governor::Quota;
use memoric_contract::Network;

use super::Budget;
use crate::rejection::Rejection;

/// What each network has paid for attempts: for those that were bad, until time has earned it back,
/// and for those that nobody has judged yet.
///
/// An attempt is paid for before it is made, so of many at once no more are let through than of as
/// many in turn. Time earns nothing back of what is held for an attempt, and an attempt that was good
/// gets back what was held for it: it neither costs anything nor makes room for a bad one, however
/// many of them come between two bad ones and however long they take.
pub(super) struct Deposits {
    name: &'static str,
    quota: Quota,
    most: usize,
    books: Mutex<Books>,
}

/// What was paid for one attempt. It is kept, also where nobody stays to hear the answer, unless it
/// is given back.
pub(crate) struct Deposit {
    deposits: Arc<Deposits>,
    network: Network,
    /// Whether it was paid from what those without an account of their own have together.
    is_shared: bool,
    is_held: bool,
}

/// An account for each network up to a number of them, and one that all further share.
struct Books {
    accounts: HashMap<Network, Account>,
    shared: Account,
}

/// What there is to pay for: attempts, each as the time that it takes to earn one back.
#[derive(Clone, Copy)]
struct Account {
    /// For bad ones, at `as_of`.
    owed: Duration,
    as_of: Instant,
    /// How many nobody has judged yet.
    held: u32,
}

impl Deposits {
    pub(super) fn new(
        name: &'static str,
        quota: Quota,
        most: NonZeroUsize,
        now: Instant,
    ) -> Arc<Self> {
        let books = Books { accounts: HashMap::new(), shared: Account::new(now) };
        Arc::new(Self { name, quota, most: most.get(), books: Mutex::new(books) })
    }

    /// Takes a deposit from `network`, if it has one left.
    pub(super) fn take(
        self: &Arc<Self>,
        network: Network,
        now: Instant,
    ) -> Result<Deposit, Rejection> {
        let mut books = self.books();
        let has_room = books.accounts.len() < self.most || books.accounts.contains_key(&network);
        let account = match has_room {
            true => books.accounts.entry(network).or_insert_with(|| Account::new(now)),
            false => &mut books.shared,
        };
        let over = account.wait(self.quota, now);
        if !over.is_zero() {
            let budget = Budget::of(self.name, self.quota, 0);
            return Err(Rejection::TooMany { retry_after: over, budget });
        }
        account.held += 1;
        let deposits = Arc::clone(self);
        Ok(Deposit { deposits, network, is_shared: !has_room, is_held: true })
    }

    /// Forgets whoever owes nothing.
    pub(super) fn tidy(&self, now: Instant) {
        let is_open = |account: &Account| account.held > 0 || !account.owed(now).is_zero();
        self.books().accounts.retain(|_, account| is_open(account));
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deposit {
    /// Whose it is.
    pub(super) fn network(&self) -> Network {
        self.network
    }

    /// Gives it back: the attempt was no guess.
    pub(super) fn give_back(&mut self, now: Instant) {
        self.settle(Duration::ZERO, now);
    }

    /// Keeps it, until time has earned it back.
    pub(super) fn keep(&mut self, now: Instant) {
        self.settle(self.deposits.quota.replenish_interval(), now);
    }

    /// What is left where it came from.
    pub(crate) fn budget(&self, now: Instant) -> Budget {
        let Deposits { name, quota, .. } = *self.deposits;
        let mut books = self.deposits.books();
        let left = self.account(&mut books).map(|account| account.left(quota, now));
        // Who is not listed owes nothing.
        Budget::of(name, quota, left.unwrap_or(quota.burst_size().get()))
    }

    /// Judges it, once: `owed` is what it leaves to be earned back.
    fn settle(&mut self, owed: Duration, now: Instant) {
        if !mem::take(&mut self.is_held) {
            return;
        }
        let mut books = self.deposits.books();
        if let Some(account) = self.account(&mut books) {
            account.settle(owed, now);
        }
    }

    fn account<'a>(&self, books: &'a mut Books) -> Option<&'a mut Account> {
        match self.is_shared {
            true => Some(&mut books.shared),
            false => books.accounts.get_mut(&self.network),
        }
    }
}

impl Account {
    const fn new(now: Instant) -> Self {
        Self { owed: Duration::ZERO, as_of: now, held: 0 }
    }

    /// What bad attempts have yet to earn back.
    fn owed(&self, now: Instant) -> Duration {
        self.owed.saturating_sub(now.saturating_duration_since(self.as_of))
    }

    /// What is spent, held included.
    fn spent(&self, quota: Quota, now: Instant) -> Duration {
        self.owed(now).saturating_add(quota.replenish_interval().saturating_mul(self.held))
    }

    /// How long until one more can be held, though all that are held turn out bad.
    fn wait(&self, quota: Quota, now: Instant) -> Duration {
        let spent = self.spent(quota, now).saturating_add(quota.replenish_interval());
        spent.saturating_sub(quota.burst_size_replenished_in())
    }

    fn left(&self, quota: Quota, now: Instant) -> u32 {
        let left = quota.burst_size_replenished_in().saturating_sub(self.spent(quota, now));
        let left = left.as_nanos() / quota.replenish_interval().as_nanos().max(1);
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    fn settle(&mut self, owed: Duration, now: Instant) {
        self.owed = self.owed(now).saturating_add(owed);
        self.as_of = self.as_of.max(now);
        self.held = self.held.saturating_sub(1);
    }
}

impl Drop for Deposit {
    fn drop(&mut self) {
        self.keep(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn between_good_attempts_a_bad_one_costs_what_it_always_does() {
        let (deposits, now) = (deposits(3, 9), Instant::now());
        for bad in 1..=3 {
            for _ in 0..100 {
                let mut good = deposits.take(network(1), now).ok().unwrap();
                good.give_back(now);
            }
            let mut deposit = deposits.take(network(1), now).ok().unwrap();
            deposit.keep(now);
            assert_eq!(deposit.budget(now).left, 3 - bad);
        }

        let refused = deposits.take(network(1), now).err();
        let Some(Rejection::TooMany { retry_after, budget }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((retry_after, budget.burst, budget.left), (EACH, 3, 0));
        assert!(deposits.take(network(2), now).is_ok(), "nobody else pays");
        let too_soon = now + EACH - Duration::from_nanos(1);
        assert!(deposits.take(network(1), too_soon).is_err());
        assert!(deposits.take(network(1), now + EACH).is_ok(), "as it was told");
    }

    #[test]
    fn what_is_not_judged_yet_is_paid_for() {
        let (deposits, now) = (deposits(2, 9), Instant::now());
        let mut first = deposits.take(network(1), now).ok().unwrap();
        let second = deposits.take(network(1), now).ok().unwrap();
        assert_eq!(second.budget(now).left, 0);

        let later = now + 100 * EACH;
        assert!(deposits.take(network(1), later).is_err(), "time earns back nothing that is held");
        first.give_back(later);
        first.give_back(later);
        first.keep(later);
        drop(first);
        let third = deposits.take(network(1), later).ok().unwrap();
        assert!(deposits.take(network(1), later).is_err(), "it is given back once");
        drop((second, third));
        assert!(deposits.take(network(1), later).is_err(), "who leaves unheard has paid");
    }

    #[test]
    fn those_without_room_have_one_account() {
        let (deposits, now) = (deposits(2, 1), Instant::now());
        let take = |last| deposits.take(network(last), now);

        let (_own, mut second, _third) = (take(1), take(2).ok().unwrap(), take(3));
        assert!(take(4).is_err(), "two for all the rest together");
        assert!(take(1).is_ok(), "who has a place keeps it");
        second.give_back(now);
        assert!(take(4).is_ok(), "it came from there");
    }

    #[test]
    fn whoever_owes_nothing_is_forgotten() {
        let (deposits, now) = (deposits(2, 9), Instant::now());
        let listed = || deposits.books().accounts.len();
        let mut held = deposits.take(network(1), now).ok().unwrap();
        deposits.take(network(2), now).ok().unwrap().keep(now);

        deposits.tidy(now + EACH / 2);
        assert_eq!(listed(), 2);
        deposits.tidy(now + EACH);
        assert_eq!(listed(), 1, "what is held is owed");
        held.give_back(now + EACH);
        deposits.tidy(now + EACH);
        assert_eq!(listed(), 0);
        assert_eq!(held.budget(now + EACH).left, 2);
    }

    proptest! {
        #[test]
        fn bad_attempts_are_as_many_as_ever_in_whatever_time(
            steps in prop::collection::vec((0..3_u32, 0..3_u8, any::<prop::sample::Index>()), 0..200)
        ) {
            let (deposits, mut now) = (deposits(BURST, 9), Instant::now());
            let (mut held, mut bad) = (Vec::new(), Vec::new());
            for (thirds, step, index) in steps {
                now += EACH / 3 * thirds;
                if step == 0 {
                    held.extend(deposits.take(network(1), now).map(|deposit| (deposit, now)));
                } else if !held.is_empty() {
                    let (mut deposit, taken) = held.swap_remove(index.index(held.len()));
                    match step {
                        1 => deposit.give_back(now),
                        _ => {
                            deposit.keep(now);
                            bad.push(taken);
                        }
                    }
                }
            }

            bad.sort();
            for (first, from) in bad.iter().enumerate() {
                for (last, to) in bad.iter().enumerate().skip(first) {
                    let most = f64::from(BURST) + to.duration_since(*from).div_duration_f64(EACH);
                    let there_were = u32::try_from(last - first + 1).unwrap();
                    prop_assert!(f64::from(there_were) <= most + 1e-6);
                }
            }
        }
    }

    /// One in each [`EACH`], and so many at once.
    fn deposits(burst: u32, most: usize) -> Arc<Deposits> {
        let quota = Quota::with_period(EACH).unwrap();
        let quota = quota.allow_burst(NonZeroU32::new(burst).unwrap());
        Deposits::new("credentials", quota, NonZeroUsize::new(most).unwrap(), Instant::now())
    }

    fn network(last: u8) -> Network {
        Network::of([192, 0, 2, last].into())
    }

    const EACH: Duration = Duration::from_secs(3);
    const BURST: u32 = 4;
}
