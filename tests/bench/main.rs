//! What a request costs at the edge, a memory in the vault and a logout everywhere, in sight of what
//! else there is.
//!
//! Machines are shared and change their speed, so what counts are ratios: contestants take turns,
//! and each ratio is the median of those of the single rounds. What answers with the wrong status
//! fails the run.

mod contest;
mod cpu;
mod load;
mod memories;
mod origin;
mod peers;
mod requests;
mod revocations;
mod site;
mod table;

use std::{fs, process::Command, thread::sleep, time::Duration};

use harness::{Program, checkout, postgres_program};
use time::OffsetDateTime;

use crate::{
    contest::Plan,
    cpu::{Machine, cores},
    site::Site,
    table::Table,
};

/// A part of the table.
#[derive(Clone, Copy, PartialEq)]
enum Only {
    Requests,
    Memories,
    Revocations,
}

// The origin runs here. One thread does for it, and the measuring is done on another.
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let (plan, only) = arguments(std::env::args().skip(1));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let is_wanted = |part| only.is_none_or(|only| only == part);
    let machine = machine(plan);
    eprintln!("{machine}");

    let mut table = Table::default();
    let site = Site::start(&mut table).await;
    let person = site.register("writer").await;
    if is_wanted(Only::Requests) {
        requests::measure(&site, &person, plan, &mut table).await;
    }
    if is_wanted(Only::Memories) {
        memories::measure(&site, &person, plan, &mut table).await;
    }
    if is_wanted(Only::Revocations) {
        revocations::measure(&site, &mut table).await;
    }

    let report = format!("{machine}\n{table}");
    println!("{report}");
    let file = checkout().join("target/bench.md");
    fs::write(&file, report).expect("the checkout is ours");
    eprintln!("also in {}", file.display());
}

/// `--rounds N --seconds N --only requests|memories|revocations`, of which none is needed.
fn arguments(given: impl Iterator<Item = String>) -> (Plan, Option<Only>) {
    let (mut plan, mut only) = (Plan { rounds: 5, seconds: 2 }, None);
    // Cargo tells every benchmark that it is one.
    let mut given = given.filter(|argument| argument != "--bench");
    while let Some(name) = given.next() {
        let value = given.next().unwrap_or_default();
        match (&*name, &*value, value.parse().unwrap_or(0)) {
            ("--rounds", _, rounds @ 1..) => plan.rounds = rounds,
            ("--seconds", _, seconds @ 1..) => plan.seconds = seconds as u64,
            ("--only", "requests", _) => only = Some(Only::Requests),
            ("--only", "memories", _) => only = Some(Only::Memories),
            ("--only", "revocations", _) => only = Some(Only::Revocations),
            _ => panic!("takes --rounds N, --seconds N and --only requests|memories|revocations"),
        }
    }
    (plan, only)
}

/// What this is measured on, and how.
fn machine(Plan { rounds, seconds }: Plan) -> String {
    let before = Machine::now();
    sleep(Duration::from_secs(1));
    let busy = Machine::now().busy_since(before);
    let folder = Program::folder();
    let profile = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let (date, cores) = (OffsetDateTime::now_utc().date(), cores());
    let (haproxy, postgres) = (version("haproxy"), version(&postgres_program("postgres")));
    format!(
        "{date}, {cores} cores of {model}, Linux {}, profile `{profile}`, {haproxy}, {postgres};\n\
         {rounds} rounds of {seconds} s each: median (least–most). Busy before: {busy:.0} %.\n",
        kernel.trim_end(),
    )
}

/// The first words of what a program says its version is.
fn version(program: &str) -> String {
    let flag = if program == "haproxy" { "-v" } else { "--version" };
    let output = Command::new(program).arg(flag).output().expect("it is installed").stdout;
    let said = String::from_utf8_lossy(&output).into_owned();
    let words: Vec<_> = said.split_whitespace().filter(|word| *word != "version").collect();
    let end = if program == "haproxy" { 2 } else { 3 };
    words.into_iter().take(end).filter(|word| !word.starts_with('(')).collect::<Vec<_>>().join(" ")
}
