//! Guesses at passwords: how many were wrong, and who has to wait for how long.

mod ledger;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use memoric_contract::Network;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use self::ledger::{Charge, Ledger, Rule};

/// The wrong guesses of late: for each name from each network, for each name, from each network, and
/// in all.
///
/// A name is counted as it is typed, whether it stands for an account or not: whoever has to wait hears
/// so before anybody looks. So the user name and the address of one account are counted apart, and
/// strangers have twice the guesses at it.
///
/// Each has a wait that grows with them, to an end: whoever goes on asking is let in now and then.
/// Who is known (by a device that has logged in, or by a session) answers for their own guesses
/// alone, so whatever strangers do keeps nobody out of their account on their own machine.
///
/// Every backend counts for itself.
pub(crate) struct Guesses {
    books: Mutex<Books>,
}

/// Who guesses.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guesser {
    /// Somebody in a network, at a name, whatever it stands for.
    Stranger(NameKey, Network),
    /// A device of the account's owner, or a session of theirs, by its id.
    Known(Uuid),
}

/// Stands for a name as typed, which may be a password.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct NameKey([u8; 16]);

/// One guess, counted as wrong until it is known to be anything else. Whoever drops it leaves it so.
#[must_use]
pub(crate) struct Guess {
    guesses: Arc<Guesses>,
    made: Instant,
    charged: Charged,
}

/// What there are suddenly many wrong guesses at.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Burst(Vec<&'static str>);

struct Books {
    pairs: Ledger<(NameKey, Network)>,
    accounts: Ledger<NameKey>,
    networks: Ledger<Network>,
    overall: Ledger<()>,
    known: Ledger<Uuid>,
}

enum Charged {
    Stranger {
        pair: Charge<(NameKey, Network)>,
        account: Charge<NameKey>,
        network: Charge<Network>,
        overall: Charge<()>,
    },
    Known(Charge<Uuid>),
}

impl Guesses {
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            books: Mutex::new(Books {
                pairs: Ledger::new(PAIR, MOST, now),
                accounts: Ledger::new(ACCOUNT, MOST, now),
                networks: Ledger::new(NETWORK, MOST, now),
                overall: Ledger::new(OVERALL, 1, now),
                known: Ledger::new(PAIR, MOST, now),
            }),
        })
    }

    /// Takes a guess, or says how long until one is taken.
    pub(crate) fn take(
        self: &Arc<Self>,
        guesser: Guesser,
        now: Instant,
    ) -> Result<Guess, Duration> {
        let mut books = self.books();
        let wait = books.wait(guesser, now);
        if !wait.is_zero() {
            return Err(wait);
        }
        let charged = books.charge(guesser, now);
        drop(books);
        Ok(Guess { guesses: Arc::clone(self), made: now, charged })
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NameKey {
    /// Stands for `name`, in the form in which names are compared.
    pub(crate) fn of(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let mut key = [0; 16];
        key.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = digest);
        Self(key)
    }
}

impl Guess {
    /// It was wrong. What there is to tell, where this begins a burst.
    pub(crate) fn was_wrong(self, now: Instant) -> Option<Burst> {
        let mut books = self.guesses.books();
        let begun = match &self.charged {
            Charged::Stranger { pair, account, network, overall } => vec![
                (books.pairs.wrong(pair, now), "at one account from one network"),
                (books.accounts.wrong(account, now), "at one account"),
                (books.networks.wrong(network, now), "from one network"),
                (books.overall.wrong(overall, now), "at all accounts"),
            ],
            Charged::Known(known) => {
                vec![(books.known.wrong(known, now), "from a known device or session")]
            }
        };
        let begun: Vec<_> = begun.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
        (!begun.is_empty()).then_some(Burst(begun))
    }

    /// It was right: whoever made it has nothing more to answer for, and nobody else has less.
    pub(crate) fn was_right(self) {
        self.take_back();
        let mut books = self.guesses.books();
        match &self.charged {
            Charged::Stranger { pair, .. } => books.pairs.clear(pair),
            Charged::Known(known) => books.known.clear(known),
        }
    }

    /// It came to nothing, and nobody has learnt anything by it.
    pub(crate) fn was_none(self) {
        self.take_back();
    }

    fn take_back(&self) {
        let mut books = self.guesses.books();
        match &self.charged {
            Charged::Stranger { pair, account, network, overall } => {
                books.pairs.take_back(pair, self.made);
                books.accounts.take_back(account, self.made);
                books.networks.take_back(network, self.made);
                books.overall.take_back(overall, self.made);
            }
            Charged::Known(known) => books.known.take_back(known, self.made),
        }
    }
}

impl Burst {
    /// What it is, for the trail.
    pub(crate) fn describe(&self) -> String {
        format!("many wrong passwords {}", self.0.join(", and "))
    }
}

impl Books {
    fn wait(&self, guesser: Guesser, now: Instant) -> Duration {
        match guesser {
            Guesser::Stranger(name, network) => self
                .pairs
                .wait((name, network), now)
                .max(self.accounts.wait(name, now))
                .max(self.networks.wait(network, now))
                .max(self.overall.wait((), now)),
            Guesser::Known(id) => self.known.wait(id, now),
        }
    }

    fn charge(&mut self, guesser: Guesser, now: Instant) -> Charged {
        match guesser {
            Guesser::Stranger(name, network) => Charged::Stranger {
                pair: self.pairs.charge((name, network), now),
                account: self.accounts.charge(name, now),
                network: self.networks.charge(network, now),
                overall: self.overall.charge((), now),
            },
            Guesser::Known(id) => Charged::Known(self.known.charge(id, now)),
        }
    }
}

/// At one account from one network, or by one who is known: a person who mistypes does not notice, and
/// a program gets a hundred guesses a day.
const PAIR: Rule = Rule {
    free: 10,
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(15 * 60),
    forgiven: Duration::from_secs(15 * 60),
};

/// At one account, from wherever. Its end is soon, because its owner waits as well where they are not known.
const ACCOUNT: Rule = Rule {
    free: 30,
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    forgiven: Duration::from_secs(60),
};

/// From one network, at whomever. Many people may share one.
const NETWORK: Rule = Rule {
    free: 100,
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    forgiven: Duration::from_secs(10),
};

/// In all, which is what a guesser with many networks and many names is left to.
const OVERALL: Rule = Rule {
    free: 2_000,
    shortest: Duration::from_millis(50),
    longest: Duration::from_secs(5),
    forgiven: Duration::from_millis(50),
};

/// So many are counted apart, of each kind.
const MOST: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn whoever_guesses_waits_longer_and_longer_and_the_neighbour_does_not() {
        let (guesses, now) = guesses();
        assert_eq!(spend(&guesses, stranger("alice", 1), now), 10);
        assert!(guesses.take(stranger("alice", 2), now).is_ok(), "from elsewhere");
        assert!(guesses.take(stranger("bob", 1), now).is_ok(), "at another");
    }

    #[test]
    fn one_account_is_guessed_at_no_faster_from_many_networks() {
        let (guesses, now) = guesses();
        let taken = (1..=200).filter(|from| try_once(&guesses, stranger("alice", *from), now));
        assert_eq!(taken.count(), 30);
        let wait = guesses.take(stranger("alice", 250), now).err().unwrap();
        assert!(wait <= Duration::from_secs(30), "{wait:?}");
        assert!(guesses.take(stranger("alice", 250), now + wait).is_ok(), "never for good");
    }

    #[test]
    fn one_network_guesses_no_faster_at_many_accounts() {
        let (guesses, now) = guesses();
        let names = (0..500).map(|name| format!("name-{name}"));
        assert_eq!(names.filter(|name| try_once(&guesses, stranger(name, 1), now)).count(), 100);
    }

    #[test]
    fn all_networks_guess_no_faster_at_all_accounts() {
        let (guesses, now) = guesses();
        let taken = (0..10_000_u32).filter(|n| {
            let guesser = Guesser::Stranger(NameKey::of(&n.to_string()), network(*n));
            try_once(&guesses, guesser, now)
        });
        assert_eq!(taken.count(), 2_000);
    }

    #[test]
    fn whoever_is_known_waits_for_their_own_guesses_alone() {
        let (guesses, now) = guesses();
        for from in 1..=100 {
            try_once(&guesses, stranger("alice", from), now);
        }
        let known = Guesser::Known(Uuid::from_u128(1));
        assert_eq!(spend(&guesses, known, now), 10);
        assert!(guesses.take(Guesser::Known(Uuid::from_u128(2)), now).is_ok());
    }

    #[test]
    fn a_right_guess_costs_nothing_and_clears_its_makers_name_alone() {
        let (guesses, now) = guesses();
        for from in 1..=29 {
            try_once(&guesses, stranger("alice", from), now);
        }
        for _ in 0..1_000 {
            guesses.take(stranger("alice", 99), now).unwrap().was_right();
        }
        assert!(try_once(&guesses, stranger("alice", 100), now));
        assert!(!try_once(&guesses, stranger("alice", 101), now), "others' still stand");
    }

    #[test]
    fn of_many_at_once_no_more_are_taken_than_of_as_many_in_turn() {
        let (guesses, now) = guesses();
        let under_way: Vec<_> =
            (0..100).filter_map(|_| guesses.take(stranger("alice", 1), now).ok()).collect();
        assert_eq!(under_way.len(), 10);
        under_way.into_iter().for_each(Guess::was_none);
        assert!(guesses.take(stranger("alice", 1), now).is_ok(), "nothing was learnt by them");
    }

    #[test]
    fn a_burst_is_told_once() {
        let (guesses, now) = guesses();
        let told: Vec<_> = (0..10)
            .filter_map(|_| guesses.take(stranger("alice", 1), now).unwrap().was_wrong(now))
            .collect();
        let [burst] = &told[..] else { panic!("{told:?}") };
        assert_eq!(burst.describe(), "many wrong passwords at one account from one network");
    }

    fn spend(guesses: &Arc<Guesses>, guesser: Guesser, now: Instant) -> usize {
        (0..100).take_while(|_| try_once(guesses, guesser, now)).count()
    }

    fn try_once(guesses: &Arc<Guesses>, guesser: Guesser, now: Instant) -> bool {
        guesses.take(guesser, now).map(|guess| guess.was_wrong(now)).is_ok()
    }

    fn stranger(name: &str, from: u32) -> Guesser {
        Guesser::Stranger(NameKey::of(name), network(from))
    }

    fn network(from: u32) -> Network {
        Network::of(Ipv4Addr::from_bits(from).into())
    }

    fn guesses() -> (Arc<Guesses>, Instant) {
        let now = Instant::now();
        (Guesses::new(now), now)
    }
}
