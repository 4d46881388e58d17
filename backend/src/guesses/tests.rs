//! What guessers may, and what they can do to others, by a clock of the tests' own.

use std::net::{Ipv4Addr, Ipv6Addr};

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
    let taken = (1..=200).filter(|from| try_once(&guesses, stranger("alice", from << 16), now));
    assert_eq!(taken.count(), 30);
    let wait = guesses.take(stranger("alice", 250 << 16), now).err().unwrap();
    assert!(wait <= Duration::from_secs(30 + 170 * 3), "{wait:?}");
    assert!(guesses.take(stranger("alice", 250 << 16), now + wait).is_ok(), "never for good");
}

#[test]
fn one_network_guesses_no_faster_at_many_accounts() {
    let (guesses, now) = guesses();
    let names = (0..500).map(|name| format!("name-{name}"));
    assert_eq!(names.filter(|name| try_once(&guesses, stranger(name, 1), now)).count(), 100);
}

#[test]
fn one_site_guesses_no_faster_from_many_networks_at_many_accounts() {
    let (guesses, now) = guesses();
    let taken = (0..1_000).filter(|n| try_once(&guesses, stranger(&n.to_string(), *n), now));
    assert_eq!(taken.count(), 400);
}

#[test]
fn all_networks_guess_no_faster_at_all_accounts() {
    let (guesses, now) = guesses();
    let taken = (0..10_000_u32).filter(|n| {
        let guesser = Guesser::Stranger(NameKey::of(&n.to_string()), network(*n << 16));
        try_once(&guesses, guesser, now)
    });
    assert_eq!(taken.count(), 2_000);
}

#[test]
fn whoever_is_known_waits_for_no_guess_of_strangers() {
    let (guesses, now) = guesses();
    for from in 1..=100 {
        try_once(&guesses, stranger("alice", from), now);
    }
    assert_eq!(spend(&guesses, known(7, 1), now), 10);
    assert!(guesses.take(known(7, 2), now).is_ok());
}

#[test]
fn a_thousand_devices_of_one_account_guess_no_faster_than_a_few() {
    let (guesses, now) = guesses();
    let taken: usize = (0..1_000).map(|device| spend(&guesses, known(7, device), now)).sum();
    assert_eq!(taken, 50);
    assert!(guesses.take(known(8, 2_000), now).is_ok(), "nor is another user kept out by them");

    // A device that waits for the others has a turn when told, however hard they press.
    let mut now = now;
    let told = guesses.take(known(7, 90), now).err().unwrap();
    let back = now + told;
    assert!(told <= USER_TURNS.furthest, "{told:?}");
    while now < back {
        now += Duration::from_secs(1);
        for device in 0..80 {
            try_once(&guesses, known(7, device), now);
        }
    }
    assert!(guesses.take(known(7, 90), back).is_ok());
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
fn however_many_sites_press_at_an_account_its_owner_has_a_turn_when_told() {
    let (guesses, now) = guesses();
    let pressing: Vec<_> = (1..=250).map(|site| at("alice", site, 0)).collect();
    let waited = owner_waits_while(&guesses, &pressing, now);
    assert!(waited <= Duration::from_secs(30 + 250 * 3), "{waited:?}");
}

#[test]
fn a_thousand_sites_at_an_account_delay_its_owner_and_keep_them_out_no_more_than_four_hundred() {
    for sites in [400, 1_000] {
        let (guesses, now) = guesses();
        let pressing: Vec<_> = (1..=sites).map(|site| at("alice", site, 0)).collect();
        let waited = owner_waits_while(&guesses, &pressing, now);
        assert!(waited <= Duration::from_secs(30 + u64::from(sites) * 3), "{waited:?}");
    }
}

#[test]
fn whoever_presses_at_other_names_from_the_owners_own_network_only_delays_them() {
    let (guesses, now) = guesses();
    let names: Vec<_> = (0..200).map(|name| format!("name-{name}")).collect();
    let pressing: Vec<_> = names.iter().map(|name| at(name, OWN_SITE, 9)).collect();
    let waited = owner_waits_while(&guesses, &pressing, now);
    assert!(waited <= Duration::from_secs(60 + 201 * 5), "{waited:?}");
}

#[test]
fn whoever_waits_in_two_lines_has_their_turn_in_both() {
    let (guesses, now) = guesses();
    let names: Vec<_> = (0..200).map(|name| format!("name-{name}")).collect();
    let beside = names.iter().map(|name| at(name, OWN_SITE, 9));
    let pressing: Vec<_> = beside.chain((1..=50).map(|site| at("alice", site, 0))).collect();
    let waited = owner_waits_while(&guesses, &pressing, now);
    assert!(waited <= Duration::from_secs(2 * (60 + 201 * 5)), "{waited:?}");
}

#[test]
fn many_networks_of_one_site_keep_an_owner_waiting_no_longer_than_one() {
    let (guesses, now) = guesses();
    let pressing: Vec<_> = (0..300).map(|network| at("alice", 1, network)).collect();
    let waited = owner_waits_while(&guesses, &pressing, now);
    assert!(waited <= Duration::from_secs(30 + 2 * 3), "{waited:?}");
}

#[test]
fn whoever_shares_a_site_with_those_who_press_has_a_turn_as_well() {
    let (guesses, now) = guesses();
    let pressing: Vec<_> = (1..=5).map(|network| at("alice", OWN_SITE, network)).collect();
    let waited = owner_waits_while(&guesses, &pressing, now);
    assert!(waited <= Duration::from_secs(6 * 45), "{waited:?}");
}

#[test]
fn however_many_sites_press_everywhere_whoever_comes_back_when_told_has_a_turn() {
    let (guesses, now) = guesses();
    for site in 1_000..3_100 {
        try_once(&guesses, at(&site.to_string(), site, 0), now);
    }
    let pressing: Vec<_> = (1..=400_u16).map(|site| at(&format!("name-{site}"), site, 0)).collect();
    let waited = owner_waits_while(&guesses, &pressing, now);
    assert!(waited <= Duration::from_secs(60), "{waited:?}");
}

#[test]
fn a_turn_in_which_nothing_could_be_learnt_comes_again() {
    let (guesses, now) = guesses();
    for site in 1..=40 {
        try_once(&guesses, at("alice", site, 0), now);
    }
    let told = guesses.take(owner(), now).err().unwrap();
    guesses.take(owner(), now + told).unwrap().was_none();
    assert!(guesses.take(owner(), now + told).is_ok());
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

/// How long the owner of `alice` waits, who comes back each time as told, while `pressing` never stop
/// and are always before them. Whoever is told to wait is let in the next time.
fn owner_waits_while(guesses: &Arc<Guesses>, pressing: &[Guesser], begun: Instant) -> Duration {
    let press = |now: Instant| {
        for guesser in pressing {
            try_once(guesses, *guesser, now);
        }
    };
    let mut now = begun;
    for _ in 0..300 {
        now += STEP;
        press(now);
    }
    let asked = now;
    let told = guesses.take(owner(), now).err().expect("they keep everybody waiting");
    let mut tries = 1;
    let mut back = asked + told;
    while now < asked + Duration::from_secs(3_600) {
        now += STEP;
        press(now);
        if now < back {
            continue;
        }
        match guesses.take(owner(), now) {
            Ok(guess) => {
                guess.was_right();
                assert!(tries <= MOST_TRIES, "told {tries} times to wait");
                return now - asked;
            }
            Err(told) => (tries, back) = (tries + 1, now + told),
        }
    }
    panic!("never let in, and told {tries} times to wait");
}

/// So often everybody presses.
const STEP: Duration = Duration::from_secs(1);

/// Who shares a site with others comes behind them, and learns when only as it comes to be their turn.
const MOST_TRIES: u32 = 3;

fn owner() -> Guesser {
    at("alice", OWN_SITE, 9)
}

/// Somebody in a /64 of a /48.
fn at(name: &str, site: u16, network: u16) -> Guesser {
    let address = Ipv6Addr::new(0x2001, 0xdb8, site, network, 0, 0, 0, 1);
    Guesser::Stranger(NameKey::of(name), Network::of(address.into()))
}

const OWN_SITE: u16 = 5_000;

fn spend(guesses: &Arc<Guesses>, guesser: Guesser, now: Instant) -> usize {
    (0..100).take_while(|_| try_once(guesses, guesser, now)).count()
}

fn try_once(guesses: &Arc<Guesses>, guesser: Guesser, now: Instant) -> bool {
    guesses.take(guesser, now).map(|guess| guess.was_wrong(now)).is_ok()
}

fn known(user: i64, by: u128) -> Guesser {
    Guesser::Known(UserId(user), Uuid::from_u128(by))
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
