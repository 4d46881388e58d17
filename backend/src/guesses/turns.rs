//! Turns of those who were told to wait: whoever comes back when told is let in, however many others press.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::{Duration, Instant},
};

use memoric_contract::Network;

/// How turns follow each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The time between two turns of one line, however many wait in it.
    pub(super) apart: Duration,
    /// The time between two turns of one group.
    pub(super) rest: Duration,
    /// No turn is promised for later than this.
    pub(super) furthest: Duration,
}

/// Lines of those who wait, one for each `K` that is waited for, and `most` networks in all of them.
///
/// In a line everybody in one `G` has one turn at a time, however many networks of it ask, and each
/// network of it has the turn in the order in which they asked. So whoever has many networks delays the
/// others by one turn, and whoever waits beside them is not pushed out by them.
pub(super) struct Turns<K, G> {
    pace: Pace,
    most: usize,
    held: usize,
    lines: HashMap<K, Line<G>>,
    tidied: Instant,
}

/// Who waits in a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter<G> {
    pub(super) group: G,
    pub(super) network: Network,
    /// Whether they must not ask yet for a reason of their own, whose ever turn it is.
    pub(super) is_held: bool,
}

struct Line<G> {
    turns: HashMap<G, Turn>,
    /// When the last turn comes that was promised.
    last: Option<Instant>,
}

struct Turn {
    network: Network,
    due: Instant,
    /// Until when their other turns come, without which they cannot use this one.
    other: Instant,
    /// Who of the same group comes next, in their order.
    behind: VecDeque<Network>,
}

impl<K: Copy + Eq + Hash, G: Copy + Eq + Hash> Turns<K, G> {
    pub(super) fn new(pace: Pace, most: usize, now: Instant) -> Self {
        Self { pace, most, held: 0, lines: HashMap::new(), tidied: now }
    }

    /// How long until the turn of `who` at `whose`, for which they would wait for `others` if nobody else
    /// did. Whoever has to wait is in the line from now on, if there is room.
    pub(super) fn wait(
        &mut self,
        whose: K,
        who: Waiter<G>,
        others: Duration,
        now: Instant,
    ) -> Duration {
        self.pass_on_in_vain(whose, who, now);
        let line = self.lines.get(&whose);
        if let Some(until) = line.and_then(|line| line.until(who, now)) {
            return until;
        }
        if others.is_zero() && !line.is_some_and(|line| line.is_awaited(now)) {
            return Duration::ZERO;
        }
        self.stand(whose, who, others, now)
    }

    /// Takes the turn of `who`, if it has come. When it came.
    pub(super) fn take(&mut self, whose: K, who: Waiter<G>, now: Instant) -> Option<Instant> {
        let line = self.lines.get_mut(&whose)?;
        let turn = line.turns.get(&who.group)?;
        if turn.network != who.network || turn.due > now {
            return None;
        }
        let due = turn.due;
        self.held -= line.pass_on(who.group, now + self.pace.rest, self.pace);
        self.forget_if_empty(whose);
        Some(due)
    }

    /// Gives back a turn that came at `due` and was of no use, unless the next of the group has it.
    pub(super) fn give_back(&mut self, whose: K, who: Waiter<G>, due: Instant) {
        if self.held >= self.most {
            return;
        }
        let line = self.lines.entry(whose).or_insert_with(Line::new);
        if let Some(turn) = line.turns.get_mut(&who.group) {
            if turn.behind.len() < MOST_BEHIND && turn.network != who.network {
                turn.behind.push_front(who.network);
                self.held += 1;
            }
            return;
        }
        line.turns.insert(who.group, Turn::new(who.network, due));
        self.held += 1;
    }

    /// Keeps the turn of `who`, if it comes sooner than `until`, when they were told to come back, unless
    /// another of the group would have it.
    pub(super) fn keep(&mut self, whose: K, who: Waiter<G>, until: Instant) {
        let turn = self.lines.get_mut(&whose).and_then(|line| line.turns.get_mut(&who.group));
        if let Some(turn) = turn.filter(|turn| turn.network == who.network) {
            turn.other = turn.other.max(until);
        }
    }

    /// Ends the turn of the group of `who` where nobody comes for it, or they cannot use it.
    fn pass_on_in_vain(&mut self, whose: K, who: Waiter<G>, now: Instant) {
        let Some(line) = self.lines.get_mut(&whose) else { return };
        self.held -= line.pass_on_if_late(who.group, self.pace, now);
        if who.is_held {
            self.held -= line.pass_on_if_wanted(who, self.pace, now);
        }
        self.forget_if_empty(whose);
    }

    fn forget_if_empty(&mut self, whose: K) {
        if self.lines.get(&whose).is_some_and(|line| line.turns.is_empty()) {
            self.lines.remove(&whose);
        }
    }

    /// Puts `who` in the line, where there is room, and says how long until their turn.
    fn stand(&mut self, whose: K, who: Waiter<G>, others: Duration, now: Instant) -> Duration {
        self.tidy(now);
        let pace = self.pace;
        let has_room = self.held < self.most;
        let nowhere = others.max(pace.apart);
        let line = match self.lines.get_mut(&whose) {
            Some(line) => line,
            None if has_room => self.lines.entry(whose).or_insert_with(Line::new),
            None => return nowhere,
        };
        if let Some(turn) = line.turns.get_mut(&who.group) {
            let (place, is_new) = turn.place_behind(who.network, has_room);
            self.held += usize::from(is_new);
            return turn.due.saturating_duration_since(now) + pace.rest.saturating_mul(place);
        }
        let due = line.next(now + others, pace);
        if !has_room || due > now + pace.furthest {
            return nowhere;
        }
        self.held -= line.pass_on_the_late(pace, now);
        line.promise(who, line.next(now + others, pace));
        self.held += 1;
        line.until(who, now).unwrap_or(nowhere)
    }

    /// Forgets, when there is no room, whoever did not come.
    fn tidy(&mut self, now: Instant) {
        if self.held < self.most || now.duration_since(self.tidied) < TIDYING {
            return;
        }
        let (pace, mut gone) = (self.pace, 0);
        self.tidied = now;
        self.lines.retain(|_, line| {
            gone += line.pass_on_the_late(pace, now);
            !line.turns.is_empty()
        });
        self.held -= gone;
    }
}

impl<G: Copy + Eq + Hash> Line<G> {
    fn new() -> Self {
        Self { turns: HashMap::new(), last: None }
    }

    /// Whether somebody's turn is still to come, so that nobody may pass by.
    fn is_awaited(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| last > now)
    }

    /// How long until the turn of `who`, if the next one of their group is theirs.
    fn until(&self, who: Waiter<G>, now: Instant) -> Option<Duration> {
        let turn = self.turns.get(&who.group).filter(|turn| turn.network == who.network);
        turn.map(|turn| turn.due.saturating_duration_since(now))
    }

    /// When the next turn comes that nobody has, not before `earliest`.
    fn next(&self, earliest: Instant, pace: Pace) -> Instant {
        self.last.map_or(earliest, |last| earliest.max(last + pace.apart))
    }

    fn promise(&mut self, who: Waiter<G>, due: Instant) {
        self.turns.insert(who.group, Turn::new(who.network, due));
        self.last = Some(due);
    }

    /// Ends the turn of `group`, whose next network is given one, not before `earliest`. How many left
    /// the line.
    fn pass_on(&mut self, group: G, earliest: Instant, pace: Pace) -> usize {
        let Some(mut turn) = self.turns.remove(&group) else { return 0 };
        if let Some(next) = turn.behind.pop_front() {
            turn.network = next;
            turn.due = self.next(earliest, pace);
            turn.other = turn.due;
            self.last = Some(turn.due);
            self.turns.insert(group, turn);
        }
        1
    }

    fn pass_on_if_late(&mut self, group: G, pace: Pace, now: Instant) -> usize {
        let is_late = self.turns.get(&group).is_some_and(|turn| turn.is_late(now));
        if is_late { self.pass_on(group, now, pace) } else { 0 }
    }

    /// Ends a turn that has come and that `who` cannot use, where another of the group would.
    fn pass_on_if_wanted(&mut self, who: Waiter<G>, pace: Pace, now: Instant) -> usize {
        let would_hold_up =
            |turn: &Turn| turn.network == who.network && turn.due <= now && !turn.behind.is_empty();
        let is_wanted = self.turns.get(&who.group).is_some_and(would_hold_up);
        if is_wanted { self.pass_on(who.group, now, pace) } else { 0 }
    }

    fn pass_on_the_late(&mut self, pace: Pace, now: Instant) -> usize {
        let groups: Vec<_> = self.turns.keys().copied().collect();
        groups.into_iter().map(|group| self.pass_on_if_late(group, pace, now)).sum()
    }
}

impl Turn {
    fn new(network: Network, due: Instant) -> Self {
        Self { network, due, other: due, behind: VecDeque::new() }
    }

    fn is_late(&self, now: Instant) -> bool {
        let due = if self.behind.is_empty() { self.due.max(self.other) } else { self.due };
        due + KEPT <= now
    }

    /// How many turns of the group `network` waits for, counted from one; and whether it did not before.
    fn place_behind(&mut self, network: Network, has_room: bool) -> (u32, bool) {
        let found = self.behind.iter().position(|each| *each == network);
        let is_new = found.is_none() && has_room && self.behind.len() < MOST_BEHIND;
        let place = found.unwrap_or(self.behind.len()) + 1;
        if is_new {
            self.behind.push_back(network);
        }
        (u32::try_from(place).unwrap_or(u32::MAX), is_new)
    }
}

/// So long a turn is kept for whoever comes late.
const KEPT: Duration = Duration::from_secs(2 * 60);

/// So many networks of one group wait for its next turn.
const MOST_BEHIND: usize = 8;

/// How often, at most, every line is looked at in search of room.
const TIDYING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
