//! How many guesses are free, how long the waits grow, and how turns follow each other.

use std::time::Duration;

use super::{ledger::Rule, turns::Pace};

/// At one account from one network, or by one who is known: a person who mistypes does not notice, and
/// a program gets a hundred guesses a day.
pub(super) const PAIR: Rule = Rule {
    free: 10,
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(15 * 60),
    forgiven: Duration::from_secs(15 * 60),
};

/// At one account by all who are known there: as many as a few devices have.
pub(super) const USER: Rule = Rule {
    free: 50,
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    forgiven: Duration::from_secs(5 * 60),
};

/// At one account, from wherever. Its end is soon, because its owner waits as well where they are not known.
pub(super) const ACCOUNT: Rule = Rule {
    free: 30,
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(30),
    forgiven: Duration::from_secs(60),
};

/// From one network, at whomever. Many people may share one.
pub(super) const NETWORK: Rule = Rule {
    free: 100,
    shortest: Duration::from_secs(1),
    longest: Duration::from_secs(60),
    forgiven: Duration::from_secs(10),
};

/// From one site, at whomever: as many as from a few networks, for a site may hold thousands.
pub(super) const SITE: Rule = Rule {
    free: 400,
    shortest: Duration::from_millis(250),
    longest: Duration::from_secs(15),
    forgiven: Duration::from_millis(2_500),
};

/// In all, which is what a guesser with many networks and many names is left to.
pub(super) const OVERALL: Rule = Rule {
    free: 2_000,
    shortest: Duration::from_millis(50),
    longest: Duration::from_secs(5),
    forgiven: Duration::from_millis(50),
};

/// At one account: a site has a turn every half minute, and however many sites there are, they guess no
/// faster than this. Whoever waits behind a thousand of them waits fifty minutes; where more than twelve
/// hundred press, there is no place in the line but for who asks as one is free.
pub(super) const ACCOUNT_TURNS: Pace = Pace {
    apart: Duration::from_secs(3),
    rest: ACCOUNT.longest,
    furthest: Duration::from_secs(60 * 60),
};

/// At one account, of those who are known there.
pub(super) const USER_TURNS: Pace = Pace {
    apart: Duration::from_secs(10),
    rest: USER.longest,
    furthest: Duration::from_secs(15 * 60),
};

/// In one network, of the names that are asked for there: as fast as a few names are guessed at in any
/// case, and so fast that two hundred of them keep nobody waiting for more than twenty minutes.
pub(super) const NETWORK_TURNS: Pace = Pace {
    apart: Duration::from_secs(5),
    rest: NETWORK.longest,
    furthest: Duration::from_secs(30 * 60),
};

/// In one site, of its networks.
pub(super) const SITE_TURNS: Pace = Pace {
    apart: Duration::from_millis(250),
    rest: SITE.longest,
    furthest: Duration::from_secs(5 * 60),
};

/// In all: more slowly than guesses are forgiven.
pub(super) const OVERALL_TURNS: Pace = Pace {
    apart: Duration::from_millis(100),
    rest: OVERALL.longest,
    furthest: Duration::from_secs(60),
};

/// So many are counted apart, of each kind.
pub(super) const MOST: usize = 100_000;

/// So many wait for a turn, of each kind.
pub(super) const MOST_WAITING: usize = 65_536;
