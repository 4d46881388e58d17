//! Contestants who take turns, A B A B, so that a machine that slows down does so for all of them.

use std::{thread::sleep, time::Duration};

use crate::{cpu::Watched, load::Done};

/// How long and how often everybody is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many turns everybody has.
    pub rounds: usize,
    /// How many seconds a turn takes.
    pub seconds: u64,
}

/// One thing that is measured.
pub struct Contestant<'a> {
    /// Whose CPU time counts, each by itself.
    watched: Vec<Watched>,
    /// What has to be done once before any work is, and is not to count.
    beginning: Option<Box<dyn Fn() -> Done + 'a>>,
    /// Works for so many seconds.
    work: Box<dyn Fn(u64) -> Done + 'a>,
}

/// What was measured of one contestant, a value for each round.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// CPU time per request in µs, of each process that was watched.
    pub cpu: Vec<Series>,
    /// Requests per second.
    pub rate: Series,
}

/// A value for each round.
#[derive(Clone, Debug, Default)]
pub struct Series(Vec<f64>);

impl<'a> Contestant<'a> {
    /// Whoever is `watched` while `work` is done.
    pub fn new(watched: &[Watched], work: impl Fn(u64) -> Done + 'a) -> Self {
        Self { watched: watched.to_vec(), beginning: None, work: Box::new(work) }
    }

    /// The same, where each work has this `beginning`, whose cost is taken off.
    pub fn after(self, beginning: impl Fn() -> Done + 'a) -> Self {
        Self { beginning: Some(Box::new(beginning)), ..self }
    }

    fn turn(&self, seconds: u64, measured: &mut Measured) {
        let (nothing, begun) = match &self.beginning {
            Some(beginning) => self.spent_by(beginning),
            None => (Done::default(), vec![0.0; self.watched.len()]),
        };
        let (done, spent) = self.spent_by(|| (self.work)(seconds));
        measured.rate.0.push(done.per_second);
        measured.cpu.resize_with(self.watched.len(), Series::default);
        for ((spent, begun), series) in spent.iter().zip(begun).zip(&mut measured.cpu) {
            series.0.push((spent - begun) / (done.count - nothing.count));
        }
    }

    /// What is done by `work`, and the CPU time that everybody spends on it, in µs.
    fn spent_by(&self, work: impl Fn() -> Done) -> (Done, Vec<f64>) {
        let before: Vec<_> = self.watched.iter().map(|watched| watched.spent()).collect();
        let done = work();
        sleep(SETTLING);
        let spent = self.watched.iter().zip(before);
        (done, spent.map(|(now, before)| (now.spent() - before).as_secs_f64() * 1e6).collect())
    }
}

impl Series {
    /// For each round the quotient of the two.
    pub fn over(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one / other).collect())
    }

    /// The middle, and how far the rounds lie apart: least and most.
    pub fn median(&self) -> (f64, f64, f64) {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        let middle = (sorted[(sorted.len() - 1) / 2] + sorted[sorted.len() / 2]) / 2.0;
        (middle, least, most)
    }
}

/// Measures everybody in turn, after a turn of one second that does not count.
pub fn contest<const N: usize>(plan: Plan, contestants: [Contestant<'_>; N]) -> [Measured; N] {
    for contestant in &contestants {
        (contestant.work)(1);
    }
    let mut measured = [(); N].map(|()| Measured::default());
    for _ in 0..plan.rounds {
        for (contestant, measured) in contestants.iter().zip(&mut measured) {
            contestant.turn(plan.seconds, measured);
        }
    }
    measured
}

/// How long what was asked last may take to end: a session of PostgreSQL counts for its server
/// only once that has taken note of its end.
const SETTLING: Duration = Duration::from_millis(150);
