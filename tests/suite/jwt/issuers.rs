//! Others who may say who somebody is: as far as the operator lets them, and no further.

mod ended;

use harness::{Issuer, Recipe, Servers, token, until_some};
use memoric_contract::Role;
use reqwest::StatusCode;

use super::*;

#[tokio::test]
async fn a_subject_that_an_admin_has_linked_comes_in_as_that_user() {
    let issuer = Issuer::start().await;
    let world = believing(&issuer, false).await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "hers"})).await;
    until_believed(&world, &issuer).await;
    let nobody = issuer.mint(&issuer.claims("s-nobody", now()));
    assert_eq!(recall(&world, &nobody).await.0, 401, "nobody has said who that is");

    link(&world, &issuer, "link", "alice", "s-alice", true).await;

    let fresh = issuer.mint(&issuer.claims("s-alice", now()));
    let let_in = until(&world, &fresh, 200).await;
    assert_eq!(let_in[0]["content"], "hers");
    assert_eq!(recall(&world, &issuer.mint(&issuer.claims("s-bob", now()))).await.0, 401);
    link(&world, &issuer, "link", "alice", "s-alice", false).await;
    link(&world, &issuer, "unlink", "alice", "s-alice", true).await;
    let refused = recall(&world, &fresh).await.0;
    assert!(refused == 401 || until(&world, &fresh, 401).await.is_null(), "{refused}");
}

#[tokio::test]
async fn the_operator_sees_whom_an_issuer_may_speak_for() {
    let issuer = Issuer::start().await;
    let world = believing(&issuer, false).await;
    let alice = world.register("alice").await;
    world.register("bob").await;
    for subject in ["s-alice", "s-alice-too"] {
        link_by_sql(&world, &issuer, subject, alice.id).await;
    }
    let recipe = Recipe::on(Servers::get().await, world.database.clone());
    let show = |arguments: &[&str]| {
        let run = recipe.program("memoric-backend").args(arguments.iter().copied()).run();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    };

    let name = issuer.name();
    let shown = show(&["user", "show", "--user", "alice"]);
    for subject in ["s-alice", "s-alice-too"] {
        assert!(shown.contains(&format!("{subject} of {name}\n")), "{shown}");
    }
    let shown: Value =
        serde_json::from_str(&show(&["user", "show", "--user", "alice", "--json"])).unwrap();
    assert_eq!(shown["links"][1], json!({"issuer": name, "subject": "s-alice-too"}));
    assert!(!show(&["user", "show", "--user", "bob"]).contains(&name), "nobody's");
}

#[tokio::test]
async fn an_issuer_speaks_with_its_own_keys_for_us_alone_and_for_now() {
    let (issuer, other) = (Issuer::start().await, Issuer::start().await);
    let [one, two] = [issuer.settings(), other.settings()];
    let world = World::with(move |settings| settings.auth.issuers = vec![one, two]).start().await;
    let alice = world.register("alice").await;
    link_by_sql(&world, &issuer, "s", alice.id).await;
    assert_eq!(until(&world, &issuer.mint(&issuer.claims("s", now())), 200).await, json!([]));
    link_by_sql(&world, &other, "o", alice.id).await;
    assert_eq!(until(&world, &other.mint(&other.claims("o", now())), 200).await, json!([]));
    let with = |name: &str, value: Value| {
        let mut claims = issuer.claims("s", now());
        claims[name] = value;
        claims
    };

    let hostile = [
        ("another issuer's key", other.mint(&issuer.claims("s", now()))),
        ("another issuer's subject", other.mint(&other.claims("s", now()))),
        ("in another's name", issuer.mint(&other.claims("o", now()))),
        ("our own name", issuer.mint(&with("iss", json!("memoric")))),
        ("a name that nobody has", issuer.mint(&with("iss", json!("https://evil.example")))),
        ("no name", issuer.mint(&with("iss", Value::Null))),
        ("another audience", issuer.mint(&with("aud", json!("other")))),
        ("no audience", issuer.mint(&with("aud", Value::Null))),
        ("an end that was", issuer.mint(&with("exp", json!(now() - 1)))),
        ("no end", issuer.mint(&with("exp", Value::Null))),
        ("an end that never comes", issuer.mint(&with("exp", json!(u64::MAX)))),
        ("a beginning to come", issuer.mint(&with("nbf", json!(now() + 60)))),
        ("no subject", issuer.mint(&with("sub", json!("")))),
        ("a subject of two", issuer.mint(&with("sub", json!(["s", "s"])))),
        (
            "our secret",
            signed(
                r#"{"alg":"HS256","kid":"first"}"#,
                &issuer.claims("s", now()).to_string(),
                JWT_SECRET.as_bytes(),
            ),
        ),
        (
            "no signature",
            signed(r#"{"alg":"none","kid":"first"}"#, &issuer.claims("s", now()).to_string(), b""),
        ),
    ];
    for (what, token) in hostile {
        assert_eq!(recall(&world, &token).await.0, 401, "{what}");
    }
    assert_eq!(recall(&world, &alice.token).await.0, 200, "our own are ours");
}

#[tokio::test]
async fn roles_are_the_users_own_unless_the_issuer_may_grant_them_and_never_an_admins() {
    let issuer = Issuer::start().await;
    for (may_grant, writes) in [(false, [200, 403, 200, 200]), (true, [403, 200, 403, 200])] {
        let world = believing(&issuer, may_grant).await;
        let alice = world.register("alice").await;
        let reader = world.person_with("reader", &["readonly"]).await;
        let root = world.person_with("root", &["admin"]).await;
        for (subject, user) in [("alice", &alice), ("reader", &reader), ("root", &root)] {
            link_by_sql(&world, &issuer, subject, user.id).await;
        }
        let claim = |subject: &str, roles: Value| {
            let mut claims = issuer.claims(subject, now());
            claims["roles"] = roles;
            issuer.mint(&claims)
        };
        let cases = [
            claim("alice", json!(["readonly"])),
            claim("reader", json!(["user"])),
            claim("alice", json!(["nothing of ours"])),
            claim("root", json!(["admin"])),
        ];
        for (token, expected) in cases.iter().zip(writes) {
            until_believed(&world, &issuer).await;
            let written = world.ask(Method::POST, "/memories").bearer_auth(token);
            let written = written.json(&json!({"content": "x"})).send().await.unwrap().status();
            assert_eq!(written, expected, "{may_grant}: {token}");
        }
        for token in [claim("root", json!(["admin"])), claim("alice", json!(["admin"]))] {
            let hers = format!("/memories?user_id={}", reader.id);
            for path in ["/users", "/audit/logs", hers.as_str(), "/auth/users/reader"] {
                let refused = world.ask(Method::GET, path).bearer_auth(&token).send().await;
                assert_eq!(refused.unwrap().status(), StatusCode::FORBIDDEN, "{path}");
            }
            let key = world.ask(Method::POST, "/auth/api-keys").bearer_auth(&token);
            let key = key.json(&json!({"name": "x"})).send().await.unwrap();
            assert_eq!(key.status(), StatusCode::FORBIDDEN, "a key would outlive the token");
        }
    }
}

#[tokio::test]
async fn an_issuer_that_is_away_logs_nobody_out_and_one_that_rotates_is_followed() {
    let issuer = Issuer::start().await;
    let world = believing(&issuer, false).await;
    let alice = world.register("alice").await;
    link_by_sql(&world, &issuer, "s", alice.id).await;
    let first = issuer.mint(&issuer.claims("s", now()));
    until(&world, &first, 200).await;
    assert_eq!(counted(&world, "memoric_gateway_issuer_up", &issuer).await, 1.0);

    let none = (200, r#"{"keys": []}"#);
    for away in [none, (503, "away"), (302, "http://127.0.0.1:1/"), (200, "no keys"), (200, "{}")] {
        issuer.answer_instead(Some(away));
        let unknown = Issuer::start().await;
        unknown.rotate(&format!("new-{}", away.0));
        assert_eq!(recall(&world, &unknown.mint(&issuer.claims("s", now()))).await.0, 401);
        assert_eq!(recall(&world, &first).await.0, 200, "stale keys are kept: {away:?}");
    }
    assert_eq!(counted(&world, "memoric_gateway_issuer_up", &issuer).await, 0.0);

    issuer.answer_instead(None);
    issuer.rotate("second");
    let second = issuer.mint(&issuer.claims("s", now()));
    until(&world, &second, 200).await;
    assert_eq!(
        recall(&world, &first).await.0,
        401,
        "a key that is told no more is believed no more"
    );
    assert_eq!(counted(&world, "memoric_gateway_issuer_up", &issuer).await, 1.0);
}

#[tokio::test]
async fn what_was_verified_once_goes_with_its_key_and_at_its_end() {
    let issuer = Issuer::start().await;
    let world = believing(&issuer, false).await;
    let alice = world.register("alice").await;
    link_by_sql(&world, &issuer, "s", alice.id).await;
    until_believed(&world, &issuer).await;
    let ends_at = now() + 8;
    let mut claims = issuer.claims("s", now());
    let first = issuer.mint(&claims);
    claims["exp"] = json!(ends_at);
    let short = issuer.mint(&claims);
    for _ in 0..3 {
        assert_eq!(recall(&world, &first).await.0, 200);
        let (status, told) = recall(&world, &short).await;
        assert!(status == 200 || now() >= ends_at, "{status}: {told}");
    }

    let ended = until_some("it ends", async || {
        let (status, told) = recall(&world, &short).await;
        (status == 401).then_some(told)
    });
    assert_eq!(ended.await["code"], "token_expired");
    assert!(now() >= ends_at, "not before");

    for kid in ["first", "second"] {
        issuer.rotate(kid);
        // Whoever comes with a key that nobody knows makes the gateway ask.
        let unknown = Issuer::start().await;
        unknown.rotate(&format!("not-{kid}"));
        recall(&world, &unknown.mint(&issuer.claims("s", now()))).await;
        until(&world, &issuer.mint(&issuer.claims("s", now())), 200).await;
        assert_eq!(recall(&world, &first).await.0, 401, "{kid}");
    }
}

#[tokio::test]
async fn whoever_comes_with_anothers_token_is_told_what_only_the_issuer_has() {
    let issuer = Issuer::start().await;
    issuer.answer_instead(Some((503, "away")));
    let world = believing(&issuer, false).await;
    let alice = world.register("alice").await;
    link_by_sql(&world, &issuer, "s", alice.id).await;
    let token = issuer.mint(&issuer.claims("s", now()));

    let (status, told) = recall(&world, &token).await;
    assert_eq!((status, &told["code"]), (503, &json!("issuer_unavailable")), "its keys");

    issuer.answer_instead(None);
    until_believed(&world, &issuer).await;
    for (method, path) in [(Method::POST, "/auth/logout-all"), (Method::GET, "/auth/sessions")] {
        let refused = world.ask(method, path).bearer_auth(&token).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        let told: Value = refused.json().await.unwrap();
        assert_eq!(told["code"], "foreign_session", "{path}: its session");
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_makes_nobody_ask_for_ever() {
    let issuer = Issuer::start().await;
    let world = believing(&issuer, false).await;
    let alice = world.register("alice").await;
    link_by_sql(&world, &issuer, "s", alice.id).await;
    let good = issuer.mint(&issuer.claims("s", now()));
    until(&world, &good, 200).await;
    let before = issuer.asked();

    let stranger = Issuer::start().await;
    for number in 0..60 {
        stranger.rotate(&format!("key-{number}"));
        let token = stranger.mint(&issuer.claims("s", now()));
        assert_eq!(recall(&world, &token).await.0, 401);
    }

    let asked = issuer.asked() - before;
    assert!(asked <= 12, "sixty unknown keys, {asked} questions");
    assert_eq!(recall(&world, &good).await.0, 200);
}

#[tokio::test]
async fn tokens_of_the_python_server_are_taken_until_a_day_of_imported_users_and_never_as_an_admin()
{
    let day = time::OffsetDateTime::now_utc().date();
    let (past, future) = (day.previous_day().unwrap(), day.next_day().unwrap().next_day().unwrap());
    let ends = |day: time::Date| Some(day.to_string());
    let legacy = |id: i64, roles: Value| legacy(id, &roles, now());

    for (day, expected) in [(None, 401), (ends(past), 401), (ends(future), 200)] {
        let world = World::with(move |settings| settings.auth.legacy_tokens = day).start().await;
        let (alice, bob) = (world.register("alice").await, world.register("bob").await);
        let root = world.person_with("root", &["admin"]).await;
        let imported = "UPDATE memoric.users SET imported_at = now() WHERE id = ANY ($1)";
        world.superuser().await.execute(imported, &[&vec![alice.id, root.id]]).await.unwrap();

        assert_eq!(recall(&world, &legacy(alice.id, json!(["user"]))).await.0, expected);
        assert_eq!(recall(&world, &legacy(bob.id, json!(["user"]))).await.0, 401, "not imported");
        let admins = legacy(root.id, json!(["admin"]));
        assert_eq!(recall(&world, &admins).await.0, expected);
        let users = world.ask(Method::GET, "/users").bearer_auth(&admins).send().await.unwrap();
        assert_eq!(users.status(), if expected == 200 { 403 } else { 401 }, "never as an admin");
        assert_eq!(recall(&world, &alice.token).await.0, 200, "our own are ours");
        let forged = signed(r#"{"alg":"HS256","typ":"JWT"}"#, "{}", b"another secret");
        assert_eq!(recall(&world, &forged).await.0, 401);
        // Its session is nowhere: it is believed once the gateway has its first list of what has ended.
        let unheard_of = token(alice.id, &[Role::Admin]);
        until_some("it is believed", async || {
            (recall(&world, &unheard_of).await.0 == 200).then_some(())
        })
        .await;
    }
}

async fn believing(issuer: &Issuer, may_grant_roles: bool) -> World {
    let issuer = memoric_config::schema::Issuer { may_grant_roles, ..issuer.settings() };
    World::with(move |settings| settings.auth.issuers = vec![issuer]).start().await
}

/// Links or unlinks as the operator does.
async fn link(world: &World, issuer: &Issuer, verb: &str, user: &str, subject: &str, works: bool) {
    let recipe = Recipe::on(Servers::get().await, world.database.clone());
    let file = recipe.folder().join("memoric.yaml");
    let settings = issuer.settings();
    let known = json!({"auth": {"issuers": [{"issuer": settings.issuer, "audience": "x",
        "jwks_url": settings.jwks_url, "algorithms": ["EdDSA"]}]}});
    std::fs::write(&file, known.to_string()).unwrap();
    let program = recipe.program("memoric-backend").env("MEMORIC_CONFIG", file.as_os_str());
    let name = issuer.name();
    let arguments = ["user", verb, "--user", user, "--issuer", &name, "--subject", subject];
    let run = program.args(arguments).run();
    assert_eq!(run.status.success(), works, "{verb}: {}", String::from_utf8_lossy(&run.stderr));
}

async fn link_by_sql(world: &World, issuer: &Issuer, subject: &str, user: i64) {
    let insert = "INSERT INTO memoric.links (issuer, subject, user_id) VALUES ($1, $2, $3)";
    let superuser = world.superuser().await;
    superuser.execute(insert, &[&issuer.name(), &subject, &user]).await.unwrap();
}

/// What memories the bearer of `token` has.
async fn recall(world: &World, token: &str) -> (u16, Value) {
    let answer = world.ask(Method::GET, "/memories").bearer_auth(token).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

/// The same, once the status is the one that is waited for.
async fn until(world: &World, token: &str, expected: u16) -> Value {
    until_some(&format!("it is answered with {expected}"), async || {
        let (status, body) = recall(world, token).await;
        (status == expected).then_some(if expected == 200 { body } else { Value::Null })
    })
    .await
}

/// Waits until the gateway has the keys.
async fn until_believed(world: &World, issuer: &Issuer) {
    let is_up = async || counted(world, "memoric_gateway_issuer_up", issuer).await >= 1.0;
    harness::until("it has the issuer's keys", is_up).await;
}

async fn counted(world: &World, series: &str, issuer: &Issuer) -> f64 {
    let series = format!("{series}{{issuer=\"{}\"}}", issuer.name());
    harness::counted(world.gateway_metrics, &series).await
}

/// A token as the Python server minted them.
fn legacy(id: i64, roles: &Value, issued_at: u64) -> String {
    let claims = json!({"sub": id.to_string(), "roles": roles, "namespace": null, "iat": issued_at,
                        "exp": issued_at + 3600, "jti": format!("{id}_{issued_at}")});
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, &claims.to_string(), JWT_SECRET.as_bytes())
}

/// A token in three parts by HS256, whatever its header says.
fn signed(header: &str, claims: &str, secret: &[u8]) -> String {
    let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
    format!("{message}.{}", BASE64.encode(hmac(secret, &message)))
}
