//! Every answered request of a known caller has exactly one record, whatever dies and whoever floods.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{Deployment, JWT_SECRET, Person, Recipe, Servers, World, signed, until};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::Client as Session;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

/// What clients were told, by the id that they were told it under.
type Told = Mutex<Vec<(Uuid, StatusCode)>>;

#[tokio::test]
async fn every_answer_has_one_record_after_fifty_kills() {
    let mut memoric = start(&[]).await;
    let people = [
        Person::register(memoric.http, "alice").await,
        Person::register(memoric.http, "bob").await,
    ];
    let (told, stop, clients) =
        (Arc::new(Told::default()), CancellationToken::new(), TaskTracker::new());
    for person in people.iter().chain(&people) {
        let asking = ask_on(memoric.http, person.clone(), Arc::clone(&told));
        let stop = stop.clone();
        clients.spawn(async move { stop.run_until_cancelled(asking).await });
    }

    for _ in 0..50 {
        let [delay, pause, which, ..] = *Uuid::new_v4().as_bytes();
        let before = told.lock().unwrap().len();
        until("more is answered", async || told.lock().unwrap().len() > before).await;
        sleep(Duration::from_millis(u64::from(delay))).await;
        if which % 5 < 3 {
            memoric.kill_gateway();
        }
        if which % 5 > 1 {
            memoric.kill_backend();
        }
        sleep(Duration::from_millis(u64::from(pause) / 4)).await;
        memoric.revive();
    }
    let count = |status: u16| {
        told.lock().unwrap().iter().filter(|(_, told)| told.as_u16() == status).count()
    };
    until("enough is answered and refused", async || count(200) > 50 && count(403) > 50).await;
    stop.cancel();
    clients.close();
    clients.wait().await;
    let memoric = drained(memoric.wait_until_ready().await).await;

    let told = std::mem::take(&mut *told.lock().unwrap());
    assert_one_record_each(&memoric, &told).await;
    let doubled = "SELECT count(*) FROM (SELECT FROM audit.trail WHERE credential_id IS NOT NULL
                   GROUP BY request_id HAVING count(*) > 1) AS doubled";
    assert_eq!(number(&trail(&memoric).await, doubled).await, 0, "answered or not");
}

#[tokio::test]
async fn a_torn_tail_costs_nothing_that_was_answered() {
    let mut memoric = start(&[]).await;
    let alice = Person::register(memoric.http, "alice").await;
    memoric.kill_backend();
    let mut told = Vec::new();
    for _ in 0..5 {
        told.push(id_of(&forbidden(memoric.http, &alice).send().await.unwrap()));
    }
    memoric.kill_gateway();

    let last = segments(&memoric.folder().join("spool/known")).pop().unwrap();
    let whole = fs::read(&last).unwrap();
    fs::write(&last, [&whole[..], &whole[..100]].concat()).unwrap();
    memoric.revive();
    let memoric = drained(memoric.wait_until_ready().await).await;

    assert_one_record_each(&memoric, &told).await;
    assert!(memoric.gateway.stdout().contains(r#""torn":100"#), "{}", memoric.gateway.stdout());
}

#[tokio::test]
async fn callers_are_answered_on_the_record_until_the_spool_is_full_and_again_when_it_has_room() {
    let mut memoric = start(&[("MEMORIC_AUDIT__SPOOL__KNOWN_BYTES", "65536")]).await;
    let alice = Person::register(memoric.http, "alice").await;
    memoric.kill_backend();

    let (recorded, unrecorded) = ask_until_full(forbidden(memoric.http, &alice)).await;
    memoric.revive();
    let memoric = drained(memoric.wait_until_ready().await).await;
    let again = forbidden(memoric.http, &alice).send().await.unwrap();

    assert!(recorded.len() > 50, "{}", recorded.len());
    assert_eq!(again.status(), StatusCode::FORBIDDEN);
    assert_one_record_each(&memoric, &recorded).await;
    let ids: Vec<_> = unrecorded.iter().map(|(id, _)| *id).collect();
    let records = "SELECT count(*) FROM audit.trail WHERE request_id = ANY($1)";
    let found: i64 = trail(&memoric).await.query_one(records, &[&ids]).await.unwrap().get(0);
    assert_eq!(found, 0);
}

#[tokio::test]
async fn a_flood_of_strangers_while_the_database_is_away_leaves_known_callers_writing() {
    let mut world = World::with(|settings| {
        settings.audit.spool.known_bytes = 65_536;
        settings.audit.spool.strangers_bytes = 65_536;
        for quota in [&mut settings.audit.strangers, &mut settings.audit.strangers_total] {
            (quota.per_second, quota.burst) = (1e6, 1_000_000);
        }
    })
    .start()
    .await;
    let alice = world.register("alice").await;
    world.shut_database(true).await;

    for _ in 0..500 {
        let answer = world.ask(Method::GET, "/memories").bearer_auth("a.b.c").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "however full it is");
    }
    let flooded = Figures::at(world.gateway_metrics).await;
    let asked = world.ask_as(&alice, Method::POST, "/policies/run");
    let (told, _) = ask_until_full(asked).await;
    let full = Figures::at(world.gateway_metrics).await;
    world.shut_database(false).await;
    until("all is delivered", async || {
        Figures::at(world.gateway_metrics).await.of("waiting", "known") == 0.0
    })
    .await;
    world.stop_gateway().await;

    assert!(flooded.of("bytes", "strangers") > 50_000.0, "they fill what is theirs");
    assert!(flooded.of("bytes", "strangers") <= 65_536.0, "and no more");
    assert_eq!(flooded.of("full", "known"), 0.0);
    assert!(full.of("bytes", "known") > 60_000.0, "known callers have all of theirs");
    assert!(told.len() > 50, "{}", told.len());
    let trail = world.superuser().await;
    assert_eq!(records_of(&trail, &told).await, vec![1; told.len()]);
    let strangers = "SELECT sum(coalesce((metadata->>'count')::bigint, 1))::bigint FROM audit.trail
                     WHERE event_type = 'auth.token.invalid'";
    assert_eq!(number(&trail, strangers).await, 500, "each is recorded or counted");
}

#[tokio::test]
async fn what_could_not_be_written_down_is_not_told() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let spool = world.folder().join("spool/known");
    fs::rename(&spool, world.folder().join("elsewhere")).unwrap();

    for _ in 0..2 {
        let answer = world.ask_as(&alice, Method::GET, "/auth/me").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "1");
        let answer = answer.text().await.unwrap();
        assert!(answer.contains("audit_unavailable") && !answer.contains("alice"), "{answer}");
    }
    fs::rename(world.folder().join("elsewhere"), &spool).unwrap();

    until("she is answered again", async || {
        let answer = world.ask_as(&alice, Method::GET, "/auth/me").send().await.unwrap();
        answer.status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_on_the_record_with_who_it_was_and_nothing_of_what_they_sent() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let ask = |path: &str, token: &str| {
        let ask = world.ask(Method::GET, path).header("user-agent", "canary\tagent");
        if token.is_empty() { ask } else { ask.bearer_auth(token) }
    };
    let (me, known) = (Some(alice.id), alice.token.as_str());
    let others = format!("/memories?user_id={}", bob.id);

    let mut told = Vec::new();
    for (ask, event, subject, owner) in [
        (ask("/memories", ""), "authz.access.denied", None, None),
        (ask("/memories", "canary.token.x"), "auth.token.invalid", None, None),
        (
            ask("/memories", &signed(&alice, JWT_SECRET.as_bytes(), -3600)),
            "auth.token.expired",
            me,
            None,
        ),
        (ask("/canary?canary=canary", known), "security.suspicious.activity", None, None),
        (ask(&others, known), "authz.access.denied", me, Some(bob.id)),
        (ask("/memories?top_k=canary", known), "memory.retrieved", me, None),
        (ask("/audit/logs", known), "authz.access.denied", me, None),
        (ask("/memories", known), "memory.retrieved", me, me),
    ] {
        let (id, status) = id_of(&ask.send().await.unwrap());
        told.push((id, status, event, subject, owner));
    }
    until("all is delivered", async || {
        let figures = Figures::at(world.gateway_metrics).await;
        figures.of("waiting", "known") + figures.of("waiting", "strangers") == 0.0
    })
    .await;

    let trail = world.superuser().await;
    let record = "SELECT event_type, subject, owner, status, success, trail::text
                  FROM audit.trail WHERE request_id = $1";
    for (id, status, event, subject, owner) in told {
        let row = trail.query_one(record, &[&id]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), event, "{status}");
        assert_eq!((row.get(1), row.get(2)), (subject, owner), "{event} {status}");
        assert_eq!(row.get::<_, i16>(3).unsigned_abs(), status.as_u16(), "{event}");
        assert_eq!(row.get::<_, bool>(4), status.is_success(), "{event}");
        assert!(!row.get::<_, &str>(5).contains("canary"), "{}", row.get::<_, &str>(5));
    }
}

/// A deployment in which nobody asks too often.
async fn start(variables: &[(&str, &str)]) -> Deployment {
    let recipe = Recipe::new().await.unlimited().set("MEMORIC_AUTH__REGISTRATION", "open");
    let recipe = variables.iter().fold(recipe, |recipe, (name, value)| recipe.set(name, value));
    recipe.start().await
}

/// What a user may not have, asked for by one.
fn forbidden(http: SocketAddr, person: &Person) -> RequestBuilder {
    Client::new().post(format!("http://{http}/policies/run")).bearer_auth(&person.token)
}

/// Reads, writes and is refused, for ever; notes each answer.
async fn ask_on(http: SocketAddr, person: Person, told: Arc<Told>) {
    let client = Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let url = |path: &str| format!("http://{http}{path}");
    loop {
        for ask in [
            client.get(url("/memories?top_k=3")),
            client.post(url("/memories")).json(&json!({"content": "a thing to remember"})),
            client.post(url("/policies/run")),
            client.get(url("/memories?user_id=4711")),
            client.get(url("/memories?top_k=many")),
        ] {
            match ask.bearer_auth(&person.token).send().await {
                Ok(answer) => told.lock().unwrap().push(id_of(&answer)),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// Asks the same again and again until it cannot be written down any more. Returns what was
/// answered on the record, and what was not.
async fn ask_until_full(ask: RequestBuilder) -> (Vec<(Uuid, StatusCode)>, Vec<(Uuid, StatusCode)>) {
    let mut asking = JoinSet::new();
    for _ in 0..32 {
        let ask = ask.try_clone().unwrap();
        asking.spawn(async move {
            let mut recorded = Vec::new();
            loop {
                let answer = ask.try_clone().unwrap().send().await.unwrap();
                let told = id_of(&answer);
                let problem: Value = answer.json().await.unwrap();
                if problem["code"] == "audit_unavailable" {
                    assert_eq!(problem["status"], 503);
                    return (recorded, told);
                }
                recorded.push(told);
                assert!(recorded.len() < 200, "it never fills");
            }
        });
    }
    let (recorded, unrecorded): (Vec<_>, Vec<_>) = asking.join_all().await.into_iter().unzip();
    (recorded.concat(), unrecorded)
}

fn id_of(answer: &Response) -> (Uuid, StatusCode) {
    let id = answer.headers()["x-request-id"].to_str().unwrap();
    (id.parse().unwrap(), answer.status())
}

/// Waits until nothing is left in the spool.
async fn drained(memoric: Deployment) -> Deployment {
    let metrics = memoric.value("MEMORIC_GATEWAY_METRICS").parse().unwrap();
    until("all is delivered", async || Figures::at(metrics).await.of("waiting", "known") == 0.0)
        .await;
    memoric
}

async fn trail(memoric: &Deployment) -> Session {
    Servers::get().await.superuser(&memoric.database).await
}

async fn assert_one_record_each(memoric: &Deployment, told: &[(Uuid, StatusCode)]) {
    let records = records_of(&trail(memoric).await, told).await;
    let odd: Vec<_> = told.iter().zip(records).filter(|(_, records)| *records != 1).collect();
    assert!(odd.is_empty(), "of {} answers, not once each: {odd:?}", told.len());
}

/// How many records each of these has.
async fn records_of(trail: &Session, told: &[(Uuid, StatusCode)]) -> Vec<i64> {
    let count =
        "SELECT request_id, count(*) FROM audit.trail WHERE request_id = ANY($1) GROUP BY 1";
    let ids: Vec<_> = told.iter().map(|(id, _)| *id).collect();
    let rows = trail.query(count, &[&ids]).await.unwrap();
    let counts: HashMap<Uuid, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    ids.iter().map(|id| counts.get(id).copied().unwrap_or(0)).collect()
}

async fn number(trail: &Session, query: &str) -> i64 {
    trail.query_one(query, &[]).await.unwrap().get(0)
}

fn segments(log: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(log).unwrap().map(|file| file.unwrap().path());
    let mut segments: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|kind| kind == "frames")).collect();
    segments.sort();
    segments
}

/// What the gateway says of its spool.
struct Figures(String);

impl Figures {
    async fn at(metrics: SocketAddr) -> Self {
        let url = format!("http://{metrics}/metrics");
        Self(reqwest::get(url).await.unwrap().text().await.unwrap())
    }

    fn of(&self, figure: &str, log: &str) -> f64 {
        let name = format!("memoric_gateway_spool_{figure}");
        let mut lines = self.0.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| {
            (line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name}_total{{")))
                && line.contains(&format!("log=\"{log}\""))
        });
        line.and_then(|line| line.rsplit_once(' ')).unwrap().1.parse().unwrap()
    }
}
