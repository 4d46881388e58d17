//! The promises of the spool as a whole.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use memoric_contract::{
    RequestId, UserId,
    audit::{Emitter, EventType, Personal, Record},
    spool::{Answer, Delivery, read_batch},
};
use tempfile::{TempDir, tempdir};
use time::OffsetDateTime;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::*;

/// A backend that remembers what it was given.
#[derive(Default)]
pub(crate) struct Backend {
    pub(crate) trail: Mutex<Vec<Delivery>>,
    pub(super) batches: AtomicU32,
    pub(super) is_away: AtomicBool,
    /// Ids that it refuses, if they come as records.
    pub(super) poison: HashSet<Uuid>,
    /// Whether it says which of a batch it refuses.
    pub(super) points_out: bool,
}

impl Backend {
    pub(super) fn ids(&self) -> Vec<Uuid> {
        self.trail.lock().unwrap().iter().map(Delivery::id).collect()
    }

    fn is_refused(&self, delivery: &Delivery) -> bool {
        matches!(delivery, Delivery::Report(report) if self.poison.contains(&report.record().id()))
    }
}

impl Transport for &Backend {
    async fn send(&self, body: Vec<u8>) -> Result<Answer, Undelivered> {
        self.batches.fetch_add(1, SeqCst);
        if self.is_away.load(SeqCst) {
            return Err(Undelivered::Away);
        }
        let deliveries: Vec<_> =
            read_batch(&body).unwrap().into_iter().map(Option::unwrap).collect();
        if !self.points_out && deliveries.iter().any(|delivery| self.is_refused(delivery)) {
            return Err(Undelivered::Refused);
        }
        let mut answer = Answer::default();
        let mut trail = self.trail.lock().unwrap();
        for (index, delivery) in (0..).zip(deliveries) {
            if self.is_refused(&delivery) {
                answer.refused.push(index);
            } else {
                answer.acknowledged.push(delivery.id());
                trail.push(delivery);
            }
        }
        Ok(answer)
    }
}

pub(crate) fn report(number: u32) -> Report {
    told(
        RequestId(Uuid::from_u128(0x5000)),
        number,
        Some(UserId(7)),
        EventType::MemoryRetrieved,
        "192.0.2.1",
    )
}

pub(crate) fn refusal(address: &str) -> Report {
    told(RequestId::new(), 0, None, EventType::TokenInvalid, address)
}

fn told(
    request: RequestId,
    number: u32,
    subject: Option<UserId>,
    event: EventType,
    address: &str,
) -> Report {
    let at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let record = Record {
        number,
        subject,
        owner: subject,
        session: Some(Uuid::from_u128(9)),
        status: Some(200),
        success: subject.is_some(),
        ..Record::new(request, Emitter::Gateway, event, at)
    };
    let personal = Personal {
        address: Some(address.parse().unwrap()),
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36".to_owned()),
        username: None,
    };
    Report::new(record, None, personal)
}

pub(super) fn settings(folder: &Path) -> SpoolSettings {
    SpoolSettings {
        folder: folder.join("spool"),
        known: 1024 * 1024,
        strangers: 64 * 1024,
        segment: 32 * 1024,
        durability: Durability::Group,
        rate: StrangersRate {
            each: Rate { every: Duration::from_secs(3_600), burst: 1_000 },
            total: Rate { every: Duration::from_millis(1), burst: 1_000_000 },
            keys: 100,
        },
        drain: Duration::from_secs(5),
    }
}

fn spool() -> (TempDir, Spool) {
    let folder = tempdir().unwrap();
    let spool = Spool::open(settings(folder.path())).unwrap();
    (folder, spool)
}

/// Delivers until everything has arrived.
async fn drain(spool: &Spool, backend: &Backend) {
    spool.run(backend, async {}).await;
}

/// Every record in `spool`, in order.
fn records(spool: &Spool) -> Vec<Uuid> {
    let (mut position, mut ids) = (spool.known.acknowledged(), Vec::new());
    while let Some(batch) = spool.known.read(position).unwrap() {
        assert_eq!(batch.damaged, 0);
        position = batch.end;
        ids.extend(batch.items.iter().map(|item| item.id));
    }
    ids
}

#[tokio::test]
async fn what_was_recorded_reaches_the_backend_once_and_in_order() {
    let (_folder, spool) = spool();
    let backend = Backend::default();
    let reports: Vec<_> = (0..2_000).map(report).collect();
    let (stop, stopped) = oneshot::channel::<()>();

    let append = async {
        for report in &reports {
            spool.record(report).await.unwrap();
            if report.record().number % 100 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(stop);
    };
    join!(append, spool.run(&backend, async { drop(stopped.await) }));

    let expected: Vec<_> =
        reports.into_iter().map(|report| Delivery::Report(Box::new(report))).collect();
    assert_eq!(*backend.trail.lock().unwrap(), expected);
    assert_eq!(spool.figures().known.bytes, 0);
    assert_eq!(spool.figures().known.acknowledged, 2_000);
}

#[tokio::test]
async fn a_record_leaves_although_no_other_comes() {
    let (_folder, spool) = spool();
    let backend = Backend::default();
    let (stop, stopped) = oneshot::channel::<()>();

    let watch = async {
        for round in 1..=3 {
            let appended = Instant::now();
            spool.record(&report(round)).await.unwrap();
            while backend.ids().len() < usize::try_from(round).unwrap() {
                assert!(appended.elapsed() < Duration::from_secs(10), "{round}");
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(stop);
    };
    join!(watch, spool.run(&backend, async { drop(stopped.await) }));
}

#[tokio::test]
async fn full_means_refused_until_it_drains() {
    let (_folder, spool) = spool();
    let backend = Backend::default();
    let mut kept = 0;

    while spool.record(&report(kept)).await.is_ok() {
        kept += 1;
    }
    let refused = (spool.record(&report(kept)).await, spool.ensure_room());
    drain(&spool, &backend).await;
    let accepted = (spool.record(&report(kept)).await, spool.ensure_room());
    drain(&spool, &backend).await;

    assert_eq!(refused, (Err(SpoolRefusal::Full), Err(SpoolRefusal::Full)));
    assert_eq!(accepted, (Ok(()), Ok(())));
    let expected: Vec<_> = (0..=kept).map(|number| report(number).record().id()).collect();
    assert_eq!(backend.ids(), expected, "a refused record is not in the trail");
    assert!(spool.figures().known.refused_full >= 3);
}

#[tokio::test]
async fn what_has_been_begun_finds_room_when_nothing_more_may_begin() {
    let (_folder, spool) = spool();
    let mut kept = 0;

    while spool.ensure_room().is_ok() {
        spool.record(&report(kept)).await.unwrap();
        kept += 1;
    }

    for number in 0..30 {
        assert_eq!(spool.record(&report(kept + number)).await, Ok(()));
    }
}

#[tokio::test]
async fn a_flood_of_strangers_leaves_known_callers_writing() {
    let (_folder, spool) = spool();
    let backend = Backend::default();
    let flood = |count: u32| {
        for number in 0..count {
            let address = format!("10.{}.{}.1", number % 7, number % 5);
            spool.record_stranger("unauthenticated", &refusal(&address), Instant::now());
        }
    };

    flood(20_000);
    for number in 0..1_000 {
        spool.record(&report(number)).await.unwrap();
        flood(2);
    }
    let strangers = spool.figures().strangers;
    let counted = spool.figures().counted;
    drain(&spool, &backend).await;
    drain(&spool, &backend).await;

    assert!(strangers.bytes <= 64 * 1024);
    assert_eq!(strangers.records + counted, 22_000, "each is a record or counted");
    let trail = backend.trail.lock().unwrap();
    let (known, strange): (Vec<_>, Vec<_>) = trail.iter().partition(|delivery| {
        matches!(delivery, Delivery::Report(report) if report.record().subject.is_some())
    });
    assert_eq!(known.len(), 1_000);
    assert_eq!(
        strange.iter().map(|delivery| weight(delivery)).sum::<u64>(),
        22_000,
        "none is lost"
    );
}

#[test]
fn a_stranger_is_recorded_up_to_a_rate_and_counted_beyond_it() {
    let folder = tempdir().unwrap();
    let each = Rate { every: Duration::from_secs(3_600), burst: 5 };
    let rate = StrangersRate { each, ..settings(folder.path()).rate };
    let spool = Spool::open(SpoolSettings { rate, ..settings(folder.path()) }).unwrap();

    for _ in 0..20 {
        spool.record_stranger("unauthenticated", &refusal("192.0.2.1"), Instant::now());
    }

    assert_eq!((spool.figures().strangers.records, spool.figures().counted), (5, 15));
}

#[tokio::test]
async fn strangers_whose_log_is_full_are_counted_and_the_count_is_kept_for_when_there_is_room() {
    let folder = tempdir().unwrap();
    let spool = Spool::open(SpoolSettings { strangers: 2_000, ..settings(folder.path()) }).unwrap();
    let backend = Backend::default();

    for _ in 0..50 {
        spool.record_stranger("not_found", &refusal("192.0.2.1"), Instant::now());
    }
    spool.strangers.append_within(&refusal("192.0.2.1").frame(), 2_000).unwrap();
    spool.summarise();
    let kept = spool.figures().strangers.records;
    drain(&spool, &backend).await;

    let trail = backend.trail.lock().unwrap();
    let (summary, singles) = trail.split_last().unwrap();
    assert_eq!(singles.len() as u64, kept, "no room for a count");
    assert!(singles.iter().all(|delivery| weight(delivery) == 1));
    assert_eq!(weight(summary), 51 - kept);
}

/// How many refusals a record stands for.
fn weight(delivery: &Delivery) -> u64 {
    let Delivery::Report(report) = delivery else { panic!() };
    match &report.record().metadata {
        Some(metadata) => metadata["count"].as_u64().unwrap(),
        None => 1,
    }
}

#[tokio::test]
async fn a_backend_that_is_away_gets_everything_when_it_is_back() {
    let (_folder, spool) = spool();
    let backend = Backend { is_away: true.into(), ..Backend::default() };
    let (stop, stopped) = oneshot::channel::<()>();

    let append = async {
        for number in 0..100 {
            spool.record(&report(number)).await.unwrap();
        }
        sleep(Duration::from_millis(400)).await;
        let tries = backend.batches.load(SeqCst);
        assert!((1..=5).contains(&tries), "it is asked again, but not hammered: {tries}");
        assert!(spool.figures().known.oldest.is_some());
        backend.is_away.store(false, SeqCst);
        drop(stop);
    };
    join!(append, spool.run(&backend, async { drop(stopped.await) }));

    assert_eq!(backend.ids().len(), 100);
    assert_eq!(spool.figures().known.oldest, None);
}

#[tokio::test]
async fn a_shutdown_while_the_backend_is_away_ends_and_loses_nothing() {
    let folder = tempdir().unwrap();
    let settings = SpoolSettings { drain: Duration::from_millis(300), ..settings(folder.path()) };
    let backend = Backend { is_away: true.into(), ..Backend::default() };
    let spool = Spool::open(settings.clone()).unwrap();
    spool.record(&report(0)).await.unwrap();

    let began = Instant::now();
    drain(&spool, &backend).await;

    assert!(began.elapsed() < Duration::from_secs(10));
    drop(spool);
    backend.is_away.store(false, SeqCst);
    drain(&Spool::open(settings).unwrap(), &backend).await;
    assert_eq!(backend.ids(), [report(0).record().id()]);
}

#[tokio::test]
async fn a_poisoned_record_is_found_and_delivered_as_bytes() {
    for points_out in [false, true] {
        let (_folder, spool) = spool();
        let culprits = [3, 4, 250, 699].map(|number| report(number).record().id());
        let backend = Backend { poison: culprits.into(), points_out, ..Backend::default() };
        for number in 0..700 {
            spool.record(&report(number)).await.unwrap();
        }

        drain(&spool, &backend).await;

        let trail = backend.trail.lock().unwrap();
        let poisoned: HashSet<_> = trail
            .iter()
            .filter_map(|delivery| match delivery {
                Delivery::Poisoned(poisoned) => Some(poisoned.id),
                Delivery::Report(_) => None,
            })
            .collect();
        assert_eq!(poisoned, HashSet::from(culprits));
        assert_eq!(trail.iter().map(Delivery::id).collect::<HashSet<_>>().len(), 700);
        assert_eq!(trail.len(), 700, "and nothing twice");
        assert!(backend.batches.load(SeqCst) < 100);
        assert_eq!(spool.figures().poisoned, 4);
        assert_eq!(spool.figures().known.bytes, 0);
    }
}

#[tokio::test]
async fn a_marker_that_lags_costs_a_redelivery_under_the_same_ids() {
    let (folder, spool) = spool();
    let backend = Backend::default();
    for number in 0..20 {
        spool.record(&report(number)).await.unwrap();
    }
    drain(&spool, &backend).await;
    drop(spool);
    fs::remove_file(folder.path().join("spool/known/acknowledged")).unwrap();

    let spool = Spool::open(settings(folder.path())).unwrap();
    spool.record(&report(20)).await.unwrap();
    drain(&spool, &backend).await;

    assert_eq!(backend.ids().len(), 41);
    let ids: HashSet<_> = backend.ids().into_iter().collect();
    assert_eq!(ids, (0..=20).map(|number| report(number).record().id()).collect());
}

#[test]
fn two_gateways_never_share_a_spool() {
    let (folder, first) = spool();

    let second = Spool::open(settings(folder.path()));

    assert!(matches!(second, Err(SpoolOpenError::InUse(_))));
    drop(first);
    assert!(Spool::open(settings(folder.path())).is_ok());
}

#[tokio::test]
async fn nobody_else_can_read_the_spool() {
    let folder = tempdir().unwrap();
    DirBuilder::new().mode(0o755).create(folder.path().join("spool")).unwrap();
    let spool = Spool::open(settings(folder.path())).unwrap();
    spool.record(&report(0)).await.unwrap();
    drain(&spool, &Backend::default()).await;

    let mut folders = vec![folder.path().join("spool")];
    while let Some(folder) = folders.pop() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                assert_eq!(mode(&entry), 0o600, "{}", entry.display());
            }
        }
    }
}

#[tokio::test]
async fn strict_means_on_the_disk_before_the_answer() {
    let folder = tempdir().unwrap();
    let settings = SpoolSettings { durability: Durability::Strict, ..settings(folder.path()) };
    let spool = Spool::open(settings).unwrap();

    for number in 0..5 {
        spool.record(&report(number)).await.unwrap();
        let sync = spool.figures().known.sync;
        assert_eq!(sync.syncs, u64::from(number) + 1);
    }
}

const CHILD: &str = "MEMORIC_TEST_SPOOL";
const SHIPS: &str = "MEMORIC_TEST_SPOOL_SHIPS";

/// Not a promise: what runs in the process that the tests below kill.
#[test]
fn a_child_that_will_be_killed() {
    let Some(folder) = env::var_os(CHILD) else { return };
    let folder = PathBuf::from(folder);
    let spool = open_in_time(&folder);
    let (run, next) = (Uuid::new_v4().as_u128() as u64, AtomicU64::new(0));

    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let request = RequestId(Uuid::from_u64_pair(run, next.fetch_add(1, SeqCst)));
                    let report =
                        told(request, 0, Some(UserId(7)), EventType::MemoryRetrieved, "192.0.2.1");
                    spool.known.append(&report.frame()).unwrap();
                    let line = format!("kept {}\n", report.record().id());
                    io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            });
        }
        if env::var_os(SHIPS).is_some() {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            let backend = FileOfIds { path: folder.join("trail"), sent: AtomicU32::new(0) };
            runtime.block_on(spool.run(backend, std::future::pending()));
        }
    });
}

/// A backend whose trail outlives the process, and whose answer is sometimes lost.
struct FileOfIds {
    path: PathBuf,
    sent: AtomicU32,
}

impl Transport for FileOfIds {
    async fn send(&self, body: Vec<u8>) -> Result<Answer, Undelivered> {
        let ids: Vec<_> =
            read_batch(&body).unwrap().iter().map(|read| read.as_ref().unwrap().id()).collect();
        let lines: String = ids.iter().map(|id| format!("{id}\n")).collect();
        let mut trail = File::options().create(true).append(true).open(&self.path).unwrap();
        trail.write_all(lines.as_bytes()).unwrap();
        match self.sent.fetch_add(1, SeqCst) % 5 {
            4 => Err(Undelivered::Away),
            _ => Ok(Answer { acknowledged: ids, refused: Vec::new() }),
        }
    }
}

/// Opens a spool with room for everything, which may take a moment: a process that another test begins just now holds
/// whatever is open here until it runs its own program.
fn open_in_time(folder: &Path) -> Spool {
    let settings =
        || SpoolSettings { known: 1 << 30, drain: Duration::from_secs(60), ..settings(folder) };
    let began = Instant::now();
    loop {
        match Spool::open(settings()) {
            Ok(spool) => return spool,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Starts the child, kills it after a random while, and returns what it said it had kept.
fn kill_one(folder: &Path, ships: bool) -> Vec<Uuid> {
    let mut child = spawn(folder, ships);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut kept = Vec::new();
    let random = Uuid::new_v4().as_u128();
    let (at_least, delay) =
        (random % 400 + 1, Duration::from_micros((random >> 64) as u64 % 4_000));
    for line in lines.by_ref().map(Result::unwrap).filter(|line| line.starts_with("kept ")) {
        kept.push(line);
        if kept.len() as u128 >= at_least {
            break;
        }
    }
    thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    kept.extend(lines.map_while(Result::ok).filter(|line| line.len() == 41));
    kept.iter().filter_map(|line| line.strip_prefix("kept ")?.parse().ok()).collect()
}

fn spawn(folder: &Path, ships: bool) -> Child {
    let name =
        module_path!().split_once("::").unwrap().1.to_owned() + "::a_child_that_will_be_killed";
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(CHILD, folder);
    if ships {
        command.env(SHIPS, "1");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn whatever_was_kept_before_a_kill_is_read_back_exactly_once() {
    let folder = tempdir().unwrap();
    let mut kept = BTreeSet::new();

    for round in 0..25 {
        let this_round = kill_one(folder.path(), false);
        assert!(!this_round.is_empty());
        kept.extend(this_round);

        let spool = open_in_time(folder.path());
        let mut read: HashMap<Uuid, u32> = HashMap::new();
        records(&spool).into_iter().for_each(|id| *read.entry(id).or_default() += 1);
        assert!(read.values().all(|times| *times == 1), "round {round}: a record is there twice");
        assert!(kept.iter().all(|id| read.contains_key(id)), "round {round}: a record is gone");
        assert_eq!(spool.figures().known.records, read.len() as u64);
        assert!(
            read.len() <= kept.len() + 25 * 3,
            "round {round}: only those in flight were kept unsaid"
        );
    }
}

#[tokio::test]
async fn whatever_was_kept_before_a_kill_reaches_the_trail_although_delivery_was_killed_too() {
    let folder = tempdir().unwrap();
    let mut kept = BTreeSet::new();

    for _ in 0..25 {
        let (path, ships) = (folder.path().to_owned(), true);
        kept.extend(tokio::task::spawn_blocking(move || kill_one(&path, ships)).await.unwrap());
    }
    let spool = open_in_time(folder.path());
    let path = folder.path().join("trail");
    spool.run(FileOfIds { path: path.clone(), sent: AtomicU32::new(0) }, async {}).await;

    let trail: HashSet<Uuid> =
        fs::read_to_string(path).unwrap().lines().map(|id| id.parse().unwrap()).collect();
    assert!(kept.iter().all(|id| trail.contains(id)), "a record is gone");
    assert!(trail.len() <= kept.len() + 25 * 3, "a record has more than one id");
    assert_eq!(spool.figures().known.bytes, 0);
}
