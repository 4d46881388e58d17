//! What a record costs: to encode, to append, to bring to the disk, to deliver, to find again after a crash.
#![expect(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a measurement uses what it measures, and stops where it cannot"
)]

use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use memoric_contract::{
    CredentialKind, Operation, RequestId, UserId,
    audit::{Action, Emitter, EventType, Personal, Record, Report, Resource, Severity},
    spool::{Answer, read_batch},
};
use spool::{Durability, Spool, SpoolSettings, StrangersRate, Transport};
use time::OffsetDateTime;
use uuid::Uuid;

mod spool;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A backend that reads what it gets and keeps nothing.
#[derive(Default)]
struct Nowhere(AtomicU64);

impl Transport for &Nowhere {
    async fn send(&self, body: Vec<u8>) -> Result<Answer, spool::Undelivered> {
        let read = read_batch(&body).ok_or(spool::Undelivered::Refused)?;
        let acknowledged: Vec<_> = read.iter().flatten().map(|delivery| delivery.id()).collect();
        self.0.fetch_add(acknowledged.len() as u64, Relaxed);
        Ok(Answer { acknowledged, refused: Vec::new() })
    }
}

fn main() {
    let folder = tempfile::tempdir_in(".").unwrap();
    encode();
    append(folder.path(), 1, 300_000, Duration::ZERO);
    append(folder.path(), 2, 300_000, Duration::ZERO);
    append(folder.path(), 1, 100_000, Duration::from_micros(30));
    reopen(folder.path());
    strangers(folder.path());
    deliver(folder.path());
    strict(folder.path());
}

fn encode() {
    let (mut bytes, count) = (0, 1_000_000);
    let began = Instant::now();
    for _ in 0..count {
        bytes += report().frame().len();
    }
    let making = began.elapsed() / count;
    let report = report();
    let began = Instant::now();
    for _ in 0..count {
        bytes += std::hint::black_box(&report).frame().len();
    }
    println!(
        "encode: {:?} to make and frame a report, {:?} to frame it, {} bytes",
        making,
        began.elapsed() / count,
        bytes / 2_000_000
    );
}

fn append(folder: &Path, threads: usize, count: usize, pause: Duration) {
    let spool = Spool::open(settings(folder, Durability::Group)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let frame = report();
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let append = || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut took = Vec::with_capacity(count);
                for _ in 0..count {
                    let began = Instant::now();
                    spool.record(&frame).await.unwrap();
                    took.push(began.elapsed());
                    while began.elapsed() < pause {}
                }
                took
            })
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(append)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    drop(runtime);
    tell(&format!("append, {threads} thread(s), a pause of {pause:?}"), &mut took);
    let sync = spool.figures().known.sync;
    println!(
        "  {} syncs, waited {:?} on average, {:?} at most",
        sync.syncs,
        sync.waited / sync.syncs.max(1) as u32,
        sync.longest
    );
}

fn reopen(folder: &Path) {
    let began = Instant::now();
    let spool = Spool::open(settings(folder, Durability::Group)).unwrap();
    let took = began.elapsed();
    let known = spool.figures().known;
    println!("open: {took:?} for {} records, {} MiB", known.records, known.bytes >> 20);
}

fn strangers(folder: &Path) {
    let spool = Spool::open(settings(folder, Durability::Group)).unwrap();
    let (report, count) = (report(), 1_000_000);
    let began = Instant::now();
    for _ in 0..count {
        spool.record_stranger("unauthenticated", &report, Instant::now());
    }
    println!(
        "a stranger beyond the rate: {:?}, {} counted",
        began.elapsed() / count,
        spool.figures().counted
    );
}

fn deliver(folder: &Path) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let spool = Spool::open(settings(folder, Durability::Group)).unwrap();
    let nowhere = Nowhere::default();
    let began = Instant::now();
    runtime.block_on(spool.run(&nowhere, async {}));
    let count = nowhere.0.load(Relaxed);
    println!(
        "deliver: {count} records, {:.0} per second, read by the other side as well",
        count as f64 / began.elapsed().as_secs_f64()
    );
}

fn strict(folder: &Path) {
    let spool = Spool::open(settings(folder, Durability::Strict)).unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let spool = &*Box::leak(Box::new(spool));
    for tasks in [1, 64] {
        let began = Instant::now();
        let mut took: Vec<Duration> = runtime.block_on(async {
            let running: Vec<_> = (0..tasks)
                .map(|_| {
                    tokio::spawn(async move {
                        let mut took = Vec::new();
                        while began.elapsed() < Duration::from_secs(2) {
                            let began = Instant::now();
                            spool.record(&report()).await.unwrap();
                            took.push(began.elapsed());
                        }
                        took
                    })
                })
                .collect();
            let mut all = Vec::new();
            for task in running {
                all.extend(task.await.unwrap());
            }
            all
        });
        println!(
            "strict, {tasks} tasks: {:.0} per second",
            took.len() as f64 / began.elapsed().as_secs_f64()
        );
        tell("  each", &mut took);
    }
}

fn tell(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let at = |permille: usize| took.get(took.len() * permille / 1_000).copied().unwrap_or_default();
    let mean = took.iter().sum::<Duration>() / took.len() as u32;
    println!(
        "{what}: mean {mean:?}, p50 {:?}, p99 {:?}, p99.9 {:?}, longest {:?}",
        at(500),
        at(990),
        at(999),
        took.last().unwrap()
    );
}

fn settings(folder: &Path, durability: Durability) -> SpoolSettings {
    SpoolSettings {
        folder: folder.join("spool"),
        known: 2 << 30,
        strangers: 64 << 20,
        segment: 4 << 20,
        durability,
        rate: StrangersRate { every: Duration::from_millis(100), burst: 100, keys: 10_000 },
        drain: Duration::from_secs(60),
    }
}

fn report() -> Report {
    let record = Record {
        request: RequestId(Uuid::now_v7()),
        emitter: Emitter::Gateway,
        number: 0,
        occurred_at: OffsetDateTime::now_utc(),
        event: EventType::MemoryRetrieved,
        severity: Severity::Info,
        subject: Some(UserId(7)),
        owner: Some(UserId(7)),
        credential: Some((
            CredentialKind::AccessToken,
            "0191b2c4-7d1e-4f60-9b3a-0c1d2e3f4a5b".to_owned(),
        )),
        session: Some(Uuid::from_u128(0x0123_4567_89ab_cdef)),
        operation: Some(Operation::RecallMemories),
        action: Some(Action::Read),
        status: Some(200),
        success: true,
        resource: Some(Resource::Memory),
        namespace: Some("team".to_owned()),
        description: None,
        error_message: None,
        metadata: None,
        digest: None,
    };
    let personal = Personal {
        address: Some([192, 0, 2, 1].into()),
        user_agent: Some("python-httpx/0.27.0".to_owned()),
        username: None,
    };
    Report::new(record, None, personal)
}
