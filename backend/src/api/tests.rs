//! What the backend answers, asked as the gateway asks it, with a database behind it.

use std::{net::Ipv4Addr, num::NonZeroUsize, time::Duration};

use axum::{
    body::Bytes,
    http::{
        header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
        response::Parts,
    },
};
use http_body_util::BodyExt as _;
use memoric_config::{
    Environment,
    redis::Redis,
    schema::{self, Registration},
};
use memoric_contract::{
    ASSERTION_HEADER, Assertion, AssertionKey, Caller, Demands, Identity, KeyId, Permissions, Role,
    Roles,
    api_key::CheckKey,
    audit::RECORDED_HEADER,
    revocation::FeedPage,
    token::{Claims, ISSUER, TokenKeys, TokenSigner},
};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;

mod asides;
mod deliveries;
mod trail;

use super::*;
use crate::{
    api_keys::ApiKeys,
    audit::Scribe,
    backend::{ensure_right_key, ring_key, service_secrets},
    config::EncryptionKey,
    cursor::Cursors,
    devices::Devices,
    guesses::Guesses,
    password_rules::PasswordRules,
    passwords::Passwords,
    resets::Resets,
    revocation::Courier,
    seal::{Keyring, Sealing},
    sessions::{Lives, Sessions},
    store::fixture::World,
    tokens::{TokenRing, Tokens},
    vault::Vault,
};

#[tokio::test]
async fn nothing_answers_without_an_assertion() {
    let desk = Desk::new().await;
    for (method, path) in [("GET", "/memories"), ("GET", "/internal/health"), ("GET", "/nowhere")] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let answer = desk.api.answer(request).await;
        assert_eq!(answer.status(), 401, "{method} {path}");
        assert_eq!(answer.headers()[WWW_AUTHENTICATE], "Bearer");
    }
}

#[tokio::test]
async fn what_is_not_built_yet_says_so() {
    let desk = Desk::new().await;
    let root = desk.identity(ROOT, Role::Admin);
    let not_yet = [Operation::ListClusters, Operation::RunPolicies, Operation::ShowOpenApi];
    for operation in not_yet {
        let caller = match operation.demands() {
            Demands::Access => Caller::Known(root.clone()),
            Demands::Nothing | Demands::Refresh => Caller::Anonymous,
        };
        let (status, body) = desk.ask(operation, operation.path(), &caller, None).await;
        assert_eq!((status, &body["code"]), (501, &json!("not_implemented")), "{operation:?}");
    }
}

#[tokio::test]
async fn a_person_registers_logs_in_and_sees_themself() {
    let desk = Desk::new().await;
    let sent = json!({
        "username": "Carol", "email": "Carol@Example.com", "password": PASSWORD,
        "namespace": "not hers to choose", "roles": ["admin"],
    });

    let (status, registered) = desk.anonymously(Operation::Register, &sent).await;
    let carol = desk.log_in("CAROL", PASSWORD).await;
    let (_, me) = desk.known(Operation::ShowMe, "/auth/me", &carol, None).await;

    assert_eq!(status, 201, "{registered}");
    let keys: Vec<_> = registered.as_object().unwrap().keys().collect();
    assert_eq!(keys, PROFILE);
    assert_eq!(registered["roles"], json!(["user"]));
    assert_eq!(registered["namespace"], Value::Null);
    assert_eq!(registered["last_login_at"], Value::Null);
    assert_eq!(me["username"], "carol");
    assert!(me["last_login_at"].is_string());
}

#[tokio::test]
async fn of_a_registration_that_is_refused_nothing_is_kept_but_its_record() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let kept = async || {
        let keys = "SELECT subject FROM audit.subject_keys WHERE subject > 0 ORDER BY 1";
        desk.world.as_superuser(keys).await
    };
    let before = kept().await;
    assert_eq!(before.len(), 1, "Carol's");

    for (name, email) in [("carol", "new@example.com"), ("new", "carol@example.com")] {
        let sent = json!({ "username": name, "email": email, "password": PASSWORD });
        assert_eq!(desk.anonymously(Operation::Register, &sent).await.0, 400, "{name}");
    }

    assert_eq!(kept().await, before);
    let carol = desk.log_in("carol", PASSWORD).await;
    let root = desk.identity(ROOT, Role::Admin);
    let target = format!("/audit/logs?event_type=user.created&user_id={}", carol.user);
    let (_, page) = desk.known(Operation::ReadAudit, &target, &root, None).await;
    assert_eq!(page["logs"][0]["username"], "carol", "the kept key opens the first record");
}

#[tokio::test]
async fn a_closed_registration_lets_nobody_in() {
    let mut desk = Desk::new().await;
    desk.api.app.registration = Registration::Closed;
    let sent = json!({ "username": "carol", "email": "carol@example.com", "password": PASSWORD });

    let (status, body) = desk.anonymously(Operation::Register, &sent).await;

    assert_eq!((status, &body["code"]), (403, &json!("registration_closed")));
    assert!(desk.api.app.store.find_login("carol").await.unwrap().is_none());
}

#[tokio::test]
async fn whoever_mistypes_and_whoever_is_not_there_get_the_same_answer() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    for name in ["carol", "nobody", "carol@example.com", "no body at all"] {
        let sent = json!({ "username": name, "password": "not the password" });
        let (status, body) = desk.anonymously(Operation::Login, &sent).await;
        assert_eq!((status, &body["detail"]), (401, &json!("Invalid credentials")), "{name}");
    }
}

#[tokio::test]
async fn a_failed_login_takes_the_same_steps_whoever_it_names() {
    let desk = Desk::new().await;
    for name in ["carol", "dave"] {
        desk.register(name).await;
    }
    desk.world.as_superuser(COUNTED).await;
    let asked = async || desk.world.as_superuser("SELECT nextval('audit.asked')").await.concat();

    for (name, before) in
        [("nobody", "1"), ("nobody", "3"), ("carol", "5"), ("carol", "7"), ("dave", "9")]
    {
        assert_eq!(asked().await, before, "before {name}");
        let sent = json!({ "username": name, "password": "not the password" });
        assert_eq!(desk.anonymously(Operation::Login, &sent).await.0, 401, "{name}");
    }

    assert_eq!(asked().await, "11", "each asked for its key once, at hand or not");
}

#[tokio::test]
async fn a_new_password_ends_the_token_in_use() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let carol = desk.log_in("carol", PASSWORD).await;
    assert!(desk.is_live(&carol).await);

    let sent = json!({ "old_password": PASSWORD, "new_password": "another_password_12" });
    let (status, body) =
        desk.known(Operation::ChangePassword, "/auth/change-password", &carol, Some(&sent)).await;

    assert_eq!((status, body), (200, json!({ "message": "Password changed successfully" })));
    assert!(!desk.is_live(&carol).await);
    let told = desk.feed("").await.revocations;
    let generation = format!("revoked:{{{}}}:gen 2 ", carol.user);
    assert!(told.iter().any(|message| message.starts_with(&generation)), "{told:?}");
    desk.log_in("carol", "another_password_12").await;
}

#[tokio::test]
async fn what_is_remembered_of_a_user_who_has_changed_lives_no_more() {
    let desk = Desk::new().await;
    let expires_at = seconds() + 3600;
    let id = KeyId("0123456789aB".to_owned());
    let key = format!(
        "INSERT INTO memoric.api_keys (id, user_id, name, hash, scopes, expires_at)
         VALUES ('{}', {}, 'one', decode(repeat('00', 32), 'hex'), '{{memories:read}}', now() + '1 hour')",
        id.0, desk.world.alice
    );
    desk.world.as_superuser(&key).await;
    let of = |presented| Identity { presented, ..desk.alice() };
    let by = |generation| {
        let (scopes, id) = (Permissions::default(), id.clone());
        let token = uuid::Uuid::from_u128(7);
        [
            of(PresentedBy::ApiKey { id, scopes, generation, expires_at }),
            of(PresentedBy::ForeignToken { id: token, is_named: true, generation, expires_at }),
        ]
    };
    for who in by(1) {
        assert!(desk.is_live(&who).await, "{who:?}");
    }

    let change = format!("SELECT generation FROM credentials.end_all({})", desk.world.alice);
    desk.world.as_superuser(&change).await;

    for (before, after) in by(1).into_iter().zip(by(2)) {
        assert!(!desk.is_live(&before).await, "{before:?}");
        assert!(desk.is_live(&after).await, "{after:?}");
    }
}

#[tokio::test]
async fn what_a_changed_password_ends_is_told_though_the_client_went_away() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let carol = desk.log_in("carol", PASSWORD).await;
    let (holder, _driver) = desk.world.superuser().await;
    let rows = format!("BEGIN; SELECT FROM memoric.users WHERE id = {} FOR UPDATE", carol.user);
    holder.batch_execute(&rows).await.unwrap();
    let news = desk.api.app.courier.news(Duration::from_secs(600));

    let sent = json!({ "old_password": PASSWORD, "new_password": "another_password_12" });
    tokio::select! {
        _ = desk.known(Operation::ChangePassword, "/auth/change-password", &carol, Some(&sent)) => {
            panic!("somebody holds the row")
        }
        () = desk.is_waited_for("change_password") => {}
    }
    holder.batch_execute("COMMIT").await.unwrap();

    let told = tokio::time::timeout(Duration::from_secs(60), news).await;
    assert!(told.is_ok(), "whoever was to be told was not");
    assert!(!desk.is_live(&carol).await);
}

#[tokio::test]
async fn a_stolen_session_that_ends_is_told_though_the_client_went_away() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let sent = json!({ "username": "carol", "password": PASSWORD });
    let (_, pair) = desk.anonymously(Operation::Login, &sent).await;
    let stolen = json!({ "refresh_token": pair["refresh_token"] });
    assert_eq!(desk.anonymously(Operation::Refresh, &stolen).await.0, 200);
    let its = "WHERE user_id = (SELECT id FROM memoric.users WHERE username = 'carol')";
    let arrived = format!(
        "UPDATE memoric.sessions SET received = counter, refreshed_at = now() - interval '1 hour' {its}"
    );
    desk.world.as_superuser(&arrived).await;
    let (holder, _driver) = desk.world.superuser().await;
    let row = format!("BEGIN; SELECT FROM memoric.sessions {its} FOR UPDATE");
    holder.batch_execute(&row).await.unwrap();
    let news = desk.api.app.courier.news(Duration::from_secs(600));

    tokio::select! {
        _ = desk.anonymously(Operation::Refresh, &stolen) => panic!("somebody holds the row"),
        () = desk.is_waited_for("credentials.refresh") => {}
    }
    holder.batch_execute("COMMIT").await.unwrap();

    let told = tokio::time::timeout(Duration::from_secs(60), news).await;
    assert!(told.is_ok(), "whoever was to be told was not");
    let feed = desk.feed("").await.revocations;
    assert!(feed.iter().any(|message| message.contains(":sid:")), "{feed:?}");
}

#[tokio::test]
async fn a_wrong_old_password_changes_nothing() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let carol = desk.log_in("carol", PASSWORD).await;

    let sent = json!({ "old_password": "not the password", "new_password": "another_password_12" });
    let (status, body) =
        desk.known(Operation::ChangePassword, "/auth/change-password", &carol, Some(&sent)).await;

    assert_eq!(status, 400);
    assert_eq!(body["detail"], "Password change failed. Check your current password.");
    assert!(desk.is_live(&carol).await);
}

#[tokio::test]
async fn nobody_learns_from_a_profile_who_there_is() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let carol = desk.log_in("carol", PASSWORD).await;
    let root = desk.identity(ROOT, Role::Admin);
    let status = async |path: &str, who: &Identity| {
        desk.known(Operation::ShowProfile, path, who, None).await.0
    };

    assert_eq!(status("/auth/users/Carol", &carol).await, 200);
    assert_eq!(status("/auth/users/alice", &carol).await, 403);
    assert_eq!(status("/auth/users/nobody", &carol).await, 403);
    assert_eq!(status("/auth/users/alice", &root).await, 200);
    assert_eq!(status("/auth/users/nobody", &root).await, 404);
}

#[tokio::test]
async fn a_memory_goes_in_sealed_and_comes_out_to_its_owner() {
    let desk = Desk::new().await;
    let (alice, bob) = (desk.alice(), desk.bob());
    let sent =
        json!({ "content": "canary one", "thread_id": "canary two", "metadata": { "n": 1 } });

    let (status, kept) = desk.remember(&alice, &sent).await;
    let (_, hers) = desk.recall(&alice, "/memories?thread_id=canary%20two").await;
    let (_, his) = desk.recall(&bob, "/memories").await;

    assert_eq!((status, &kept["message"]), (200, &json!("Memory created successfully")));
    assert_eq!(hers[0]["content"], "canary one");
    assert_eq!(hers[0]["metadata"]["n"], 1);
    assert_eq!(his, json!([]));
    let dumped =
        "SELECT memories::text FROM memoric.memories UNION ALL SELECT trail::text FROM audit.trail";
    for row in desk.world.as_superuser(dumped).await {
        assert!(!row.contains(&hex::encode("canary")) && !row.contains("canary"), "{row}");
    }
}

#[tokio::test]
async fn anothers_memories_are_not_to_be_had() {
    let desk = Desk::new().await;
    let (alice, bob) = (desk.alice(), desk.bob());
    let target = format!("/memories?user_id={}", alice.user);

    let (status, body) = desk.recall(&bob, &target).await;

    assert_eq!((status, &body["detail"]), (403, &json!("Insufficient permissions")));
    assert_eq!(desk.recall(&alice, &target).await.0, 200, "one's own id is no other's");
}

#[tokio::test]
async fn an_admin_by_the_gateways_word_must_be_one_by_the_databases() {
    let desk = Desk::new().await;
    desk.remember(&desk.alice(), &json!({ "content": "hers" })).await;
    let target = format!("/memories?user_id={}", desk.world.alice);
    let (bob, nobody) =
        (desk.identity(desk.world.bob.0, Role::Admin), desk.identity(ROOT + 1, Role::Admin));

    let refused = [desk.recall(&bob, &target).await, desk.recall(&nobody, &target).await];
    let set_roles = |set: &str| format!("UPDATE memoric.users SET {set} WHERE username = 'bob'");
    desk.world.as_superuser(&set_roles("roles = '{admin}'")).await;
    let allowed = desk.recall(&bob, &target).await;
    desk.world.as_superuser(&set_roles("is_active = false")).await;
    let deactivated = desk.recall(&bob, &target).await;

    let statuses = refused.map(|(status, _)| status);
    assert_eq!(statuses, [403, 401], "no admin, and nobody whose credential could live");
    assert_eq!((allowed.0, &allowed.1[0]["content"]), (200, &json!("hers")));
    assert_eq!(deactivated.0, 401, "nor does that of who may not log in");
}

#[tokio::test]
async fn what_an_admin_was_not_shown_is_not_on_record_as_shown() {
    let desk = Desk::new().await;
    desk.remember(&desk.alice(), &json!({ "content": "hers" })).await;
    let root = desk.root().await;
    let target = format!("/memories?user_id={}", desk.world.alice);
    // As whoever writes to the files: no trigger is in their way.
    let spoil = "SET session_replication_role = replica;
        UPDATE memoric.memories SET payload = set_byte(payload, 80, get_byte(payload, 80) # 1)";

    desk.world.as_superuser(spoil).await;
    let (spoilt, _) = desk.recall_in(RequestId::new(), &target, &root).await;
    desk.world.as_superuser(spoil).await;
    let (whole, shown) = desk.recall_in(RequestId::new(), &target, &root).await;

    assert_eq!((spoilt.status.as_u16(), spoilt.headers.get(RECORDED_HEADER)), (500, None));
    assert_eq!(
        (whole.status.as_u16(), whole.headers[RECORDED_HEADER].as_bytes()),
        (200, &b"1"[..])
    );
    assert_eq!(shown[0]["content"], "hers");
    let kept = "SELECT count(*) FROM audit.trail WHERE event_type = 'memory.retrieved'";
    assert_eq!(desk.world.as_superuser(kept).await, ["1"], "the one that was shown");
}

#[tokio::test]
async fn a_reading_that_the_gateway_repeats_is_answered_and_on_record_as_often() {
    let desk = Desk::new().await;
    desk.remember(&desk.alice(), &json!({ "content": "hers" })).await;
    let root = desk.root().await;
    let (request, target) = (RequestId::new(), format!("/memories?user_id={}", desk.world.alice));

    for _ in 0..2 {
        let (head, shown) = desk.recall_in(request, &target, &root).await;
        assert_eq!((head.status.as_u16(), &shown[0]["content"]), (200, &json!("hers")));
        assert_eq!(head.headers[RECORDED_HEADER], "1", "the gateway need not record it");
    }

    let kept = format!(
        "SELECT event_type, status, success FROM audit.trail WHERE request_id = '{request}'"
    );
    assert_eq!(desk.world.as_superuser(&kept).await.len(), 2);
}

#[tokio::test]
async fn more_than_is_held_at_once_is_asked_for_in_parts() {
    let desk = Desk::new().await;
    let (alice, bob) = (desk.alice(), desk.root().await);
    for content in ["one", "two", "three"] {
        desk.remember(&alice, &json!({ "content": content })).await;
    }
    let less_relevant_and_large = format!(
        r"INSERT INTO memoric.memories (user_id, uuid, payload, key_version, importance, seen, score)
          SELECT {}, gen_random_uuid(), '\x4d560100000001'::bytea || convert_to(repeat('x', 4194304), 'UTF8'), 1, 0, 1, 0
          FROM generate_series(1, 16)",
        alice.user
    );
    desk.world.as_superuser(&less_relevant_and_large).await;
    let crossing = format!("/memories?user_id={}&top_k", alice.user);

    for (who, path) in [(&alice, "/memories?top_k"), (&bob, crossing.as_str())] {
        let (status, body) = desk.recall(who, &format!("{path}=19")).await;
        assert_eq!((status, &body["errors"][0]["field"]), (422, &json!("top_k")), "{path}");
        let (status, body) = desk.recall(who, &format!("{path}=3")).await;
        assert_eq!((status, body.as_array().map(Vec::len)), (200, Some(3)), "{path}");
    }
    let crossings = "SELECT count(*) FROM audit.trail WHERE event_type = 'memory.retrieved'";
    assert_eq!(
        desk.world.as_superuser(crossings).await,
        ["1"],
        "nothing was read that was not sent"
    );
}

#[tokio::test]
async fn what_does_not_open_is_never_served() {
    let desk = Desk::new().await;
    let alice = desk.alice();
    desk.remember(&alice, &json!({ "content": "one" })).await;
    desk.remember(&alice, &json!({ "content": "two" })).await;
    let altered =
        "UPDATE memoric.memories SET payload = other.payload FROM memoric.memories AS other
                   WHERE memories.id = 1 AND other.id = 2";
    let trusted = "ALTER TABLE memoric.memories DISABLE TRIGGER ALL";
    desk.world.as_superuser(&format!("{trusted}; {altered}")).await;

    let (status, body) = desk.recall(&alice, "/memories").await;

    assert_eq!((status, &body["detail"]), (500, &json!("Decryption failed")));
    assert_eq!(body["code"], "decryption_failed");
}

#[tokio::test]
async fn a_request_that_comes_twice_is_served_once() {
    let desk = Desk::new().await;
    let alice = Caller::Known(desk.alice());
    let request = RequestId::new();
    let once = async || {
        let sent = Some(json!({ "content": "once" }));
        let asked = ("POST", "/memories", Operation::RememberMemory.name());
        desk.send(asked, &alice, sent.as_ref(), request).await.0
    };

    assert_eq!((once().await, once().await), (200, 409));
    assert_eq!(desk.recall(&desk.alice(), "/memories").await.1.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_trail_tells_admins_who_did_what_from_where() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let sent = json!({ "username": "carol", "password": "not the password" });
    desk.anonymously(Operation::Login, &sent).await;
    let sent = json!({ "username": "my own secret", "password": "x" });
    desk.anonymously(Operation::Login, &sent).await;
    let root = desk.identity(ROOT, Role::Admin);

    let target = "/audit/logs?event_type=auth.login.failed&limit=1&offset=1";
    let (status, page) = desk.known(Operation::ReadAudit, target, &root, None).await;
    let all = "SELECT string_agg(trail::text, '') FROM audit.trail AS trail";

    assert_eq!(status, 200);
    assert_eq!(
        (&page["total"], &page["limit"], &page["offset"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let row = page["logs"][0].as_object().unwrap();
    assert_eq!(row.keys().collect::<Vec<_>>(), TRAIL_ROW);
    assert_eq!((&row["username"], &row["ip_address"]), (&json!("carol"), &json!("203.0.113.7")));
    let stored = desk.world.as_superuser(all).await.concat();
    assert!(!stored.contains("203.0.113.7") && !stored.contains("my own secret"));
}

#[tokio::test]
async fn the_feed_answers_as_soon_as_there_is_news() {
    let desk = Desk::new().await;
    for user in 7.. {
        let cursor = desk.feed("").await.cursor;
        let began = Instant::now();
        let query = format!("?cursor={cursor}&wait_ms=1000");
        let (page, ()) = tokio::join!(desk.feed(&query), desk.revoke(user));
        // A machine that is busy with other things may try again; waiting to the end is always slow.
        let is_told = page.revocations.iter().any(|told| told.contains(&format!("{{{user}}}")));
        if is_told && began.elapsed() < Duration::from_millis(950) {
            return;
        }
        assert!(user < 20, "it waits to the end");
    }
}

#[tokio::test]
async fn what_another_backend_revokes_is_told_soon_though_a_transaction_stays_open() {
    let desk = Desk::new().await;
    let (open, _driver) = desk.world.superuser().await;
    open.batch_execute("BEGIN").await.unwrap();
    open.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap();
    desk.revoke(7).await;
    let cursor = desk.feed("").await.cursor;

    for user in 8.. {
        desk.revoke(user).await;
        let began = Instant::now();
        let page = desk.feed(&format!("?cursor={cursor}&wait_ms=1000")).await;
        assert!(page.revocations.iter().any(|told| told.contains(&format!("{{{user}}}"))));
        if began.elapsed() < Duration::from_millis(950) {
            return;
        }
        assert!(user < 20, "it waits to the end");
    }
}

const LIVES: Lives =
    Lives { idle: Duration::from_secs(7 * 24 * 3600), life: Duration::from_secs(30 * 24 * 3600) };

/// An API with a database of its own, in which there are Alice and Bob.
struct Desk {
    api: Api,
    world: World,
}

impl Desk {
    async fn new() -> Self {
        let world = World::new().await;
        // Theirs were wrapped by nobody; the desk makes others with its own ring.
        world.as_superuser("DELETE FROM audit.subject_keys").await;
        let root = format!(
            "INSERT INTO memoric.users (id, username, email, password_hash, roles)
             VALUES ({ROOT}, 'root', 'root@example.com', 'none', '{{admin}}')"
        );
        world.as_superuser(&root).await;
        for user in [world.alice.0, world.bob.0, ROOT] {
            let session = format!(
                "INSERT INTO memoric.sessions (id, user_id, seed, generation)
                 VALUES ('{}', {user}, '\\x{}', 1)",
                session_of(user),
                "07".repeat(32)
            );
            world.as_superuser(&session).await;
        }
        let store = world.store.clone();
        let key = EncryptionKey::Given(random_key().into());
        let ring = Keyring::new(ring_key(&key).unwrap(), Vec::new());
        ensure_right_key(&store, &ring).await.unwrap();
        let secrets = Arc::new(service_secrets(&store, &ring).await.unwrap());
        let vault = Arc::new(Vault::new(ring));
        let metrics = Arc::new(Metrics::new().unwrap());
        // Nobody listens there: what is committed must not depend on it.
        let url = "redis+unix:///nowhere/redis.sock".to_owned();
        let redis = schema::Redis { url, ..Default::default() };
        let redis = Arc::new(Redis::new(&redis, &Environment::default()).unwrap());
        let app = App {
            scribe: Scribe::new(Arc::clone(&vault), Arc::clone(&secrets), store.clone()),
            api_keys: Arc::new(ApiKeys::new(CheckKey::new([7; 32]), Arc::clone(&secrets))),
            devices: Arc::new(Devices::new(Arc::clone(&secrets))),
            resets: Arc::new(Resets::new(Arc::clone(&secrets))),
            cursors: Arc::new(Cursors::new(Arc::clone(&secrets))),
            sessions: Arc::new(Sessions::new(secrets, LIVES)),
            passwords: Passwords::new(NonZeroUsize::MIN, 64).unwrap(),
            password_rules: Arc::new(PasswordRules::new(schema::PasswordRules::Nist, 12)),
            guesses: Guesses::new(Instant::now()),
            tokens: Arc::new(Tokens::new(TokenRing::hs256(SECRET), Duration::from_secs(3600))),
            repeated_refusals: metrics.repeated_refusals.clone(),
            courier: Arc::new(Courier::new(redis, &metrics)),
            registration: Registration::Open,
            sealing: Sealing::On,
            errands: TaskTracker::new(),
            store,
            vault,
        };
        let gatekeeper = Gatekeeper::new(AssertionKey::new(KEY));
        Self { api: Api::new(app, gatekeeper, metrics), world }
    }

    async fn send(
        &self,
        asked: (&str, &str, &str),
        caller: &Caller,
        sent: Option<&Value>,
        request: RequestId,
    ) -> (u16, Value) {
        let sent = sent.map_or_else(Body::empty, |sent| Body::from(sent.to_string()));
        let (head, body) = self.exchange(asked, caller, sent, request).await;
        (head.status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    /// Bob, an admin.
    async fn root(&self) -> Identity {
        let bob_is_admin = "UPDATE memoric.users SET roles = '{admin}' WHERE username = 'bob'";
        self.world.as_superuser(bob_is_admin).await;
        self.identity(self.world.bob.0, Role::Admin)
    }

    /// What is recalled in the course of one request.
    async fn recall_in(&self, request: RequestId, target: &str, who: &Identity) -> (Parts, Value) {
        let asked = ("GET", target, Operation::RecallMemories.name());
        let caller = Caller::Known(who.clone());
        let (head, body) = self.exchange(asked, &caller, Body::empty(), request).await;
        (head, serde_json::from_slice(&body).unwrap())
    }

    async fn exchange(
        &self,
        (method, target, operation): (&str, &str, &str),
        caller: &Caller,
        sent: Body,
        request: RequestId,
    ) -> (Parts, Bytes) {
        let client = Ipv4Addr::new(203, 0, 113, 7).into();
        let assertion = Assertion { method, target, operation, request, client, caller };
        let now = seconds();
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .header(CONTENT_TYPE, "application/json")
            .header(ASSERTION_HEADER, AssertionKey::new(KEY).sign(&assertion, now));
        if let Some(token) = token_of(caller) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(sent).unwrap();
        let (head, body) = self.api.answer(request).await.into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    }

    async fn ask(
        &self,
        operation: Operation,
        target: &str,
        caller: &Caller,
        sent: Option<&Value>,
    ) -> (u16, Value) {
        let asked = (operation.method(), target, operation.name());
        self.send(asked, caller, sent, RequestId::new()).await
    }

    async fn anonymously(&self, operation: Operation, sent: &Value) -> (u16, Value) {
        self.ask(operation, operation.path(), &Caller::Anonymous, Some(sent)).await
    }

    async fn known(
        &self,
        operation: Operation,
        target: &str,
        who: &Identity,
        sent: Option<&Value>,
    ) -> (u16, Value) {
        self.ask(operation, target, &Caller::Known(who.clone()), sent).await
    }

    async fn remember(&self, who: &Identity, sent: &Value) -> (u16, Value) {
        self.known(Operation::RememberMemory, "/memories", who, Some(sent)).await
    }

    async fn recall(&self, who: &Identity, target: &str) -> (u16, Value) {
        self.known(Operation::RecallMemories, target, who, None).await
    }

    async fn internally(&self, target: &str, operation: InternalOperation, who: Caller) -> Value {
        let asked = ("GET", target, operation.name());
        let (status, body) = self.send(asked, &who, None, RequestId::new()).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn feed(&self, query: &str) -> FeedPage {
        let target = format!("/internal/revocations{query}");
        let operation = InternalOperation::FollowRevocations;
        serde_json::from_value(self.internally(&target, operation, Caller::Anonymous).await)
            .unwrap()
    }

    /// Revokes what `user` has, as another backend does.
    async fn revoke(&self, user: i64) {
        let sql = format!(
            "INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES ({user}, 'gen', '2', now() + interval '1 hour')"
        );
        self.world.as_superuser(&sql).await;
    }

    /// Resolves when a statement that calls `function` waits for a lock.
    async fn is_waited_for(&self, function: &str) {
        let waits = format!(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE '%{function}%'"
        );
        let waits = format!("SELECT 'yes' WHERE EXISTS ({waits})");
        while self.world.as_superuser(&waits).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn is_live(&self, who: &Identity) -> bool {
        let who = Caller::Known(who.clone());
        self.internally("/internal/live", InternalOperation::CheckLive, who).await["live"] == true
    }

    async fn register(&self, name: &str) {
        let email = format!("{name}@example.com");
        let sent = json!({ "username": name, "email": email, "password": PASSWORD });
        assert_eq!(self.anonymously(Operation::Register, &sent).await.0, 201);
    }

    /// Who the token of a login stands for.
    async fn log_in(&self, name: &str, password: &str) -> Identity {
        let sent = json!({ "username": name, "password": password });
        let (status, body) = self.anonymously(Operation::Login, &sent).await;
        assert_eq!(status, 200, "{body}");
        let now = seconds();
        let token = body["access_token"].as_str().unwrap();
        TokenKeys::hs256(SECRET).verify(token, now).unwrap().identity().unwrap()
    }

    fn alice(&self) -> Identity {
        self.identity(self.world.alice.0, Role::User)
    }

    fn bob(&self) -> Identity {
        self.identity(self.world.bob.0, Role::User)
    }

    fn identity(&self, user: i64, role: Role) -> Identity {
        Identity {
            user: UserId(user),
            roles: [role].into_iter().collect::<Roles>(),
            namespace: None,
            presented: PresentedBy::AccessToken {
                jti: uuid::Uuid::from_u128(1),
                sid: session_of(user),
                ctr: 0,
                generation: 1,
                expires_at: seconds() + 3600,
            },
        }
    }
}

/// The access token by which the gateway knows `caller`, where it knows one.
fn token_of(caller: &Caller) -> Option<String> {
    let Caller::Known(Identity { user, roles, namespace, presented }) = caller else {
        return None;
    };
    let PresentedBy::AccessToken { jti, sid, ctr, generation, expires_at } = *presented else {
        return None;
    };
    let claims = Claims {
        sub: user.to_string(),
        roles: *roles,
        namespace: namespace.clone(),
        iat: expires_at - 3600,
        exp: expires_at,
        jti,
        sid,
        ctr,
        generation,
        iss: ISSUER.to_owned(),
        nbf: None,
        aud: None,
    };
    Some(TokenSigner::hs256(SECRET).sign(&claims).unwrap())
}

/// The session that somebody at the desk has from the beginning.
fn session_of(user: i64) -> uuid::Uuid {
    uuid::Uuid::from_u128(user.unsigned_abs().into())
}

fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

fn random_key() -> String {
    let mut key = [0; 32];
    getrandom::fill(&mut key).unwrap();
    hex::encode(key)
}

/// The id of an admin who is neither Alice nor Bob.
const ROOT: i64 = 1_000;

const KEY: [u8; 32] = [7; 32];
const SECRET: &[u8] = &[b's'; 64];
const PASSWORD: &str = "secure_password_123";

/// Counts how often a key for personal fields is asked for.
const COUNTED: &str = "\
CREATE SEQUENCE audit.asked;
GRANT USAGE ON SEQUENCE audit.asked TO PUBLIC;
CREATE OR REPLACE FUNCTION audit.subject_key(subject bigint, candidate bytea) RETURNS TABLE (wrapped bytea) LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM nextval('audit.asked');
    INSERT INTO audit.subject_keys (subject, wrapped) VALUES (subject, candidate) ON CONFLICT DO NOTHING;
    RETURN QUERY SELECT keys.wrapped FROM audit.subject_keys AS keys WHERE keys.subject = subject_key.subject;
END $$;";

const PROFILE: [&str; 10] = [
    "id",
    "username",
    "email",
    "full_name",
    "namespace",
    "roles",
    "is_active",
    "is_verified",
    "created_at",
    "last_login_at",
];

const TRAIL_ROW: [&str; 32] = [
    "id",
    "event_type",
    "severity",
    "description",
    "user_id",
    "username",
    "session_id",
    "ip_address",
    "user_agent",
    "resource_type",
    "resource_id",
    "namespace",
    "action",
    "before_state",
    "after_state",
    "request_method",
    "request_path",
    "request_params",
    "success",
    "error_message",
    "status_code",
    "metadata",
    "tags",
    "timestamp",
    "compliance_tags",
    "retention_policy",
    "owner_id",
    "operation",
    "credential_type",
    "credential_id",
    "request_id",
    "emitter",
];
