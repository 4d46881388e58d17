//! A storm of logins, ten times as many as can be served: what becomes of them, of everybody else, and of memory.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use harness::{Deployment, PASSWORD, Recipe, Started};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::callers::Callers;

/// What became of logins: how many had which status, and how many were not told when to come back.
#[derive(Default)]
struct Upshot {
    statuses: BTreeMap<u16, usize>,
    untold: usize,
}

/// Logs in as often as can be served, and then ten times as often. Whether every login is served or told
/// when to come back, both processes are no larger at the end than soon after the beginning, and others
/// wait less than twice as long as before.
pub async fn attack() -> bool {
    let recipe = Recipe::new().await.unlimited();
    let recipe = recipe.set("MEMORIC_GATEWAY__TRUSTED_PROXIES", "127.0.0.1");
    let deployment = recipe.set("MEMORIC_AUTH__REGISTRATION", "open").start().await;
    let door = Door { client: Client::new(), url: format!("http://{}", deployment.http) };
    for name in (0..PEOPLE).map(name).chain(["writer".to_owned()]) {
        let email = format!("{name}@example.com");
        let account = json!({"username": name, "email": email, "password": PASSWORD});
        door.post("/auth/register", None, &account).await;
    }
    let writer = door.post("/auth/login", None, &right("writer")).await;
    let token = writer["access_token"].as_str().expect("a token");
    door.post("/memories", Some(token), &json!({"content": "the weather is fine"})).await;
    let capacity = capacity(&door).await;
    println!("storm: {capacity:.0} logins per second can be served, ten times as many come");

    let calm = door.watch(token, STORM - WATCH).await;
    let over = Arc::new(AtomicBool::new(false));
    let storm = blow(deployment.http, capacity * 10.0, Arc::clone(&over));
    sleep(WATCH).await;
    let sizes = sizes(&deployment);
    let stormy = door.watch(token, STORM - WATCH).await;
    let [gateway, backend] = self::sizes(&deployment);
    let growth = (gateway - sizes[0]).max(backend - sizes[1]);
    over.store(true, Ordering::Relaxed);
    let upshot = storm.join().expect("a client that does not panic");

    println!("  answers                {:?}", upshot.statuses);
    println!("  without Retry-After    {}", upshot.untold);
    println!(
        "  resident               {sizes:.0?} MiB, and at most {growth:.0} MiB more at the end"
    );
    println!("  p99 of a recall        {calm:.1?}, and {stormy:.1?} in the storm");
    let served = upshot.statuses.get(&200).copied().unwrap_or_default();
    let only = upshot.statuses.keys().all(|status| [200, 429, 503].contains(status));
    let withstood = only
        && served > 0
        && upshot.untold == 0
        && growth < MOST_GROWTH
        && stormy < calm * MOST_DELAY;
    println!("  {}", if withstood { "withstood" } else { "NOT WITHSTOOD" });
    withstood
}

/// Where clients of Memoric connect: in clear, because what a client spends on handshakes is taken from
/// those who answer.
#[derive(Clone)]
struct Door {
    client: Client,
    url: String,
}

/// Logins per second with as many clients as keep every core at work.
async fn capacity(door: &Door) -> f64 {
    let (done, number) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut clients = JoinSet::new();
    let began = Instant::now();
    for _ in 0..8 {
        let (door, done, number) = (door.clone(), Arc::clone(&done), Arc::clone(&number));
        clients.spawn(async move {
            while began.elapsed() < WATCH {
                let is_served = door.log_in(number.fetch_add(1, Ordering::Relaxed)).await;
                done.fetch_add(u32::from(is_served), Ordering::Relaxed);
            }
        });
    }
    clients.join_all().await;
    f64::from(done.load(Ordering::Relaxed)) / began.elapsed().as_secs_f64()
}

/// Sends `rate` logins per second, whatever becomes of them, until it is over. What became of them.
///
/// A storm comes from elsewhere: whoever answers here, and whoever else asks, gets a core before it.
fn blow(address: SocketAddr, rate: f64, over: Arc<AtomicBool>) -> thread::JoinHandle<Upshot> {
    thread::spawn(move || {
        rustix::process::setpriority_process(None, 19).expect("one may be nice");
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let callers = Arc::new(Callers::of(address));
            let mut gusts = interval(Duration::from_secs_f64(1.0 / rate));
            gusts.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let (mut logins, mut number) = (JoinSet::new(), 0);
            while !over.load(Ordering::Relaxed) {
                gusts.tick().await;
                number += 1;
                let callers = Arc::clone(&callers);
                logins.spawn(async move { log_in(&callers, number).await });
            }
            let mut upshot = Upshot::default();
            for (status, is_told) in logins.join_all().await {
                *upshot.statuses.entry(status).or_default() += 1;
                upshot.untold += usize::from(status != 200 && !is_told);
            }
            upshot
        })
    })
}

impl Door {
    /// Posts `body`, and returns the answer, which has to be a good one.
    async fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Value {
        let request = self.client.post(format!("{}{path}", self.url)).json(body);
        let request = token.into_iter().fold(request, |request, token| request.bearer_auth(token));
        let answer = request.send().await.expect("the gateway answers");
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.expect("JSON")
    }

    /// Whether a right login of one of many people, from a network of their own, is served.
    async fn log_in(&self, number: u32) -> bool {
        let person = number % PEOPLE;
        let request = self.client.post(format!("{}/auth/login", self.url));
        let request = request.header("x-forwarded-for", network(person));
        let answer = timeout(PATIENCE, request.json(&right(&name(person))).send()).await;
        answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.status().is_success()))
    }

    /// The p99 of recalls of one client, one after the other. One that is refused counts as one that takes
    /// for ever.
    async fn watch(&self, token: &str, span: Duration) -> Duration {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < span {
            let asked = Instant::now();
            let url = format!("{}/memories", self.url);
            let answer = self.client.get(url).bearer_auth(token).send().await;
            let is_served = answer.is_ok_and(|answer| answer.status().is_success());
            times.push(if is_served { asked.elapsed() } else { PATIENCE });
            sleep(Duration::from_millis(5)).await;
        }
        times.sort();
        times.get(times.len() * 99 / 100).copied().unwrap_or_default()
    }
}

/// A right login of one of many people, from a network of their own: its status, and whether it was said
/// when to come back. One that has no answer is a 408.
async fn log_in(callers: &Callers, number: u32) -> (u16, bool) {
    let person = number % PEOPLE;
    let (from, body) = (network(person), right(&name(person)).to_string());
    match timeout(PATIENCE, callers.post("/auth/login", &from, &body)).await {
        Ok(Ok(answered)) => (answered.status, answered.is_told_when),
        _ => (408, false),
    }
}

fn network(person: u32) -> String {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + person).to_string()
}

fn name(person: u32) -> String {
    format!("person-{person}")
}

fn right(name: &str) -> Value {
    json!({"username": name, "password": PASSWORD})
}

/// What gateway and backend hold, in MiB.
fn sizes(deployment: &Deployment) -> [f64; 2] {
    [&deployment.gateway, &deployment.backend].map(Started::resident)
}

const PEOPLE: u32 = 100;

const WATCH: Duration = Duration::from_secs(4);

const STORM: Duration = Duration::from_secs(20);

/// For an answer, however late.
const PATIENCE: Duration = Duration::from_secs(60);

/// MiB: what allocators keep for later.
const MOST_GROWTH: f64 = 48.0;

/// How many times as long as before others may wait.
const MOST_DELAY: u32 = 2;
