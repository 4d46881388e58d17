//! What was measured, as one Markdown table.

use std::fmt;

use crate::contest::Series;

/// The rows so far.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<[String; 5]>,
}

/// A value in proportion to another of the same run.
#[derive(Clone, Debug)]
pub struct Ratio {
    series: Series,
    to: &'static str,
    goal: Option<Goal>,
}

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less.
    AtLeast(f64),
}

impl Table {
    /// The CPU time per request that `who` takes for `what`, and how it compares.
    pub fn cpu(&mut self, what: &str, who: &str, series: &Series, ratios: &[Ratio]) {
        self.row(what, who, &spread(series, 1), ratios);
    }

    /// The same, with a goal for the time itself, in µs.
    pub fn cpu_within(&mut self, what: &str, who: &str, series: &Series, goal: Goal) {
        let (median, ..) = series.median();
        self.push([what, who, &spread(series, 1), "", &goal.judged(median, 0)]);
    }

    /// Something that is not CPU time, in words, and how it compares.
    pub fn row(&mut self, what: &str, who: &str, figure: &str, ratios: &[Ratio]) {
        let mut cells = [what, who, figure];
        for ratio in ratios {
            let goal = ratio.goal.map(|goal| goal.judged(ratio.series.median().0, 2));
            let told = format!("{} × {}", spread(&ratio.series, 2), ratio.to);
            self.push([cells[0], cells[1], cells[2], &told, &goal.unwrap_or_default()]);
            cells = [""; 3];
        }
        if ratios.is_empty() {
            self.push([what, who, figure, "", ""]);
        }
    }

    /// One number with its unit, and the goal for it.
    pub fn number(&mut self, what: &str, who: &str, number: f64, unit: &str, goal: Goal) {
        let figure = format!("{number:.digits$} {unit}", digits = if number < 1.0 { 3 } else { 1 });
        self.push([what, who, &figure, "", &goal.judged(number, 0)]);
    }

    fn push(&mut self, row: [&str; 5]) {
        self.rows.push(row.map(str::to_owned));
    }
}

impl Ratio {
    /// `series` compared `to` something.
    pub fn new(series: Series, to: &'static str) -> Self {
        Self { series, to, goal: None }
    }

    /// The same, with a goal.
    pub fn goal(self, goal: Goal) -> Self {
        Self { goal: Some(goal), ..self }
    }
}

impl Goal {
    fn judged(self, number: f64, digits: usize) -> String {
        let (sign, limit, is_met) = match self {
            Self::AtMost(limit) => ("≤", limit, number <= limit),
            Self::AtLeast(limit) => ("≥", limit, number >= limit),
        };
        let verdict = if is_met { "" } else { ", missed" };
        format!("{sign} {limit:.digits$}{verdict}")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | measured | CPU µs per request | ratio | goal |")?;
        writeln!(f, "|---|---|---|---|---|")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

/// The median, and the least and the most of all rounds.
fn spread(series: &Series, digits: usize) -> String {
    let (median, least, most) = series.median();
    format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
}
