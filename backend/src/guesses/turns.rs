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
        if line.is_some_and(|line| line.has_next(who)) {
            return line.map(|line| line.until(who.group, now)).unwrap_or_default();
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
        line.turns.insert(who.group, Turn { network: who.network, due, behind: VecDeque::new() });
        self.held += 1;
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
        line.until(who.group, now)
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

    /// Whether the next turn of their group is that of `who`.
    fn has_next(&self, who: Waiter<G>) -> bool {
        self.turns.get(&who.group).is_some_and(|turn| turn.network == who.network)
    }

    fn until(&self, group: G, now: Instant) -> Duration {
        let turn = self.turns.get(&group);
        turn.map(|turn| turn.due.saturating_duration_since(now)).unwrap_or_default()
    }

    /// When the next turn comes that nobody has, not before `earliest`.
    fn next(&self, earliest: Instant, pace: Pace) -> Instant {
        self.last.map_or(earliest, |last| earliest.max(last + pace.apart))
    }

    fn promise(&mut self, who: Waiter<G>, due: Instant) {
        let turn = Turn { network: who.network, due, behind: VecDeque::new() };
        self.turns.insert(who.group, turn);
        self.last = Some(due);
    }

    /// Ends the turn of `group`, whose next network is given one, not before `earliest`. How many left
    /// the line.
    fn pass_on(&mut self, group: G, earliest: Instant, pace: Pace) -> usize {
        let Some(mut turn) = self.turns.remove(&group) else { return 0 };
        if let Some(next) = turn.behind.pop_front() {
            turn.network = next;
            turn.due = self.next(earliest, pace);
            self.last = Some(turn.due);
            self.turns.insert(group, turn);
        }
        1
    }

    fn pass_on_if_late(&mut self, group: G, pace: Pace, now: Instant) -> usize {
        let is_late = self.turns.get(&group).is_some_and(|turn| turn.due + KEPT <= now);
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
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn whoever_comes_back_when_told_is_let_in_however_many_press() {
        let (mut turns, now) = turns(100);
        let told = turns.wait((), waiter(7, 1), WAIT, now);
        assert_eq!(told, WAIT);
        for millis in 1..told.as_millis() as u64 {
            let now = now + Duration::from_millis(millis);
            for group in 0..7 {
                assert!(turns.wait((), waiter(group, 1), WAIT, now) > Duration::ZERO);
            }
        }

        assert_eq!(turns.wait((), waiter(7, 1), WAIT, now + told), Duration::ZERO);
        assert!(turns.take((), waiter(7, 1), now + told).is_some());
        assert!(turns.take((), waiter(7, 1), now + told).is_none(), "once");
        assert!(turns.wait((), waiter(7, 1), WAIT, now + told) > Duration::ZERO);
    }

    #[test]
    fn whoever_has_many_networks_delays_the_others_by_one_turn() {
        let (mut turns, now) = turns(100);
        for network in 0..50 {
            turns.wait((), waiter(1, network), WAIT, now);
        }
        assert_eq!(turns.wait((), waiter(2, 1), WAIT, now), WAIT + PACE.apart);
        assert_eq!(turns.held, 2 + MOST_BEHIND);
    }

    #[test]
    fn of_one_group_each_has_the_turn_in_the_order_in_which_they_asked() {
        let (mut turns, mut now) = turns(100);
        for network in 1..=3 {
            turns.wait((), waiter(1, network), WAIT, now);
        }
        let mut came = Vec::new();
        for _ in 0..200 {
            now += Duration::from_millis(100);
            for network in 1..=3 {
                if turns.wait((), waiter(1, network), WAIT, now).is_zero() {
                    assert!(turns.take((), waiter(1, network), now).is_some());
                    came.push(network);
                }
            }
        }
        assert_eq!(came[..4], [1, 2, 3, 1], "and nobody twice before the others");
    }

    #[test]
    fn whoever_may_not_ask_yet_for_a_reason_of_their_own_holds_up_nobody() {
        let (mut turns, now) = turns(100);
        let held = Waiter { is_held: true, ..waiter(1, 1) };
        turns.wait((), held, WAIT, now);
        turns.wait((), waiter(1, 2), WAIT, now);

        turns.wait((), held, WAIT, now + WAIT);

        assert_eq!(turns.wait((), waiter(1, 2), WAIT, now + WAIT + PACE.apart), Duration::ZERO);
    }

    #[test]
    fn whoever_does_not_come_holds_up_nobody_for_long() {
        let (mut turns, now) = turns(100);
        turns.wait((), waiter(1, 1), WAIT, now);
        turns.wait((), waiter(1, 2), WAIT, now);

        let late = now + WAIT + KEPT;

        assert_eq!(turns.wait((), waiter(1, 2), WAIT, late), Duration::ZERO, "the next has it");
        assert!(turns.take((), waiter(1, 1), late).is_none());
        assert_eq!(turns.wait((), waiter(1, 2), Duration::ZERO, late + KEPT), Duration::ZERO);
        assert!(turns.lines.is_empty() && turns.held == 0, "nor is a line kept in which nobody is");
    }

    #[test]
    fn nobody_passes_by_a_line_and_nobody_waits_for_one_that_is_over() {
        let (mut turns, now) = turns(100);
        turns.wait((), waiter(1, 1), WAIT, now);
        assert!(turns.wait((), waiter(2, 1), Duration::ZERO, now) > Duration::ZERO);
        assert_eq!(
            turns.wait((), waiter(3, 1), Duration::ZERO, now + PACE.furthest),
            Duration::ZERO
        );
    }

    #[test]
    fn a_turn_that_was_of_no_use_comes_again() {
        let (mut turns, now) = turns(100);
        let due = now + turns.wait((), waiter(1, 1), WAIT, now);
        let came = turns.take((), waiter(1, 1), due).unwrap();

        turns.give_back((), waiter(1, 1), came);

        assert_eq!(turns.wait((), waiter(1, 1), WAIT, due), Duration::ZERO);
    }

    #[test]
    fn no_turn_is_promised_for_ever_later_and_no_more_wait_than_there_is_room_for() {
        let (mut turns, now) = turns(1_000);
        for group in 0..1_000 {
            assert!(turns.wait((), waiter(group, 1), WAIT, now) <= PACE.furthest);
        }
        assert_eq!(turns.held, 56, "until the furthest turn");

        let (mut turns, now) = self::turns(10);
        for group in 0..1_000 {
            turns.wait((), waiter(group, 1), WAIT, now);
        }
        assert_eq!(turns.held, 10);
        let later = now + PACE.furthest + KEPT;
        turns.wait((), waiter(5_000, 1), WAIT, later);
        assert_eq!(turns.held, 1, "who did not come makes room");
    }

    fn turns(most: usize) -> (Turns<(), u32>, Instant) {
        let now = Instant::now();
        (Turns::new(PACE, most, now), now)
    }

    fn waiter(group: u32, network: u32) -> Waiter<u32> {
        let network = Network::of(Ipv4Addr::from_bits(group << 8 | network).into());
        Waiter { group, network, is_held: false }
    }

    const PACE: Pace = Pace {
        apart: Duration::from_secs(1),
        rest: Duration::from_secs(4),
        furthest: Duration::from_secs(60),
    };

    const WAIT: Duration = Duration::from_secs(5);
}
