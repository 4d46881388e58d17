//! Refresh tokens: a client that lost an answer is never logged out, and of two holders nobody stays.

mod recorded;

use std::time::SystemTime;

use harness::{JWT_SECRET, PASSWORD, Person, World, counted, until};
use memoric_contract::token::TokenKeys;
use proptest::{prelude::*, test_runner::TestRunner};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{runtime::Handle, task::block_in_place};

/// What an honest client does, or what happens to it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It refreshes, and the answer arrives.
    Refresh,
    /// It refreshes, and the answer is lost.
    Lose,
    /// It refreshes twice at once, as two of its tabs may; one answer arrives.
    Cross,
    /// It asks for something with its access token.
    Use,
    /// Longer goes by than two requests may cross.
    Wait,
}

#[tokio::test]
async fn the_guides_command_gives_a_new_pair() {
    let world = World::start().await;
    world.register("alice").await;
    let first = Holder::log_in(&world, "alice").await;

    let by_header = refresh(&world, &first.refresh).await;
    let answer = world
        .ask(Method::POST, "/auth/refresh")
        .json(&json!({"refresh_token": by_header.1["refresh_token"]}))
        .send()
        .await
        .unwrap();

    assert_eq!(by_header.0, StatusCode::OK, "{}", by_header.1);
    assert_eq!(answer.status(), StatusCode::OK);
    let pair: Value = answer.json().await.unwrap();
    assert_eq!((&pair["token_type"], &pair["expires_in"]), (&json!("bearer"), &json!(3600)));
    assert_eq!(pair["refresh_expires_in"].as_u64().unwrap() / 3600, 7 * 24 - 1, "seven days");
    let token = pair["access_token"].as_str().unwrap();
    assert_eq!(use_token(&world, token).await, StatusCode::OK);
    assert_eq!(use_token(&world, &first.access).await, StatusCode::OK, "until it expires");
}

#[tokio::test]
async fn one_refresh_token_is_enough() {
    let world = World::start().await;
    world.register("alice").await;
    let [one, other] =
        [Holder::log_in(&world, "alice").await, Holder::log_in(&world, "alice").await];
    let ask = async |body: Value| {
        let asked = world.ask(Method::POST, "/auth/refresh").bearer_auth(&one.refresh);
        let answer = asked.json(&body).send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap()["code"].clone())
    };

    for second in [&other.refresh, &one.refresh] {
        let refused = (StatusCode::BAD_REQUEST, json!("several_credentials"));
        assert_eq!(ask(json!({ "refresh_token": second })).await, refused);
    }
    assert_eq!(ask(json!({"grant_type": "refresh_token"})).await.0, StatusCode::OK);
    assert_eq!(refresh(&world, &other.refresh).await.0, StatusCode::OK, "it was not touched");
}

#[tokio::test]
async fn what_is_no_refresh_token_of_ours_is_refused_alike() {
    let world = World::start().await;
    world.register("alice").await;
    let holder = Holder::log_in(&world, "alice").await;
    let mut forged = holder.refresh.clone().into_bytes();
    let last = forged.len() - 2;
    forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
    let forged = String::from_utf8(forged).unwrap();

    for hostile in ["mrt_", "mrt_AAAA", &forged, &holder.refresh.to_uppercase()] {
        let (status, problem) = refresh(&world, hostile).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{hostile}: {problem}");
        assert_eq!(problem["detail"], "Invalid credentials", "{hostile}");
    }
    let as_access = world.ask(Method::GET, "/auth/me").bearer_auth(&holder.refresh);
    assert_eq!(as_access.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    let (status, _) = refresh(&world, &holder.access).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "an access token refreshes nothing");
    assert_eq!(refresh(&world, &holder.refresh).await.0, StatusCode::OK, "the good one still does");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lost_an_answer_is_never_logged_out() {
    let world = World::with(no_limits).start().await;
    world.register("alice").await;
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() };

    // A run that fails is told with the steps that made it fail.
    let proven = TestRunner::new(config).run(&prop::collection::vec(step(), 1..24), |steps| {
        let outcome = block_in_place(|| Handle::current().block_on(live(&world, &steps)));
        outcome.map_err(TestCaseError::fail)
    });

    assert!(proven.is_ok(), "{}", proven.unwrap_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_holders_of_one_token_nobody_keeps_the_session() {
    let world = World::with(no_limits).start().await;
    world.register("alice").await;
    let config = ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() };
    let schedule = (prop::collection::vec(step(), 0..8), any::<bool>(), 1..6_u32);

    let proven = TestRunner::new(config).run(&schedule, |(before, is_thief_first, ahead)| {
        let outcome = block_in_place(|| {
            Handle::current().block_on(be_robbed(&world, &before, is_thief_first, ahead))
        });
        outcome.map_err(TestCaseError::fail)
    });

    assert!(proven.is_ok(), "{}", proven.unwrap_err());
}

#[tokio::test]
async fn who_refreshes_all_the_time_is_found_out_all_the_same() {
    let world = World::start().await;
    world.register("alice").await;
    let owner = Holder::log_in(&world, "alice").await;
    let mut thief = owner.clone();
    for _ in 0..3 {
        thief.step(&world, Step::Refresh).await.unwrap();
    }

    let (status, _) = refresh(&world, &owner.refresh).await;

    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = refresh(&world, &thief.refresh).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "nobody has the session");
}

#[tokio::test]
async fn a_session_ends_by_idleness_and_by_age() {
    let world = World::start().await;
    world.register("alice").await;
    for ageing in [
        "UPDATE memoric.sessions SET last_used_at = now() - interval '7 days'",
        "UPDATE memoric.sessions SET created_at = now() - interval '30 days'",
    ] {
        let holder = Holder::log_in(&world, "alice").await;
        world.superuser().await.execute(ageing, &[]).await.unwrap();

        let (status, problem) = refresh(&world, &holder.refresh).await;

        assert_eq!(status, StatusCode::UNAUTHORIZED, "{ageing}: {problem}");
    }
}

#[tokio::test]
async fn an_access_token_ends_with_its_session_at_the_latest() {
    let world = World::with(|settings| settings.auth.session_life = 7_200).start().await;
    world.register("alice").await;
    let holder = Holder::log_in(&world, "alice").await;
    let ageing = "UPDATE memoric.sessions SET created_at = now() - interval '7000 seconds'";
    world.superuser().await.execute(ageing, &[]).await.unwrap();

    let (status, pair) = refresh(&world, &holder.refresh).await;

    assert_eq!(status, StatusCode::OK, "{pair}");
    let (told, left) = (&pair["expires_in"], &pair["refresh_expires_in"]);
    assert!((1..=200).contains(&told.as_u64().unwrap()), "{told}");
    assert!(told.as_u64().unwrap().abs_diff(left.as_u64().unwrap()) <= 1, "{told} {left}");
    let claims = TokenKeys::hs256(JWT_SECRET.as_bytes());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = claims.verify(pair["access_token"].as_str().unwrap(), now).unwrap();
    assert_eq!(claims.exp - claims.iat, told.as_u64().unwrap());
}

#[tokio::test]
async fn a_session_goes_with_what_it_was_begun_with() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let holder = Holder::log_in(&world, "alice").await;
    let change = json!({"old_password": PASSWORD, "new_password": "another-correct-horse"});

    let changed = world.ask_as(&alice, Method::POST, "/auth/change-password").json(&change);
    assert_eq!(changed.send().await.unwrap().status(), StatusCode::OK);

    assert_eq!(refresh(&world, &holder.refresh).await.0, StatusCode::UNAUTHORIZED);
}

/// Somebody who holds a pair.
#[derive(Clone)]
struct Holder {
    access: String,
    refresh: String,
}

impl Holder {
    async fn log_in(world: &World, name: &str) -> Self {
        let answer = world.try_log_in(name, PASSWORD).await;
        assert_eq!(answer.status(), StatusCode::OK);
        Self::of(&answer.json().await.unwrap())
    }

    fn of(pair: &Value) -> Self {
        let text = |name: &str| pair[name].as_str().unwrap_or_default().to_owned();
        Self { access: text("access_token"), refresh: text("refresh_token") }
    }

    /// Does as an honest client does: it uses the newest token that it has received.
    async fn step(&mut self, world: &World, step: Step) -> Result<(), String> {
        match step {
            Step::Refresh | Step::Lose => {
                let (status, pair) = refresh(world, &self.refresh).await;
                expect(status, &format!("{step:?}"))?;
                if matches!(step, Step::Refresh) {
                    *self = Self::of(&pair);
                }
            }
            Step::Cross => {
                let (one, other) =
                    tokio::join!(refresh(world, &self.refresh), refresh(world, &self.refresh));
                expect(one.0, "one of two that cross")?;
                expect(other.0, "the other of two that cross")?;
                if one.1["refresh_token"] != other.1["refresh_token"] {
                    return Err("two that cross get two successors".to_owned());
                }
                *self = Self::of(&one.1);
            }
            Step::Use => expect(use_token(world, &self.access).await, "a use")?,
            Step::Wait => {
                let superuser = world.superuser().await;
                let ageing =
                    "UPDATE memoric.sessions SET refreshed_at = refreshed_at - interval '11 s'";
                superuser.execute(ageing, &[]).await.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

async fn live(world: &World, steps: &[Step]) -> Result<(), String> {
    let mut client = Holder::log_in(world, "alice").await;
    for step in steps {
        client.step(world, *step).await?;
    }
    client.step(world, Step::Refresh).await
}

/// One token comes into two hands; each goes on as if it were alone. The first refreshes `ahead` times before the other does.
async fn be_robbed(
    world: &World,
    before: &[Step],
    is_thief_first: bool,
    ahead: u32,
) -> Result<(), String> {
    let mut owner = Holder::log_in(world, "alice").await;
    for step in before {
        owner.step(world, *step).await?;
    }
    let mut thief = owner.clone();
    let (first, second) =
        if is_thief_first { (&mut thief, &mut owner) } else { (&mut owner, &mut thief) };
    for _ in 0..ahead {
        first.step(world, Step::Refresh).await?;
    }
    first.step(world, Step::Use).await?;
    // Two may be how one client's requests have crossed; three never are.
    if ahead < 3 {
        first.step(world, Step::Wait).await?;
    }

    if second.step(world, Step::Refresh).await.is_ok() {
        return Err("the second holder goes on as well".to_owned());
    }
    for (whose, holder) in [("first", first), ("second", second)] {
        if refresh(world, &holder.refresh).await.0 != StatusCode::UNAUTHORIZED {
            return Err(format!("the {whose} holder still refreshes"));
        }
        if use_token(world, &holder.access).await != StatusCode::UNAUTHORIZED {
            return Err(format!("the {whose} holder still has access"));
        }
    }
    Ok(())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Refresh),
        3 => Just(Step::Lose),
        1 => Just(Step::Cross),
        3 => Just(Step::Use),
        2 => Just(Step::Wait),
    ]
}

fn expect(status: StatusCode, what: &str) -> Result<(), String> {
    if status == StatusCode::OK { Ok(()) } else { Err(format!("{what} is answered {status}")) }
}

async fn refresh(world: &World, token: &str) -> (StatusCode, Value) {
    let asked = world.ask(Method::POST, "/auth/refresh").bearer_auth(token);
    let answer = asked.send().await.expect("the gateway answers");
    (answer.status(), answer.json().await.expect("JSON"))
}

async fn use_token(world: &World, token: &str) -> StatusCode {
    let asked = world.ask(Method::GET, "/auth/me").bearer_auth(token);
    asked.send().await.expect("the gateway answers").status()
}

/// Many refreshes from one address are the point of these tests.
fn no_limits(settings: &mut memoric_config::Settings) {
    for quota in [
        &mut settings.gateway.limits.address,
        &mut settings.gateway.limits.identity,
        &mut settings.gateway.limits.credentials,
    ] {
        quota.per_second = 1_000_000.0;
        quota.burst = 1_000_000;
    }
}
