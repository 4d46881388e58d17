//! Who guesses waits, longer each time and never for good; who is known waits for nobody else's guesses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use harness::{PASSWORD, Person, World, until};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

#[tokio::test]
async fn guesses_at_a_password_cost_a_wait_and_the_wait_is_honest() {
    let world = crowd().await;
    let [alice, nobody] = ["alice", "nobody"];
    world.register(alice).await;

    for name in [alice, nobody] {
        for guess in 0..10 {
            let answer = guess_from(&world, "192.0.2.1", name).await;
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{name}, {guess}");
        }
        let spelt = name.to_uppercase();
        told_to_wait(&world, "::ffff:192.0.2.1", &spelt).await;
    }
    told_to_wait(&world, "192.0.2.1", alice).await;
    let right = log_in_from(&world, "192.0.2.1", alice, json!({})).await;
    sleep(waits(right, "the right one is no exception")).await;
    let right = log_in_from(&world, "192.0.2.1", alice, json!({})).await;
    assert_eq!(right.status(), StatusCode::OK, "who waited that long is let in");
    let again = guess_from(&world, "192.0.2.1", alice).await;
    assert_eq!(again.status(), StatusCode::UNAUTHORIZED, "and has a clean slate");
}

#[tokio::test]
async fn a_wait_is_longer_each_time() {
    let world = crowd().await;
    for _ in 0..10 {
        guess_from(&world, "2001:db8:1:2::1", "nobody").await;
    }
    let mut waited = Duration::ZERO;
    for host in 1..=3 {
        let from = format!("2001:db8:1:2:{host}::9");
        let wait = told_to_wait_for(&world, &from, "nobody", waited * 2).await;
        assert!(wait > waited, "one /64 is one network");
        waited = wait;
        sleep(wait).await;
        assert_eq!(guess_from(&world, &from, "nobody").await.status(), StatusCode::UNAUTHORIZED);
    }
    let elsewhere = guess_from(&world, "2001:db8:1:3::1", "nobody").await;
    assert_eq!(elsewhere.status(), StatusCode::UNAUTHORIZED, "the neighbour has not guessed");
}

#[tokio::test]
async fn strangers_keep_nobody_out_of_their_account_on_their_own_device() {
    let world = crowd().await;
    for name in ["alice", "mallory"] {
        world.register(name).await;
    }
    let device = async |name| {
        let answer = log_in_from(&world, "203.0.113.9", name, json!({})).await;
        answer.json::<Value>().await.unwrap()["device_token"].as_str().unwrap().to_owned()
    };
    let (hers, mallorys) = (device("alice").await, device("mallory").await);
    let mut flood = JoinSet::new();
    for stranger in 0..60 {
        let asked = attempt(&world, &format!("198.51.100.{stranger}"), "alice", "wrong", json!({}));
        flood.spawn(async move { asked.send().await.unwrap().status() });
    }
    let taken =
        flood.join_all().await.into_iter().filter(|status| *status == StatusCode::UNAUTHORIZED);
    assert!(taken.count() <= 36, "of guesses at one account, from wherever");

    for token in [None, Some(&*mallorys), Some(&*spoilt(&hers)), Some("mdt_"), Some("")] {
        told_to_wait(&world, "198.51.100.99", "alice").await;
        let sent = token.map_or(json!({}), |token| json!({"device_token": token}));
        let refused = log_in_from(&world, "203.0.113.9", "alice", sent).await;
        let wait = waits(refused, "another's device, or none");
        assert!(wait <= Duration::from_secs(40), "and never for good: {wait:?}");
    }
    let known = log_in_from(&world, "203.0.113.9", "alice", json!({"device_token": hers})).await;
    assert_eq!(known.status(), StatusCode::OK);

    let guess = async || {
        let sent = json!({"device_token": hers});
        attempt(&world, "203.0.113.9", "alice", "wrong", sent).send().await.unwrap()
    };
    for _ in 0..10 {
        assert_eq!(guess().await.status(), StatusCode::UNAUTHORIZED);
    }
    put_off(guess, LONG).await;
    let stolen = log_in_from(&world, "203.0.113.9", "alice", json!({"device_token": hers})).await;
    waits(stolen, "it answers for its own guesses");
}

#[tokio::test]
async fn a_device_on_which_nobody_logged_in_since_the_password_changed_is_a_strangers() {
    let world = crowd().await;
    let alice = world.register("alice").await;
    let device = async |password: &str| {
        let asked = attempt(&world, "203.0.113.9", "alice", password, json!({}));
        let answer = asked.send().await.unwrap().json::<Value>().await.unwrap();
        answer["device_token"].as_str().unwrap().to_owned()
    };
    let before = device(PASSWORD).await;
    let change = json!({"old_password": PASSWORD, "new_password": ANOTHER});
    let asked = world.ask_as(&alice, Method::POST, "/auth/change-password").json(&change);
    assert_eq!(asked.send().await.unwrap().status(), StatusCode::OK);
    let since = device(ANOTHER).await;
    told_to_wait_by_a_flood(&world).await;

    let log_in = async |device: &str| {
        let sent = json!({"device_token": device});
        attempt(&world, "203.0.113.9", "alice", ANOTHER, sent).send().await.unwrap()
    };
    waits(log_in(&before).await, "whoever knew the old password is no nearer to the new one");
    assert_eq!(log_in(&since).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn whoever_sets_a_password_by_a_token_of_an_admins_waits_for_no_stranger() {
    let world = crowd().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;
    told_to_wait_by_a_flood(&world).await;

    let path = format!("/users/{}", alice.id);
    let asked = world.ask_as(&root, Method::PATCH, &path).json(&json!({"reset_password": true}));
    let given: Value = asked.send().await.unwrap().json().await.unwrap();
    let choice = json!({"token": given["reset_token"], "new_password": ANOTHER});
    let asked = world.ask(Method::POST, "/auth/reset-password").json(&choice);
    let set: Value = asked.send().await.unwrap().json().await.unwrap();

    let log_in = async |sent: Value| {
        attempt(&world, "203.0.113.9", "alice", ANOTHER, sent).send().await.unwrap().status()
    };
    assert_eq!(log_in(json!({})).await, StatusCode::TOO_MANY_REQUESTS);
    let device = json!({"device_token": set["device_token"]});
    assert_eq!(log_in(device).await, StatusCode::OK);
}

#[tokio::test]
async fn a_change_of_password_is_a_guess_too() {
    let world = crowd().await;
    let alice = world.register("alice").await;
    let elsewhere = world.log_in("alice").await;
    let change = async |person: &Person, old: &str| {
        let change = json!({"old_password": old, "new_password": ANOTHER});
        let asked = world.ask_as(person, Method::POST, "/auth/change-password").json(&change);
        asked.send().await.unwrap()
    };

    for _ in 0..10 {
        assert_eq!(change(&alice, "wrong").await.status(), StatusCode::BAD_REQUEST);
    }
    put_off(async || change(&alice, "wrong").await, Duration::ZERO).await;
    assert_eq!(change(&elsewhere, PASSWORD).await.status(), StatusCode::OK, "another one");
}

#[tokio::test]
async fn a_fault_of_ours_is_nobodys_wrong_guess() {
    let world = crowd().await;
    world.register("alice").await;
    let superuser = world.superuser().await;
    let grant = |verb: &str, whom: &str| {
        format!("{verb} EXECUTE ON FUNCTION credentials.find_login {whom} memoric_auth")
    };

    superuser.batch_execute(&grant("REVOKE", "FROM")).await.unwrap();
    for _ in 0..12 {
        let answer = log_in_from(&world, "192.0.2.1", "alice", json!({})).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    superuser.batch_execute(&grant("GRANT", "TO")).await.unwrap();
    let answer = log_in_from(&world, "192.0.2.1", "alice", json!({})).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_burst_of_guesses_is_on_record_once() {
    let world = crowd().await;
    let alice = world.register("alice").await;
    for guess in 0..14 {
        let name = if guess % 2 == 0 { "alice" } else { "alice@example.com" };
        guess_from(&world, "192.0.2.1", name).await;
    }
    for _ in 0..5 {
        let answer = guess_from(&world, "192.0.2.1", "alice").await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            sleep(waits(answer, "and goes on")).await;
        }
    }

    let records = "SELECT owner, description FROM audit.trail WHERE event_type = 'security.suspicious.activity'";
    let rows = world.superuser().await.query(records, &[]).await.unwrap();
    let [record] = &rows[..] else { panic!("{}", rows.len()) };
    assert_eq!(record.get::<_, i64>("owner"), alice.id);
    let told: String = record.get("description");
    assert_eq!(told, "many wrong passwords at one account from one network");
}

#[tokio::test]
async fn a_storm_of_logins_from_one_network_leaves_the_others_their_turn() {
    let world = World::with(|settings| {
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
        settings.auth.password_queue = 8;
    })
    .start()
    .await;
    world.register("alice").await;
    let turned_away = Arc::<AtomicUsize>::default();
    let mut storm = JoinSet::new();
    for guess in 0..80 {
        let asked = attempt(&world, "192.0.2.1", &format!("nobody-{guess}"), "wrong", json!({}));
        storm.spawn(rage(asked, Arc::clone(&turned_away)));
    }
    until("no place is left", async || turned_away.load(SeqCst) > 0).await;

    for turn in 1..=3 {
        let hers = log_in_from(&world, "198.51.100.7", "alice", json!({})).await;
        assert_eq!(hers.status(), StatusCode::OK, "she has her turn {turn}");
    }

    storm.join_all().await;
}

/// Asks until it is taken; whoever is turned away is told when to come back, and comes back at once.
async fn rage(asked: RequestBuilder, turned_away: Arc<AtomicUsize>) {
    for _ in 0..10_000 {
        let answer = asked.try_clone().unwrap().send().await.unwrap();
        let is_turned_away = answer.status() == StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(answer.headers().contains_key("retry-after"), is_turned_away);
        if !is_turned_away {
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
            return;
        }
        turned_away.fetch_add(1, SeqCst);
        sleep(Duration::from_millis(5)).await;
    }
    panic!("it is never taken");
}

/// A world whose clients come from wherever they say.
async fn crowd() -> World {
    let trust = |settings: &mut memoric_config::Settings| {
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
    };
    World::with(trust).start().await
}

fn attempt(
    world: &World,
    from: &str,
    name: &str,
    password: &str,
    mut sent: Value,
) -> RequestBuilder {
    sent["username"] = json!(name);
    sent["password"] = json!(password);
    world.ask(Method::POST, "/auth/login").header("x-forwarded-for", from).json(&sent)
}

async fn guess_from(world: &World, from: &str, name: &str) -> Response {
    attempt(world, from, name, "wrong", json!({})).send().await.unwrap()
}

async fn log_in_from(world: &World, from: &str, name: &str, more: Value) -> Response {
    attempt(world, from, name, PASSWORD, more).send().await.unwrap()
}

/// Has strangers guess at alice's until they have to wait.
async fn told_to_wait_by_a_flood(world: &World) {
    let mut flood = JoinSet::new();
    for stranger in 0..60 {
        let asked = attempt(world, &format!("198.51.100.{stranger}"), "alice", "wrong", json!({}));
        flood.spawn(async move { asked.send().await.unwrap().status() });
    }
    flood.join_all().await;
    told_to_wait(world, "198.51.100.99", "alice").await;
}

/// Guesses, and waits as told, until it is told to wait for so long that a busy machine cannot sleep
/// through it.
async fn told_to_wait(world: &World, from: &str, name: &str) -> Duration {
    told_to_wait_for(world, from, name, LONG).await
}

async fn told_to_wait_for(world: &World, from: &str, name: &str, least: Duration) -> Duration {
    put_off(async || guess_from(world, from, name).await, least).await
}

/// Guesses, and waits as told, until the wait is `least` or longer.
async fn put_off(guess: impl AsyncFn() -> Response, least: Duration) -> Duration {
    for _ in 0..50 {
        let answer = guess().await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            let wait = waits(answer, "a guess");
            if wait >= least {
                return wait;
            }
            sleep(wait).await;
        }
    }
    panic!("nobody has to wait for {least:?}");
}

/// A token that is not quite `token`.
fn spoilt(token: &str) -> String {
    let (rest, last) = token.split_at(token.len() - 1);
    format!("{rest}{}", if last == "A" { "B" } else { "A" })
}

/// How long whoever was put off is told to wait.
fn waits(answer: Response, why: &str) -> Duration {
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "{why}");
    let told = answer.headers()["retry-after"].to_str().unwrap();
    Duration::from_secs(told.parse().unwrap())
}

const ANOTHER: &str = "another-horse-battery";

/// The third wait in a row.
const LONG: Duration = Duration::from_secs(4);
