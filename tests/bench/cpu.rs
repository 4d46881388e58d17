//! What processes have used, as the kernel counts it.

use std::{fs, path::Path, thread::available_parallelism, time::Duration};

use harness::Started;

/// A process whose CPU time is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Watched {
    /// One process with all its threads.
    Process(u32),
    /// A process and those it started, the ones that have ended included.
    Family(u32),
}

/// What `/proc/PID/stat` tells of a process: its parent, and times in ticks.
struct Stat {
    parent: u32,
    own: u64,
    of_ended_children: u64,
}

/// How busy the whole machine has been, in ticks.
#[derive(Clone, Copy)]
pub struct Machine {
    busy: u64,
    all: u64,
}

impl Watched {
    /// The process of `program`.
    pub fn process(program: &Started) -> Self {
        Self::Process(program.pid().as_raw_nonzero().get().unsigned_abs())
    }

    /// The PostgreSQL whose files are in `folder`.
    pub fn postgres(folder: &Path) -> Self {
        let file = fs::read_to_string(folder.join("data/postmaster.pid")).expect("it runs");
        Self::Family(file.lines().next().and_then(|pid| pid.parse().ok()).expect("a process id"))
    }

    /// The CPU time it has used so far, in user space and in the kernel.
    pub fn spent(self) -> Duration {
        let ticks = match self {
            Self::Process(pid) => Stat::of(pid).expect("the process runs").own,
            Self::Family(pid) => {
                let parent = Stat::of(pid).expect("the process runs");
                let children = processes().filter_map(Stat::of).filter(|stat| stat.parent == pid);
                parent.own + parent.of_ended_children + children.map(|stat| stat.own).sum::<u64>()
            }
        };
        Duration::from_secs(ticks) / TICKS_PER_SECOND
    }
}

impl Stat {
    /// `None`: there is no such process any more.
    fn of(pid: u32) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name of the program comes before, in brackets, and may have anything in it.
        let fields: Vec<_> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            parent: number(1)?.try_into().ok()?,
            own: number(11)? + number(12)?,
            of_ended_children: number(13)? + number(14)?,
        })
    }
}

impl Machine {
    /// As of now.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").expect("the kernel counts it");
        let first = stat.lines().next().unwrap_or_default();
        // Beyond the eighth come guests, who are in the first two already.
        let ticks: Vec<u64> =
            first.split_whitespace().skip(1).take(8).filter_map(|it| it.parse().ok()).collect();
        let all = ticks.iter().sum();
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Self { busy: all - idle, all }
    }

    /// Which part of all its time it was busy since `before`, in per cent.
    pub fn busy_since(self, before: Self) -> f64 {
        100.0 * (self.busy - before.busy) as f64 / (self.all - before.all).max(1) as f64
    }
}

/// How many cores there are.
pub fn cores() -> usize {
    available_parallelism().map_or(1, std::num::NonZero::get)
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("Linux");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Linux tells every program hundredths, whatever it counts in.
const TICKS_PER_SECOND: u32 = 100;
