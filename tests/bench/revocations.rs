//! What a hundred thousand revocations cost, and how soon one is heard.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use harness::Person;
use memoric_contract::{
    Identity, PresentedBy, Roles, UserId,
    revocation::{Revocation, Revoked},
};
use redis::aio::MultiplexedConnection;
use reqwest::StatusCode;
use serde_json::json;
use tokio_postgres::Client as Session;
use uuid::Uuid;

use self::list::List;
use crate::{
    site::Site,
    table::{Goal, Table},
};

#[path = "../../gateway/src/revocation/list.rs"]
#[expect(dead_code, reason = "the gateway needs more of it than a check")]
mod list;

/// Measures the list by itself, then the processes that hold it, and how soon a logout is heard.
pub async fn measure(site: &Site, table: &mut Table) {
    tell_check(table);
    let database = site.servers.superuser(&site.database).await;
    let other = site.edge(&site.socket(), true).await;
    let url = format!("https://{}/auth/me", other.https);

    let mut heard = Vec::new();
    for _ in 0..LOGOUTS {
        let person = log_in(site).await;
        site.post("/auth/logout", Some(&person.token), &json!({})).await;
        heard.push(until_refused(site, &url, &person).await);
    }
    tell_delay("a logout", &mut heard, 50.0, table);

    let mut heard = Vec::new();
    for _ in 0..QUIET {
        let person = log_in(site).await;
        end_behind_its_back(&database).await;
        heard.push(until_refused(site, &url, &person).await);
    }
    tell_delay("what another backend did, by the feed alone", &mut heard, 500.0, table);

    let before = site.gateway.resident();
    fill(site, &database, &url).await;
    let held = site.gateway.resident() - before;
    table.number(WHAT, "gateway, resident", held, "MiB", Goal::AtMost(25.0));
    let held = fill_redis(site).await;
    table.number(WHAT, "Redis, used", held, "MiB", Goal::AtMost(25.0));
}

/// Checks tokens that live against a full list.
fn tell_check(table: &mut Table) {
    let list = List::default();
    for number in 0..REVOKED {
        let revoked = match number % 3 {
            0 => Revoked::Token(Uuid::new_v4()),
            1 => Revoked::Session(Uuid::new_v4()),
            _ => Revoked::Before(2),
        };
        let user = UserId(i64::try_from(number).expect("it is small"));
        list.add(Revocation { user, revoked, expires_at: u64::MAX });
    }
    let living: Vec<_> = (0..PEOPLE).map(|_| somebody()).collect();
    list.confirm(Instant::now());

    let began = Instant::now();
    for identity in living.iter().cycle().take(CHECKS) {
        let is_complete = list.is_complete(began, Duration::from_secs(1));
        assert!(!black_box(list.revokes(black_box(identity))) && is_complete);
    }
    let each = began.elapsed().as_nanos() as f64 / CHECKS as f64;
    table.number("check against 100 000", "gateway", each, "ns", Goal::AtMost(300.0));
}

/// Nobody on the list, whose user is.
fn somebody() -> Identity {
    let jti = Uuid::new_v4();
    Identity {
        user: UserId(i64::from(jti.as_fields().0 % REVOKED as u32)),
        roles: Roles::default(),
        namespace: None,
        presented: PresentedBy::AccessToken {
            jti,
            sid: Uuid::new_v4(),
            ctr: 0,
            generation: 2,
            expires_at: u64::MAX,
        },
    }
}

async fn log_in(site: &Site) -> Person {
    site.log_in("writer").await
}

/// How long it takes until `person` is refused at `url`.
async fn until_refused(site: &Site, url: &str, person: &Person) -> f64 {
    let began = Instant::now();
    loop {
        let asked = site.client.get(url).bearer_auth(&person.token).send().await;
        match asked.expect("the gateway answers").status() {
            StatusCode::UNAUTHORIZED => return began.elapsed().as_secs_f64() * 1e3,
            status => assert!(began.elapsed() < PATIENCE, "{status}"),
        }
    }
}

/// Ends the newest session as a backend would that neither Redis nor this backend has heard of.
async fn end_behind_its_back(database: &Session) {
    let sql = "INSERT INTO memoric.revocations (user_id, space, value, expires_at)
               SELECT user_id, 'sid', id::text, now() + interval '1 hour'
               FROM memoric.sessions ORDER BY created_at DESC LIMIT 1";
    database.execute(sql, &[]).await.expect("the superuser may");
}

/// Revokes a hundred thousand sessions, and waits until every gateway knows of all of them.
async fn fill(site: &Site, database: &Session, url: &str) {
    let person = log_in(site).await;
    let sql = format!(
        "INSERT INTO memoric.revocations (user_id, space, value, expires_at)
         SELECT i, 'sid', gen_random_uuid()::text, now() + interval '25 hours' FROM generate_series(1, {REVOKED}) AS i"
    );
    database.batch_execute(&sql).await.expect("the superuser may");
    end_behind_its_back(database).await;
    until_refused(site, url, &person).await;
    let own = format!("https://{}/auth/me", site.https);
    until_refused(site, &own, &person).await;
}

/// Tells Redis of a hundred thousand, as the backend does, and returns the MiB that it takes.
async fn fill_redis(site: &Site) -> f64 {
    let client = redis::Client::open(site.servers.redis()).expect("its URL");
    let mut redis = client.get_multiplexed_async_connection().await.expect("it answers");
    let before = used(&mut redis).await;
    for thousand in 0..REVOKED / 1000 {
        let mut pipe = redis::pipe();
        for number in 0..1000 {
            let user = UserId(i64::try_from(thousand * 1000 + number + 1).expect("it is small"));
            let revoked = Revoked::Session(Uuid::new_v4());
            let revocation = Revocation { user, revoked, expires_at: 0 };
            let key = format!("memoric:{}", revocation.redis_key());
            let value = revocation.redis_value();
            pipe.cmd("SET").arg(key).arg(value).arg("EX").arg(25 * 3600).ignore();
        }
        pipe.exec_async(&mut redis).await.expect("it answers");
    }
    used(&mut redis).await - before
}

async fn used(redis: &mut MultiplexedConnection) -> f64 {
    let asked = redis::cmd("INFO").arg("memory").query_async::<redis::InfoDict>(redis).await;
    let bytes: f64 = asked.expect("it answers").get("used_memory").expect("it counts");
    bytes / (1024.0 * 1024.0)
}

fn tell_delay(what: &str, heard: &mut [f64], most: f64, table: &mut Table) {
    heard.sort_by(f64::total_cmp);
    let at = |share: f64| heard[((heard.len() - 1) as f64 * share).ceil() as usize];
    let what = format!("{what} is heard by another gateway");
    table.number(&what, "p99", at(0.99), "ms", Goal::AtMost(most));
    table.number(&what, "at most", at(1.0), "ms", Goal::AtMost(1000.0));
}

const WHAT: &str = "100 000 revocations";
const REVOKED: usize = 100_000;

/// How many live, and how often all of them together are checked.
const PEOPLE: usize = 10_000;
const CHECKS: usize = 2_000_000;

/// How many logouts are waited for, and how many of which only the feed tells.
const LOGOUTS: usize = 200;
const QUIET: usize = 50;

const PATIENCE: Duration = Duration::from_secs(30);
