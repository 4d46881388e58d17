//! Wrong guesses of many, counted apart for as long as there is room, and forgiven in time.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// How many wrong guesses are nothing, and how the wait grows from there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    /// Wrong guesses that cost no wait.
    pub(super) free: u32,
    /// The first wait; each wrong guess doubles it.
    pub(super) shortest: Duration,
    /// No wait is longer, so nobody is locked out for good.
    pub(super) longest: Duration,
    /// The time in which one wrong guess is forgiven.
    pub(super) forgiven: Duration,
}

/// Counts of wrong guesses by whoever `K` tells apart, `most` of them. All others share one count, so a
/// flood of names neither makes it grow nor passes for want of room.
pub(super) struct Ledger<K> {
    rule: Rule,
    most: usize,
    counts: HashMap<K, Count>,
    shared: Count,
    tidied: Instant,
}

/// A guess that has been counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Charge<K> {
    /// Nobody, where it went to the shared count.
    whose: Option<K>,
    /// When the guess before it was made.
    before: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    /// Wrong guesses that were not forgiven at `as_of`.
    level: f64,
    as_of: Instant,
    /// When the last guess was made.
    last: Instant,
    /// Whether somebody was told of this burst.
    told: bool,
}

impl<K: Copy + Eq + Hash> Ledger<K> {
    pub(super) fn new(rule: Rule, most: usize, now: Instant) -> Self {
        Self { rule, most, counts: HashMap::new(), shared: Count::new(now), tidied: now }
    }

    /// How long until `whose` next guess is taken.
    pub(super) fn wait(&self, whose: K, now: Instant) -> Duration {
        let count = match self.counts.get(&whose) {
            Some(count) => count,
            None if self.counts.len() < self.most => return Duration::ZERO,
            None => &self.shared,
        };
        let wait = self.rule.wait(count.level(self.rule, now));
        wait.saturating_sub(now.saturating_duration_since(count.last))
    }

    /// Counts a guess of `whose` as wrong, before anybody knows whether it is: of many at once no more
    /// are taken than of as many in turn.
    pub(super) fn charge(&mut self, whose: K, now: Instant) -> Charge<K> {
        self.tidy(now);
        let rule = self.rule;
        let is_counted = self.counts.len() < self.most || self.counts.contains_key(&whose);
        let whose = is_counted.then_some(whose);
        let count = match whose {
            Some(whose) => self.counts.entry(whose).or_insert_with(|| Count::new(now)),
            None => &mut self.shared,
        };
        let before = count.last;
        let level = count.level(rule, now);
        count.told &= level > 0.0;
        (count.level, count.as_of) = ((level + 1.0).min(rule.most()), now);
        count.last = now;
        Charge { whose, before }
    }

    /// Says that a guess was wrong. Whether this begins a burst of which nobody was told yet.
    pub(super) fn wrong(&mut self, charge: &Charge<K>, now: Instant) -> bool {
        let rule = self.rule;
        let Some(count) = self.count(charge) else { return false };
        let begins = !count.told && count.level(rule, now) >= f64::from(rule.free) - HAIR;
        count.told |= begins;
        begins
    }

    /// Takes a guess back, as though it had never been made.
    pub(super) fn take_back(&mut self, charge: &Charge<K>, made: Instant) {
        let Some(count) = self.count(charge) else { return };
        count.level = (count.level - 1.0).max(0.0);
        if count.last == made {
            count.last = charge.before;
        }
    }

    /// Forgives whoever guessed right.
    pub(super) fn clear(&mut self, charge: &Charge<K>) {
        if let Some(whose) = charge.whose {
            self.counts.remove(&whose);
        }
    }

    fn count(&mut self, charge: &Charge<K>) -> Option<&mut Count> {
        match &charge.whose {
            Some(whose) => self.counts.get_mut(whose),
            None => Some(&mut self.shared),
        }
    }

    /// Forgets, when there is no room, whoever is forgiven everything.
    fn tidy(&mut self, now: Instant) {
        if self.counts.len() < self.most || now.duration_since(self.tidied) < TIDYING {
            return;
        }
        let rule = self.rule;
        self.tidied = now;
        self.counts.retain(|_, count| count.level(rule, now) > 0.0);
    }
}

impl Count {
    fn new(now: Instant) -> Self {
        Self { level: 0.0, as_of: now, last: now, told: false }
    }

    fn level(&self, rule: Rule, now: Instant) -> f64 {
        let forgiven = now.saturating_duration_since(self.as_of).div_duration_f64(rule.forgiven);
        (self.level - forgiven).max(0.0)
    }
}

impl Rule {
    /// How long to wait behind a guess that made the count `level`.
    fn wait(self, level: f64) -> Duration {
        let over = level - f64::from(self.free) + HAIR;
        if over < 0.0 {
            return Duration::ZERO;
        }
        self.shortest.mul_f64(over.floor().min(MOST_DOUBLINGS).exp2()).min(self.longest)
    }

    /// The count beyond which no wait grows, so that it is soon over when the guesses are.
    fn most(self) -> f64 {
        f64::from(self.free) + self.longest.div_duration_f64(self.shortest).log2().ceil()
    }
}

/// How often, at most, everybody is looked at in search of room.
const TIDYING: Duration = Duration::from_secs(1);

/// What is forgiven between two guesses of one moment is no step of a wait.
const HAIR: f64 = 0.5;

const MOST_DOUBLINGS: f64 = 30.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_grows_to_its_end_and_is_over_when_it_says() {
        let (mut ledger, mut now) = ledger(100);
        for _ in 0..3 {
            assert_eq!(ledger.wait(1, now), Duration::ZERO);
            ledger.charge(1, now);
        }
        let mut waits = Vec::new();
        for _ in 0..6 {
            let wait = ledger.wait(1, now);
            waits.push(wait.as_secs());
            assert!(ledger.wait(1, now + wait - Duration::from_millis(1)) > Duration::ZERO);
            now += wait;
            assert_eq!(ledger.wait(1, now), Duration::ZERO, "who waits that long is let in");
            ledger.charge(1, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 8, 8], "and never longer");
        assert_eq!(ledger.wait(2, now), Duration::ZERO, "nobody else waits");
    }

    #[test]
    fn what_is_over_is_forgiven() {
        let (mut ledger, now) = ledger(100);
        for _ in 0..100 {
            ledger.charge(1, now);
        }
        assert!(ledger.wait(1, now) > Duration::ZERO);
        let later = now + Duration::from_secs(60 * 6);
        for _ in 0..3 {
            assert_eq!(ledger.wait(1, later), Duration::ZERO, "however many there were");
            ledger.charge(1, later);
        }
    }

    #[test]
    fn a_guess_that_is_taken_back_was_never_made() {
        let (mut ledger, now) = ledger(100);
        for _ in 0..4 {
            ledger.charge(1, now);
        }
        let turn = now + ledger.wait(1, now);
        let charge = ledger.charge(1, turn);
        assert!(ledger.wait(1, turn) > Duration::ZERO);

        ledger.take_back(&charge, turn);

        assert_eq!(ledger.wait(1, turn), Duration::ZERO);
    }

    #[test]
    fn a_burst_is_told_once_and_the_next_one_again() {
        let (mut ledger, now) = ledger(100);
        let mut told = |now: Instant| {
            let charge = ledger.charge(1, now);
            ledger.wrong(&charge, now)
        };
        let burst: Vec<_> = (0..8).map(|_| told(now)).collect();
        assert_eq!(burst, [false, false, true, false, false, false, false, false]);
        let later = now + Duration::from_secs(3600);
        let burst: Vec<_> = (0..4).map(|_| told(later)).collect();
        assert_eq!(burst, [false, false, true, false]);
    }

    #[test]
    fn a_flood_of_names_shares_one_count_and_leaves_the_others_theirs() {
        let (mut ledger, now) = ledger(2);
        for whose in [1, 1, 1, 1, 2] {
            ledger.charge(whose, now);
        }
        for whose in 3..100 {
            ledger.charge(whose, now);
        }
        assert_eq!(ledger.counts.len(), 2);
        assert!(ledger.wait(1, now) > Duration::ZERO);
        assert_eq!(ledger.wait(2, now), Duration::ZERO);
        assert!(ledger.wait(1000, now) > Duration::ZERO, "never a pass for want of room");

        let later = now + Duration::from_secs(3600);
        ledger.charge(1000, later);
        assert_eq!(ledger.counts.len(), 1, "who is forgiven everything makes room");
    }

    fn ledger(most: usize) -> (Ledger<u32>, Instant) {
        let rule = Rule {
            free: 3,
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(8),
            forgiven: Duration::from_secs(60),
        };
        let now = Instant::now();
        (Ledger::new(rule, most, now), now)
    }
}
