//! A storm of logins, ten times as many as can be served: what becomes of them, of everybody else, and of memory.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use harness::{PASSWORD, Person, World};
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

/// What became of logins: how many had which status, and how many were not told when to come back.
#[derive(Default)]
struct Upshot {
    statuses: BTreeMap<u16, usize>,
    untold: usize,
}

/// Logs in as often as can be served, and then ten times as often. Whether every login is served or told
/// when to come back, and memory is no larger at the end than soon after the beginning.
pub async fn attack() -> bool {
    let world = Arc::new(
        World::with(|settings| {
            settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
        })
        .start()
        .await,
    );
    let writer = world.register("writer").await;
    world.remember(&writer, json!({"content": "the weather is fine"})).await;
    for name in 0..PEOPLE {
        world.register(&format!("person-{name}")).await;
    }
    let capacity = capacity(&world).await;
    println!("storm: {capacity:.0} logins per second can be served, ten times as many come");

    let calm = watch(&world, &writer, WATCH).await;
    let (upshot, stormy, sizes) = storm(&world, &writer, capacity * 10.0).await;

    let growth = sizes[1] - sizes[0];
    println!("  answers                {:?}", upshot.statuses);
    println!("  without Retry-After    {}", upshot.untold);
    println!("  resident               {:.0} MiB, and {:.0} MiB at the end", sizes[0], sizes[1]);
    println!("  p99 of a recall        {calm:.1?}, and {stormy:.1?} in the storm");
    let served = upshot.statuses.get(&200).copied().unwrap_or_default();
    let only = upshot.statuses.keys().all(|status| [200, 429, 503].contains(status));
    let withstood = only && served > 0 && upshot.untold == 0 && growth < MOST_GROWTH;
    println!("  {}", if withstood { "withstood" } else { "NOT WITHSTOOD" });
    withstood
}

/// Logins per second with as many clients as keep every core at work.
async fn capacity(world: &Arc<World>) -> f64 {
    let (done, number) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..8 {
        let (world, done, number) = (Arc::clone(world), Arc::clone(&done), Arc::clone(&number));
        clients.spawn(async move {
            while began.elapsed() < WATCH {
                let login = login(&world, number.fetch_add(1, Ordering::Relaxed));
                let answer = login.send().await.expect("an answer");
                done.fetch_add(u32::from(answer.status().is_success()), Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
    f64::from(done.load(Ordering::Relaxed)) / began.elapsed().as_secs_f64()
}

/// Sends `rate` logins per second, whatever becomes of them. What became of them, the p99 of recalls
/// meanwhile, and the size of this process in MiB when the storm is under way and when it is over.
async fn storm(world: &Arc<World>, writer: &Person, rate: f64) -> (Upshot, Duration, [f64; 2]) {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut logins = JoinSet::new();
    let watched = async {
        sleep(WATCH).await;
        let size = resident();
        let p99 = watch(world, writer, STORM - WATCH).await;
        is_over.store(true, Ordering::Relaxed);
        (p99, [size, resident()])
    };
    let blowing = async {
        let mut gusts = interval(Duration::from_secs_f64(1.0 / rate));
        gusts.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut number = 0;
        while !is_over.load(Ordering::Relaxed) {
            gusts.tick().await;
            number += 1;
            let asked = login(world, number);
            logins.spawn(async move {
                match timeout(PATIENCE, asked.send()).await {
                    Ok(Ok(answer)) => {
                        (answer.status().as_u16(), answer.headers().contains_key("retry-after"))
                    }
                    _ => (0, true),
                }
            });
        }
    };
    let ((), (p99, sizes)) = tokio::join!(blowing, watched);
    let mut upshot = Upshot::default();
    for (status, is_told) in logins.join_all().await {
        *upshot.statuses.entry(status).or_default() += 1;
        upshot.untold += usize::from(status != 200 && !is_told);
    }
    (upshot, p99, sizes)
}

/// The p99 of recalls of one client, one after the other. One that is refused counts as one that takes for ever.
async fn watch(world: &World, writer: &Person, span: Duration) -> Duration {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < span {
        let asked = Instant::now();
        let answer = world.ask_as(writer, Method::GET, "/memories").send().await;
        let is_served = answer.is_ok_and(|answer| answer.status().is_success());
        times.push(if is_served { asked.elapsed() } else { PATIENCE });
        sleep(Duration::from_millis(5)).await;
    }
    times.sort();
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}

/// A right login of one of many people, from a network of their own.
fn login(world: &World, number: u32) -> RequestBuilder {
    let person = number % PEOPLE;
    let network = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + person);
    // In clear: what a client spends on handshakes is taken from those who answer.
    world
        .client
        .post(format!("http://{}/auth/login", world.http))
        .header("x-forwarded-for", network.to_string())
        .json(&json!({"username": format!("person-{person}"), "password": PASSWORD}))
}

/// The size of this process, in MiB: client, gateway and backend are in it.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    let kib = line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number");
    kib / 1024.0
}

const PEOPLE: u32 = 100;

const WATCH: Duration = Duration::from_secs(4);

const STORM: Duration = Duration::from_secs(20);

/// For an answer, however late.
const PATIENCE: Duration = Duration::from_secs(60);

/// MiB: what allocators keep for later.
const MOST_GROWTH: f64 = 48.0;
