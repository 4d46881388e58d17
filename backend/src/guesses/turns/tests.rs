//! Turns, taken one by one.

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
    assert_eq!(turns.wait((), waiter(3, 1), Duration::ZERO, now + PACE.furthest), Duration::ZERO);
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
