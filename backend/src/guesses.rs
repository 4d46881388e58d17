//! Guesses at passwords: how many were wrong, and who has to wait for how long.

mod ledger;
mod rules;
mod turns;

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use memoric_contract::{Network, Site, UserId};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use self::{
    ledger::{Charge, Ledger},
    rules::{
        ACCOUNT, ACCOUNT_TURNS, MOST, MOST_WAITING, NETWORK, NETWORK_TURNS, OVERALL, OVERALL_TURNS,
        PAIR, SITE, SITE_TURNS, USER, USER_TURNS,
    },
    turns::{Turns, Waiter},
};

/// The wrong guesses of late: for each name from each network, for each name, from each network, from
/// each site, and in all.
///
/// A name is counted as it is typed, whether it stands for an account or not: whoever has to wait hears
/// so before anybody looks. So the user name and the address of one account are counted apart, and
/// strangers have twice the guesses at it.
///
/// Each has a wait that grows with them, to an end. Where others can make it grow, whoever was told to
/// wait has a turn, which comes when they were told, whoever else presses; everybody of one site has one
/// turn at a time, so that many networks of one hand wait as one; and whoever asks for one name in a
/// network has one turn there at a time, so that whoever presses at other names only delays them. Nothing
/// tells apart two who ask for the same name from the same network: there the one keeps the other out,
/// unless they are known.
/// Who is known (by a device that has logged in, or by a session) answers for their own guesses, and
/// for those of all who are known as the same user, so whatever strangers do keeps nobody out of their
/// account on their own machine, and many devices of one account guess no faster than a few.
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
    /// A device of a user's, or a session of theirs, by its id.
    Known(UserId, Uuid),
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
    sites: Ledger<Site>,
    overall: Ledger<()>,
    known: Ledger<Uuid>,
    users: Ledger<UserId>,
    account_turns: Turns<NameKey, Site>,
    network_turns: Turns<Network, NameKey>,
    site_turns: Turns<Site, Network>,
    overall_turns: Turns<(), Site>,
    user_turns: Turns<UserId, Uuid>,
}

enum Charged {
    Stranger(Box<Strange>),
    Known(Known),
}

/// What a stranger's guess was counted as, and whose turns it took.
struct Strange {
    name: NameKey,
    by: Network,
    pair: Charge<(NameKey, Network)>,
    account: Charge<NameKey>,
    network: Charge<Network>,
    site: Charge<Site>,
    overall: Charge<()>,
    turns: Taken,
}

/// What the guess of who is known was counted as, and when the turn came that it took.
struct Known {
    user: UserId,
    id: Uuid,
    own: Charge<Uuid>,
    all: Charge<UserId>,
    turn: Option<Instant>,
}

/// When the turns came that were taken.
struct Taken {
    account: Option<Instant>,
    network: Option<Instant>,
    site: Option<Instant>,
    overall: Option<Instant>,
}

impl Guesses {
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            books: Mutex::new(Books {
                pairs: Ledger::new(PAIR, MOST, now),
                accounts: Ledger::new(ACCOUNT, MOST, now),
                networks: Ledger::new(NETWORK, MOST, now),
                sites: Ledger::new(SITE, MOST, now),
                overall: Ledger::new(OVERALL, 1, now),
                known: Ledger::new(PAIR, MOST, now),
                users: Ledger::new(USER, MOST, now),
                account_turns: Turns::new(ACCOUNT_TURNS, MOST_WAITING, now),
                network_turns: Turns::new(NETWORK_TURNS, MOST_WAITING, now),
                site_turns: Turns::new(SITE_TURNS, MOST_WAITING, now),
                overall_turns: Turns::new(OVERALL_TURNS, MOST_WAITING, now),
                user_turns: Turns::new(USER_TURNS, MOST_WAITING, now),
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
            Charged::Stranger(charged) => vec![
                (books.pairs.wrong(&charged.pair, now), "at one account from one network"),
                (books.accounts.wrong(&charged.account, now), "at one account"),
                (books.networks.wrong(&charged.network, now), "from one network"),
                (books.sites.wrong(&charged.site, now), "from one site"),
                (books.overall.wrong(&charged.overall, now), "at all accounts"),
            ],
            Charged::Known(known) => vec![
                (books.known.wrong(&known.own, now), "from a known device or session"),
                (books.users.wrong(&known.all, now), "from the known devices of one account"),
            ],
        };
        let begun: Vec<_> = begun.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
        (!begun.is_empty()).then_some(Burst(begun))
    }

    /// It was right: whoever made it has nothing more to answer for, and nobody else has less.
    pub(crate) fn was_right(self) {
        self.take_back();
        let mut books = self.guesses.books();
        match &self.charged {
            Charged::Stranger(charged) => books.pairs.clear(&charged.pair),
            Charged::Known(known) => books.known.clear(&known.own),
        }
    }

    /// It came to nothing, and nobody has learnt anything by it.
    pub(crate) fn was_none(self) {
        self.take_back();
        self.guesses.books().give_back(&self.charged);
    }

    fn take_back(&self) {
        let mut books = self.guesses.books();
        match &self.charged {
            Charged::Stranger(charged) => {
                books.pairs.take_back(&charged.pair, self.made);
                books.accounts.take_back(&charged.account, self.made);
                books.networks.take_back(&charged.network, self.made);
                books.sites.take_back(&charged.site, self.made);
                books.overall.take_back(&charged.overall, self.made);
            }
            Charged::Known(known) => {
                books.known.take_back(&known.own, self.made);
                books.users.take_back(&known.all, self.made);
            }
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
    fn wait(&mut self, guesser: Guesser, now: Instant) -> Duration {
        let (name, by) = match guesser {
            Guesser::Stranger(name, network) => (name, network),
            Guesser::Known(user, id) => return self.wait_of_known(user, id, now),
        };
        let own = self.pairs.wait((name, by), now);
        let of_name = Waiter { is_held: !own.is_zero(), ..within(name, by) };
        let others = self.networks.wait(by, now);
        let own = own.max(self.network_turns.wait(by, of_name, others, now));
        let (site, is_held) = (by.site(), !own.is_zero());
        let of_site = Waiter { is_held, ..within(site, by) };
        let others = self.accounts.wait(name, now);
        let account = self.account_turns.wait(name, of_site, others, now);
        let others = self.sites.wait(site, now);
        let beside = self.site_turns.wait(site, within(by, by), others, now);
        let others = self.overall.wait((), now);
        let overall = self.overall_turns.wait((), of_site, others, now);
        let wait = own.max(account).max(beside).max(overall);
        if !wait.is_zero() {
            self.keep_turns(name, by, now + wait);
        }
        wait
    }

    /// Keeps for whoever was told to come back at `until` the turns that come before.
    fn keep_turns(&mut self, name: NameKey, by: Network, until: Instant) {
        let site = by.site();
        self.account_turns.keep(name, within(site, by), until);
        self.network_turns.keep(by, within(name, by), until);
        self.site_turns.keep(site, within(by, by), until);
        self.overall_turns.keep((), within(site, by), until);
    }

    fn wait_of_known(&mut self, user: UserId, id: Uuid, now: Instant) -> Duration {
        let own = self.known.wait(id, now);
        let others = self.users.wait(user, now);
        let who = Waiter { is_held: !own.is_zero(), ..alone(id) };
        own.max(self.user_turns.wait(user, who, others, now))
    }

    fn charge(&mut self, guesser: Guesser, now: Instant) -> Charged {
        let (name, by) = match guesser {
            Guesser::Stranger(name, network) => (name, network),
            Guesser::Known(user, id) => {
                return Charged::Known(Known {
                    user,
                    id,
                    own: self.known.charge(id, now),
                    all: self.users.charge(user, now),
                    turn: self.user_turns.take(user, alone(id), now),
                });
            }
        };
        let site = by.site();
        Charged::Stranger(Box::new(Strange {
            name,
            by,
            pair: self.pairs.charge((name, by), now),
            account: self.accounts.charge(name, now),
            network: self.networks.charge(by, now),
            site: self.sites.charge(site, now),
            overall: self.overall.charge((), now),
            turns: Taken {
                account: self.account_turns.take(name, within(site, by), now),
                network: self.network_turns.take(by, within(name, by), now),
                site: self.site_turns.take(site, within(by, by), now),
                overall: self.overall_turns.take((), within(site, by), now),
            },
        }))
    }

    /// Gives back the turns that `charged` took.
    fn give_back(&mut self, charged: &Charged) {
        let Strange { name, by, turns, .. } = match charged {
            Charged::Stranger(charged) => &**charged,
            Charged::Known(Known { user, id, turn, .. }) => {
                if let Some(due) = *turn {
                    self.user_turns.give_back(*user, alone(*id), due);
                }
                return;
            }
        };
        let site = by.site();
        if let Some(due) = turns.account {
            self.account_turns.give_back(*name, within(site, *by), due);
        }
        if let Some(due) = turns.network {
            self.network_turns.give_back(*by, within(*name, *by), due);
        }
        if let Some(due) = turns.site {
            self.site_turns.give_back(site, within(*by, *by), due);
        }
        if let Some(due) = turns.overall {
            self.overall_turns.give_back((), within(site, *by), due);
        }
    }
}

fn within<G>(group: G, network: Network) -> Waiter<G> {
    Waiter { group, network, is_held: false }
}

/// Who waits as nobody else does, wherever they are.
fn alone<G>(group: G) -> Waiter<G> {
    within(group, Network::of(Ipv4Addr::UNSPECIFIED.into()))
}

#[cfg(test)]
mod tests;
