//! Refusals of strangers: recorded one by one up to a rate, and counted beyond it.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use memoric_contract::{
    RequestId,
    audit::{Emitter, EventType, Personal, Record, Report, Severity},
};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// How many refusals of strangers are recorded one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StrangersRate {
    /// For one reason and network.
    pub(crate) each: Rate,
    /// For all of them: whoever has many networks must not fill the trail.
    pub(crate) total: Rate,
    /// How many reasons of networks are told apart, at most; the rest share one count per reason.
    pub(crate) keys: usize,
}

/// An allowed rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// How long one takes to be earned back.
    pub(crate) every: Duration,
    /// How many can be had at once.
    pub(crate) burst: u32,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
struct Budget {
    /// When everything will have been earned back.
    earned_back: Instant,
}

/// Who was refused for what, how lately, and how often beyond the rate.
pub(crate) struct Strangers {
    rate: StrangersRate,
    tallies: Mutex<Tallies>,
}

/// What was refused: a stable code of ours, never a client's word.
pub(crate) type Reason = &'static str;

/// A /24 or a /48: wider than the network that is charged, so that a record names no household.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Neighbourhood {
    address: IpAddr,
    bits: u8,
}

/// Refusals that were only counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    count: u64,
    event: EventType,
    severity: Severity,
    first: OffsetDateTime,
    last: OffsetDateTime,
}

/// Whose refusals are counted together. No network: all those that are not told apart.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    reason: Reason,
    network: Option<Neighbourhood>,
}

#[derive(Default)]
struct Tallies {
    by_key: HashMap<Key, Tally>,
    /// What is left for all of them; `None` is everything.
    total: Option<Budget>,
    swept: Option<Instant>,
    counted: u64,
}

struct Tally {
    budget: Budget,
    counted: Option<Counted>,
}

impl Strangers {
    pub(crate) fn new(rate: StrangersRate) -> Self {
        Self { rate, tallies: Mutex::default() }
    }

    /// Whether `report` is to be a record of its own. If not, it has been counted.
    pub(crate) fn admit(&self, reason: Reason, report: &Report, now: Instant) -> bool {
        let mut tallies = self.lock();
        let mut total = tallies.total.unwrap_or(Budget::unspent(now));
        let tally = tallies.tally(&self.rate, reason, report.address(), now);
        let is_admitted =
            tally.budget.spend(self.rate.each, now) && total.spend(self.rate.total, now);
        if !is_admitted {
            tally.add(Counted::one(report.record()));
            tallies.counted += 1;
        }
        tallies.total = Some(total);
        is_admitted
    }

    /// Counts `report`, for which there was no room.
    pub(crate) fn count(&self, reason: Reason, report: &Report, now: Instant) {
        let mut tallies = self.lock();
        tallies.tally(&self.rate, reason, report.address(), now).add(Counted::one(report.record()));
        tallies.counted += 1;
    }

    /// Everything that was counted since the last time: by network of those most refused, by reason
    /// alone of the others. A flood from everywhere is no more records than one from somewhere.
    pub(crate) fn take_counted(&self) -> Vec<(Key, Counted)> {
        let taken = |(key, tally): (&Key, &mut Tally)| Some((*key, tally.counted.take()?));
        let mut taken: Vec<_> = self.lock().by_key.iter_mut().filter_map(taken).collect();
        taken.sort_unstable_by_key(|(_, counted)| Reverse(counted.count));
        let mut others = HashMap::<Key, Counted>::new();
        for (key, counted) in taken.split_off(taken.len().min(TOLD_APART)) {
            let together = others.entry(Key { network: None, ..key });
            together.and_modify(|so_far| *so_far = so_far.and(counted)).or_insert(counted);
        }
        taken.extend(others);
        taken
    }

    /// Takes back what could not be written down.
    pub(crate) fn put_back(&self, key: Key, counted: Counted, now: Instant) {
        self.lock().by_key.entry(key).or_insert_with(|| Tally::unspent(now)).add(counted);
    }

    /// How many refusals were only counted, since the start.
    pub(crate) fn counted(&self) -> u64 {
        self.lock().counted
    }

    fn lock(&self) -> MutexGuard<'_, Tallies> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tallies {
    /// The tally of a refusal; that of all others where no more can be told apart.
    fn tally(
        &mut self,
        rate: &StrangersRate,
        reason: Reason,
        address: Option<IpAddr>,
        now: Instant,
    ) -> &mut Tally {
        let own = Key { reason, network: address.map(Neighbourhood::of) };
        let is_new = !self.by_key.contains_key(&own);
        if is_new && self.by_key.len() >= rate.keys {
            self.sweep(now);
        }
        let has_room = !is_new || self.by_key.len() < rate.keys;
        let key = if has_room { own } else { Key { network: None, ..own } };
        self.by_key.entry(key).or_insert_with(|| Tally::unspent(now))
    }

    /// Forgets who has earned everything back, at most once a second: a flood must not make it the work of every request.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            self.by_key
                .retain(|_, tally| tally.budget.earned_back > now || tally.counted.is_some());
        }
    }
}

impl Tally {
    fn unspent(now: Instant) -> Self {
        Self { budget: Budget::unspent(now), counted: None }
    }

    fn add(&mut self, more: Counted) {
        self.counted = Some(self.counted.map_or(more, |so_far| so_far.and(more)));
    }
}

impl Budget {
    fn unspent(now: Instant) -> Self {
        Self { earned_back: now }
    }

    /// Spends one, if there is one.
    fn spend(&mut self, rate: Rate, now: Instant) -> bool {
        let after = self.earned_back.max(now) + rate.every;
        let is_within = after.duration_since(now) <= rate.every.saturating_mul(rate.burst);
        if is_within {
            self.earned_back = after;
        }
        is_within
    }
}

impl Counted {
    fn one(record: &Record) -> Self {
        let at = record.occurred_at;
        Self { count: 1, event: record.event, severity: record.severity, first: at, last: at }
    }

    /// Both together.
    fn and(self, more: Self) -> Self {
        Self {
            count: self.count.saturating_add(more.count),
            severity: self.severity.max(more.severity),
            first: self.first.min(more.first),
            last: self.last.max(more.last),
            ..self
        }
    }

    /// The one record that stands for all of them.
    pub(crate) fn report(&self, key: &Key) -> Report {
        let time = |time: OffsetDateTime| time.format(&Rfc3339).ok();
        let record = Record {
            severity: self.severity,
            success: false,
            description: Some(DESCRIPTION.to_owned()),
            metadata: Some(json!({
                "code": key.reason,
                "count": self.count,
                "first": time(self.first),
                "last": time(self.last),
                "network_bits": key.network.map(|network| network.bits),
            })),
            ..Record::new(RequestId::new(), Emitter::Gateway, self.event, self.last)
        };
        let address = key.network.map(|network| network.address);
        Report::new(record, None, Personal { address, ..Personal::default() })
    }
}

impl Neighbourhood {
    /// The network of `address`.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let network = Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8));
                Self { address: network.into(), bits: 24 }
            }
            IpAddr::V6(address) => {
                let network = Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80));
                Self { address: network.into(), bits: 48 }
            }
        }
    }
}

const SWEEP: Duration = Duration::from_secs(1);

/// Networks and reasons whose counts get a record of their own, each time that counts are told.
const TOLD_APART: usize = 256;

const DESCRIPTION: &str = "refusals of one network, counted together";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::refusal;

    fn strangers(keys: usize) -> Strangers {
        let total = Rate { every: Duration::from_millis(1), burst: 1_000_000 };
        let each = Rate { every: Duration::from_millis(100), burst: 3 };
        Strangers::new(StrangersRate { each, total, keys })
    }

    fn admitted(strangers: &Strangers, address: &str, now: Instant) -> bool {
        strangers.admit("unauthenticated", &refusal(address), now)
    }

    #[test]
    fn a_network_is_counted_beyond_its_rate_and_recorded_again_when_it_slows_down() {
        let (strangers, now) = (strangers(10), Instant::now());

        let burst: Vec<_> = (0..5).map(|_| admitted(&strangers, "192.0.2.1", now)).collect();
        let later = now + Duration::from_millis(200);
        let after: Vec<_> = (0..3).map(|_| admitted(&strangers, "192.0.2.77", later)).collect();

        assert_eq!(burst, [true, true, true, false, false]);
        assert_eq!(after, [true, true, false], "a neighbour spends from the same");
        assert_eq!(strangers.counted(), 3);
        assert!(admitted(&strangers, "192.0.3.1", now), "another network has its own");
        assert!(
            strangers.admit("not_found", &refusal("192.0.2.1"), now),
            "another reason has its own"
        );
    }

    #[test]
    fn the_count_becomes_one_record_that_says_how_many_of_what_from_where() {
        let (strangers, now) = (strangers(10), Instant::now());
        for _ in 0..10 {
            let _ = admitted(&strangers, "2001:db8:1:2::3", now);
        }

        let [(key, counted)] = strangers.take_counted()[..] else { panic!() };
        let (record, _, personal) = counted.report(&key).into_parts();

        let metadata = record.metadata.unwrap();
        assert_eq!(metadata["count"], 7);
        assert_eq!(metadata["code"], "unauthenticated");
        assert_eq!(metadata["network_bits"], 48);
        assert_eq!(personal.address, Some("2001:db8:1::".parse().unwrap()));
        assert!(strangers.take_counted().is_empty());
    }

    #[test]
    fn what_could_not_be_written_is_still_counted() {
        let (strangers, now) = (strangers(10), Instant::now());
        for _ in 0..5 {
            let _ = admitted(&strangers, "192.0.2.1", now);
        }

        for (key, counted) in strangers.take_counted() {
            strangers.put_back(key, counted, now);
        }
        strangers.count("unauthenticated", &refusal("192.0.2.9"), now);

        let counts: Vec<_> =
            strangers.take_counted().iter().map(|(_, counted)| counted.count).collect();
        assert_eq!(counts, [3]);
    }

    #[test]
    fn a_flood_of_networks_cannot_make_us_hold_more_than_the_bound() {
        let (strangers, now) = (strangers(100), Instant::now());

        for network in 0..10_000_u32 {
            let address = Ipv4Addr::from_bits(network << 8).to_string();
            for _ in 0..5 {
                let _ = admitted(&strangers, &address, now);
            }
        }

        assert!(strangers.lock().by_key.len() <= 101, "one more, for all the others");
        let counted = strangers.take_counted();
        let others = counted.iter().find(|(key, _)| key.network.is_none()).unwrap().1;
        assert_eq!(others.count, 9_900 * 5 - 3);
    }

    #[test]
    fn whoever_has_many_networks_is_recorded_no_more_than_all_may_be() {
        let rate = Rate { every: Duration::from_millis(100), burst: 3 };
        let total = Rate { every: Duration::from_millis(10), burst: 50 };
        let strangers = Strangers::new(StrangersRate { each: rate, total, keys: 10_000 });
        let refuse = |now| {
            let address = |network: u32| Ipv4Addr::from_bits(network << 8).to_string();
            (0..5_000).filter(|network| admitted(&strangers, &address(*network), now)).count()
        };
        let now = Instant::now();

        assert_eq!(refuse(now), 50);
        assert_eq!(refuse(now), 0);
        assert_eq!(refuse(now + Duration::from_millis(100)), 10, "it is earned back");

        let counted = strangers.take_counted();
        assert_eq!(counted.len(), TOLD_APART + 1, "and what is counted is no flood of records");
        let count: u64 = counted.iter().map(|(_, counted)| counted.count).sum();
        assert_eq!(count, 15_000 - 60, "nor lost");
        assert!(strangers.take_counted().is_empty());
    }

    #[test]
    fn a_network_that_has_been_quiet_makes_room_for_another() {
        let (strangers, now) = (strangers(2), Instant::now());
        assert!(admitted(&strangers, "192.0.2.1", now));
        assert!(admitted(&strangers, "192.0.3.1", now));

        let later = now + Duration::from_secs(2);
        for _ in 0..4 {
            let _ = admitted(&strangers, "192.0.4.1", later);
        }

        let [(key, _)] = strangers.take_counted()[..] else { panic!() };
        assert_eq!(key.network, Some(Neighbourhood::of("192.0.4.0".parse().unwrap())));
    }

    #[test]
    fn an_address_has_one_network_however_it_is_spelt() {
        let network = |address: &str| Neighbourhood::of(address.parse().unwrap());
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.254"));
        assert_ne!(network("192.0.2.1"), network("192.0.3.1"));
        assert_eq!(network("2001:db8:1::1"), network("2001:db8:1:ffff::1"));
        assert_ne!(network("2001:db8:1::1"), network("2001:db8:2::1"));
    }
}
