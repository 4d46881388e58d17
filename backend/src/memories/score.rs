//! How relevant a memory is, to the last bit as clients have always seen it.

use std::cmp::Ordering;

use time::OffsetDateTime;

/// How much a memory matters, 0 to 10.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Importance(u8);

/// How often a memory was seen, as far as it counts: 0 to 20.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct SeenCount(u8);

/// What counts how much when memories are recalled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    pub(crate) importance: f64,
    pub(crate) recency: f64,
    pub(crate) repetition: f64,
    pub(crate) decay_days: f64,
}

/// The score of a memory at the time it is recalled, 0 to 100, not yet rounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Relevance(f64);

/// Where a memory stands among others. The greater comes first.
///
/// Times and ids decide between equal scores, so that an order is always the same one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    pub(crate) relevance: Relevance,
    pub(crate) updated_at: OffsetDateTime,
    pub(crate) id: i64,
}

/// The score with which a memory is stored.
pub(crate) fn stored_score(importance: Importance, seen: SeenCount) -> i16 {
    let combined = 0.6 * importance.norm() + 0.3 * 1.0 + 0.1 * seen.norm();
    round(combined.clamp(0.0, 1.0) * 100.0)
}

impl Importance {
    /// What a level's name is worth; any other name counts as medium.
    pub(crate) fn of_level(level: &str) -> Self {
        Self(match level.to_lowercase().as_str() {
            "low" => 3,
            "high" => 8,
            "critical" => 10,
            _ => 5,
        })
    }

    /// As the database holds it.
    pub(crate) fn stored(value: i16) -> Self {
        Self(clamp(value.into(), 10))
    }

    /// For the database.
    pub(crate) fn value(self) -> i16 {
        self.0.into()
    }

    fn norm(self) -> f64 {
        f64::from(self.0) / 10.0
    }
}

impl SeenCount {
    /// What a count comes to: below 0 is 0, above 20 is 20.
    pub(crate) fn of(count: i64) -> Self {
        Self(clamp(count, 20))
    }

    /// For the database.
    pub(crate) fn value(self) -> i16 {
        self.0.into()
    }

    fn norm(self) -> f64 {
        1.0 - f64::from(self.0) / 20.0
    }
}

impl Default for SeenCount {
    /// A memory that says nothing was seen once.
    fn default() -> Self {
        Self(1)
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self { importance: 0.5, recency: 0.3, repetition: 0.2, decay_days: 60.0 }
    }
}

impl Weights {
    /// The relevance of a memory at `now`.
    pub(crate) fn relevance(
        &self,
        importance: Importance,
        seen: SeenCount,
        updated_at: OffsetDateTime,
        now: OffsetDateTime,
    ) -> Relevance {
        let combined = self.importance * importance.norm()
            + self.recency * self.freshness(updated_at, now)
            + self.repetition * seen.norm();
        Relevance((combined.clamp(0.0, 1.0) * 100.0).clamp(0.0, 100.0))
    }

    /// From 1 for what was touched now, down to 0 for what has decayed.
    fn freshness(&self, updated_at: OffsetDateTime, now: OffsetDateTime) -> f64 {
        let longest = self.decay_days * 24.0 * 3600.0;
        if longest <= 0.0 {
            return 1.0;
        }
        let age = (microseconds(now) - microseconds(updated_at)).max(0) as f64 / 1e6;
        1.0 - age.min(longest) / longest
    }
}

impl Relevance {
    /// As the wire shows it; halves go to the even neighbour.
    pub(crate) fn rounded(self) -> i16 {
        round(self.0)
    }
}

impl Ord for Standing {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_relevance = self.relevance.0.total_cmp(&other.relevance.0);
        by_relevance.then(self.updated_at.cmp(&other.updated_at)).then(self.id.cmp(&other.id))
    }
}

impl PartialOrd for Standing {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Standing {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Standing {}

fn round(score: f64) -> i16 {
    // Between 0 and 100, so no bit is lost.
    score.round_ties_even() as i16
}

fn clamp(value: i64, most: u8) -> u8 {
    u8::try_from(value.max(0)).unwrap_or(most).min(most)
}

fn microseconds(time: OffsetDateTime) -> i128 {
    time.unix_timestamp_nanos().div_euclid(1_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, macros::datetime};

    use super::*;

    #[test]
    fn a_memory_is_stored_with_the_score_clients_know() {
        for (level, score) in [
            ("low", 57),
            ("medium", 70),
            ("high", 88),
            ("critical", 99),
            ("CRITICAL", 99),
            ("?", 70),
        ] {
            assert_eq!(
                stored_score(Importance::of_level(level), SeenCount::default()),
                score,
                "{level}"
            );
        }
        for (seen, score) in [(0, 70), (5, 68), (20, 60), (50, 60), (-3, 70)] {
            assert_eq!(
                stored_score(Importance::of_level("medium"), SeenCount::of(seen)),
                score,
                "seen {seen}"
            );
        }
    }

    #[test]
    fn a_memory_is_recalled_with_the_score_clients_know() {
        let days = [0, 1, 7, 15, 30, 45, 60, 365];
        for (level, scores) in [
            ("low", [64, 64, 60, 56, 49, 42, 34, 34]),
            ("medium", [74, 73, 70, 66, 59, 52, 44, 44]),
            ("high", [89, 88, 86, 82, 74, 66, 59, 59]),
            ("critical", [99, 98, 95, 92, 84, 76, 69, 69]),
        ] {
            assert_eq!(
                days.map(|days| recalled(level, 1, Duration::days(days))),
                scores,
                "{level}"
            );
        }
        let seen = [0, 1, 2, 10, 20, 50].map(|seen| recalled("medium", seen, Duration::ZERO));
        assert_eq!(seen, [75, 74, 73, 65, 55, 55]);
    }

    #[test]
    fn a_half_is_rounded_as_the_double_says() {
        assert_eq!(round(0.575 * 100.0), 57, "57.49999…");
        assert_eq!([0.5, 1.5, 2.5, 59.5].map(round), [0, 2, 2, 60], "to the even neighbour");
    }

    #[test]
    fn a_memory_from_the_future_is_as_fresh_as_one_of_now() {
        assert_eq!(recalled("medium", 1, Duration::days(-400)), 74);
    }

    #[test]
    fn the_best_comes_first_and_no_two_are_equal() {
        let standing = |relevance, second, id| Standing {
            relevance: Relevance(relevance),
            updated_at: NOW + Duration::seconds(second),
            id,
        };
        let mut all = [
            standing(70.2, 0, 9),
            standing(70.4, 0, 1),
            standing(70.2, 5, 2),
            standing(70.2, 5, 3),
            standing(90.0, -9, 4),
        ];

        all.sort_by(|one, other| other.cmp(one));

        assert_eq!(
            all.map(|standing| standing.id),
            [4, 1, 3, 2, 9],
            "unrounded score, newest, highest id"
        );
    }

    proptest! {
        #[test]
        fn every_score_is_between_0_and_100(importance: i16, seen: i64, age in -1_000_000_000_i64..10_000_000_000) {
            let (importance, seen) = (Importance::stored(importance), SeenCount::of(seen));
            let relevance = Weights::default().relevance(importance, seen, NOW - Duration::microseconds(age), NOW);
            prop_assert!((0..=100).contains(&relevance.rounded()));
            prop_assert!((0..=100).contains(&stored_score(importance, seen)));
        }

        #[test]
        fn among_equals_the_newer_is_never_less_relevant(importance in 0..=10_i16, seen in 0..=20_i64, ages: [u32; 2]) {
            let relevance = |age: u32| {
                let updated_at = NOW - Duration::seconds(age.into());
                Weights::default().relevance(Importance::stored(importance), SeenCount::of(seen), updated_at, NOW).0
            };
            let [newer, older] = [ages[0].min(ages[1]), ages[0].max(ages[1])];
            prop_assert!(relevance(newer) >= relevance(older), "so an index by age holds the order");
        }
    }

    fn recalled(level: &str, seen: i64, age: Duration) -> i16 {
        let weights = Weights::default();
        weights
            .relevance(Importance::of_level(level), SeenCount::of(seen), NOW - age, NOW)
            .rounded()
    }

    const NOW: OffsetDateTime = datetime!(2026-11-24 02:01:45.149567 UTC);
}
