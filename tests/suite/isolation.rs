//! One user's rows are out of everybody else's reach, through the API and through the database.

use harness::{Person, World};
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sha2::Sha256;
use time::OffsetDateTime;
use tokio_postgres::{Client as Session, Error, error::SqlState};

#[tokio::test]
async fn bob_cannot_recall_what_alice_remembers() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    world
        .remember(
            &alice,
            json!({"content": "the safe is behind the painting", "thread_id": "home"}),
        )
        .await;
    world.remember(&bob, json!({"content": "bait", "thread_id": "home"})).await;

    assert_eq!(world.contents(&alice).await, ["the safe is behind the painting"]);
    assert_eq!(world.contents(&bob).await, ["bait"], "a thread of the same name is another thread");
    let thread = world.ask_as(&bob, Method::GET, "/memories?thread_id=home").send().await.unwrap();
    assert_eq!(thread.json::<Vec<Value>>().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_owner_is_who_asks_whatever_the_request_says() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    let forged = json!({
        "content": "planted", "user_id": alice.id, "namespace": "x",
        "metadata": {"user_id": alice.id.to_string()},
    });

    let answer = world.ask_as(&bob, Method::POST, "/memories").json(&forged).send().await.unwrap();

    assert!(
        answer.status() == StatusCode::OK || answer.status() == StatusCode::FORBIDDEN,
        "{}",
        answer.status()
    );
    assert!(world.recall(&alice).await.is_empty());
    for memory in world.recall(&bob).await {
        assert_eq!(memory["user_id"], bob.id.to_string());
    }
}

#[tokio::test]
async fn a_session_of_the_application_sees_nothing_by_itself() {
    let world = planted().await.0;
    let app = world.session("memoric_app").await;

    for table in ["memoric.memories", "memoric.user_keys"] {
        assert_eq!(count(&app, &format!("SELECT count(*) FROM {table}")).await, Ok(0), "{table}");
    }
    for query in [
        "SELECT count(*) FROM memoric.sessions",
        "SELECT count(*) FROM memoric.revocations",
        "SELECT count(*) FROM memoric.service_keys",
        "SELECT count(*) FROM memoric.ring",
        "SELECT count(*) FROM sec.key",
        "SELECT count(*) FROM audit.trail",
        "SELECT count(*) FROM audit.subject_keys",
        "SELECT count(password_hash) FROM memoric.users",
    ] {
        assert_eq!(count(&app, query).await, Err(SqlState::INSUFFICIENT_PRIVILEGE), "{query}");
    }
}

#[tokio::test]
async fn no_setting_that_a_session_makes_shows_it_a_row() {
    let (world, alice) = planted().await;
    let app = world.session("memoric_app").await;
    let id = alice.id;

    for setting in ["app.user_id", "memoric.user_id", "memoric.tenant", "session.user_id"] {
        app.execute("SELECT set_config($1, $2, false)", &[&setting, &id.to_string()])
            .await
            .unwrap();
        assert_eq!(count(&app, MEMORIES).await, Ok(0), "{setting}");
    }
    let zeros = "0".repeat(64);
    let far = i64::MAX;
    for context in [
        "x".to_owned(),
        id.to_string(),
        format!("{}.{id}.{id}.{id}.admin..recall_memories.{far}.{zeros}", "0".repeat(16)),
        format!(".0.{id}.{id}.admin..x.{far}.{zeros}"),
        format!("{}.0.{id}.{id}.admin..x.{far}.", "0".repeat(16)),
        "........".to_owned(),
        "\u{661}.\u{661}.1.1.user..x.1.1".to_owned(),
    ] {
        set_context(&app, &context).await;
        assert!(count(&app, MEMORIES).await.is_err(), "{context}");
    }
    set_context(&app, "").await;
    assert_eq!(count(&app, MEMORIES).await, Ok(0), "an empty context is nobody");
}

#[tokio::test]
async fn a_signed_context_shows_ones_own_rows_on_its_own_connection_for_its_own_time() {
    let (world, alice) = planted().await;
    let bob = world.register("bob").await;
    let (app, other) = (world.session("memoric_app").await, world.session("memoric_app").await);
    let signer = Signer::register(&world.session("memoric_auth").await).await;
    let pid = pid(&app).await;
    let of = |user: i64, target: i64, role: &str, seconds: i64| {
        signer.sign(pid, user, target, role, "recall_memories", seconds)
    };

    set_context(&app, &of(alice.id, alice.id, "user", 10)).await;
    assert_eq!(count(&app, MEMORIES).await, Ok(1), "the control: hers, to her");
    set_context(&app, &of(bob.id, bob.id, "user", 10)).await;
    assert_eq!(count(&app, MEMORIES).await, Ok(0));
    set_context(&app, &of(bob.id, alice.id, "user", 10)).await;
    assert_eq!(
        count(&app, MEMORIES).await,
        Ok(0),
        "the application's role crosses over for nobody"
    );
    set_context(&app, &of(bob.id, alice.id, "admin", 10)).await;
    assert_eq!(count(&app, MEMORIES).await, Ok(0), "not for an admin either");

    set_context(&other, &of(alice.id, alice.id, "user", 10)).await;
    assert_eq!(
        count(&other, MEMORIES).await,
        Err(SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
        "of another connection"
    );
    set_context(&app, &of(alice.id, alice.id, "user", 0)).await;
    assert_eq!(
        count(&app, MEMORIES).await,
        Err(SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
        "expired"
    );
    let moved = of(bob.id, bob.id, "user", 10).replacen(
        &format!(".{}.{}.", bob.id, bob.id),
        &format!(".{}.{}.", alice.id, alice.id),
        1,
    );
    set_context(&app, &moved).await;
    assert_eq!(
        count(&app, MEMORIES).await,
        Err(SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
        "altered"
    );
}

#[tokio::test]
async fn a_session_of_the_application_can_write_only_for_whom_it_acts() {
    let (world, alice) = planted().await;
    let bob = world.register("bob").await;
    world.remember(&bob, json!({"content": "bait"})).await;
    let app = world.session("memoric_app").await;
    let signer = Signer::register(&world.session("memoric_auth").await).await;
    let pid = pid(&app).await;

    set_context(&app, &signer.sign(pid, bob.id, bob.id, "user", "remember_memory", 10)).await;
    assert_eq!(run(&app, &insert(bob.id)).await, Ok(()), "the control: his own");
    assert_eq!(run(&app, &insert(alice.id)).await, Err(SqlState::INSUFFICIENT_PRIVILEGE));
    set_context(&app, &signer.sign(pid, bob.id, bob.id, "readonly", "remember_memory", 10)).await;
    assert_eq!(
        run(&app, &insert(bob.id)).await,
        Err(SqlState::INSUFFICIENT_PRIVILEGE),
        "readonly writes nothing"
    );
    for change in [
        "UPDATE memoric.memories SET user_id = user_id + 1",
        "DELETE FROM memoric.memories",
        "TRUNCATE memoric.memories",
        "UPDATE memoric.user_keys SET wrapped = NULL",
        "DELETE FROM audit.trail",
        "UPDATE memoric.users SET roles = '{admin}'",
    ] {
        assert_eq!(run(&app, change).await, Err(SqlState::INSUFFICIENT_PRIVILEGE), "{change}");
    }
}

#[tokio::test]
async fn a_session_of_the_application_has_no_way_around() {
    let (world, alice) = planted().await;
    let app = world.session("memoric_app").await;
    let attacks = [
        "SET ROLE memoric_owner".to_owned(),
        "SET ROLE memoric_admin".to_owned(),
        "SET SESSION AUTHORIZATION postgres".to_owned(),
        "CREATE TEMP TABLE memories (id int)".to_owned(),
        "CREATE SCHEMA mine".to_owned(),
        "CREATE TABLE public.mine (id int)".to_owned(),
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'".to_owned(),
        "DO $$ BEGIN PERFORM 1; END $$".to_owned(),
        "ALTER TABLE memoric.memories DISABLE ROW LEVEL SECURITY".to_owned(),
        "ALTER TABLE memoric.memories NO FORCE ROW LEVEL SECURITY".to_owned(),
        "CREATE POLICY mine ON memoric.memories USING (true)".to_owned(),
        "DROP POLICY recall ON memoric.memories".to_owned(),
        "COPY memoric.memories TO '/tmp/memories'".to_owned(),
        "COPY memoric.memories TO PROGRAM 'cat'".to_owned(),
        "SELECT pg_read_file('postgresql.conf')".to_owned(),
        "SELECT lo_create(4242)".to_owned(),
        "SELECT lo_import('/etc/passwd')".to_owned(),
        "SELECT pg_advisory_lock(1)".to_owned(),
        "SELECT pg_sleep(1)".to_owned(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity".to_owned(),
        "SELECT sec.register_key('0123456789abcdef', decode(repeat('00', 32), 'hex'), interval '1 hour')".to_owned(),
        "SELECT sec.pad('\\x00', 1)".to_owned(),
        "SELECT credentials.revocations_since('0')".to_owned(),
        "SELECT audit.make_partitions(1)".to_owned(),
        format!("INSERT INTO memoric.revocations (user_id, space, value, expires_at) VALUES ({}, 'gen', '9', now())", alice.id),
    ];

    for attack in attacks {
        assert!(run(&app, &attack).await.is_err(), "{attack}");
    }
    run(&app, "GRANT SELECT ON memoric.memories TO PUBLIC").await.unwrap();
    let granted = "SELECT count(*) FROM information_schema.role_table_grants WHERE table_name = 'memories' AND grantee = 'PUBLIC'";
    assert_eq!(
        count(&world.superuser().await, granted).await,
        Ok(0),
        "a warning is all that comes of it"
    );
    run(&app, "SET row_security = off").await.unwrap();
    assert_eq!(
        count(&app, MEMORIES).await,
        Err(SqlState::INSUFFICIENT_PRIVILEGE),
        "refused, not unfiltered"
    );
}

#[tokio::test]
async fn a_record_says_no_more_than_who_writes_it_may_say() {
    let (world, alice) = planted().await;
    let bob = world.register("bob").await;
    let (app, auth) = (world.session("memoric_app").await, world.session("memoric_auth").await);
    let signer = Signer::register(&auth).await;
    let context = signer.sign(pid(&app).await, alice.id, alice.id, "user", "remember_memory", 10);
    set_context(&app, &context).await;
    let genuine: String = world.superuser().await.query_one(GENUINE, &[]).await.unwrap().get(0);
    let append = |change: Value| {
        format!(
            "SELECT audit.append(jsonb_populate_record(NULL::audit.record, '{genuine}'::jsonb || '{change}'), NULL)"
        )
    };

    let control = append(json!({}));
    for (session, who) in [(&app, "the application"), (&auth, "the doorkeeper")] {
        let known = Err(SqlState::UNIQUE_VIOLATION);
        assert_eq!(run(session, &control).await, known, "{who}: in order, but known already");
        for emitter in [json!(1), json!(3), json!(null)] {
            let forged = append(json!({ "emitter": emitter }));
            let refused = Err(SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
            assert_eq!(run(session, &forged).await, refused, "{who} as emitter {emitter}");
        }
        for change in [
            json!({"event_id": "00112233-4455-6677-8899-aabbccddeeff"}),
            json!({"request_id": "00112233-4455-6677-8899-aabbccddeeff"}),
            json!({"occurred_at": "2020-01-01T00:00:00Z"}),
            json!({"event_type": "memory.deleted"}),
            json!({"severity": "debug"}),
            json!({"status": 500}),
            json!({"success": false}),
            json!({"operation": null}),
            json!({"description": "something else"}),
            json!({"personal": "\\x00"}),
            json!({"resource_type": "user"}),
            json!({"canonical_head": "\\x01"}),
            json!({"canonical_head": null}),
        ] {
            let refused = Err(SqlState::INVALID_PARAMETER_VALUE);
            assert_eq!(run(session, &append(change.clone())).await, refused, "{who}: {change}");
        }
    }
    for change in [
        json!({"subject": bob.id}),
        json!({"subject": null}),
        json!({"owner": bob.id}),
        json!({"personal_subject": bob.id}),
        json!({"personal_subject": -202_611}),
        json!({"event_type": "auth.login.success"}),
    ] {
        let refused = Err(SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        assert_eq!(run(&app, &append(change.clone())).await, refused, "{change}");
    }
}

#[tokio::test]
async fn estimates_do_not_tell_who_owns_how_much() {
    let (world, alice) = planted().await;
    for number in 0..40 {
        world.remember(&alice, json!({"content": format!("memory {number}")})).await;
    }
    world.superuser().await.batch_execute("ANALYZE memoric.memories").await.unwrap();
    let app = world.session("memoric_app").await;
    let estimate = |user: i64| {
        let explain = format!("EXPLAIN SELECT 1 FROM memoric.memories WHERE user_id = {user}");
        let app = &app;
        async move {
            app.query(&explain, &[])
                .await
                .unwrap()
                .iter()
                .map(|row| row.get::<_, String>(0))
                .collect::<Vec<_>>()
        }
    };

    let of_alice = estimate(alice.id).await.join("\n").replace(&format!("= {})", alice.id), "= ?)");
    let of_nobody = estimate(987_654).await.join("\n").replace("= 987654)", "= ?)");

    assert_eq!(of_alice, of_nobody);
}

#[tokio::test]
async fn no_role_of_ours_is_a_member_of_another_or_goes_around_the_policies() {
    let world = World::start().await;
    let superuser = world.superuser().await;

    let mighty = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'memoric%' AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb)";
    let members = "SELECT count(*) FROM pg_auth_members JOIN pg_roles ON pg_roles.oid IN (roleid, member) WHERE rolname LIKE 'memoric%'";
    let unforced = "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname IN ('memoric', 'audit') AND relkind IN ('r', 'p') AND NOT relforcerowsecurity
        AND relname IN ('users', 'sessions', 'user_keys', 'memories', 'revocations', 'trail', 'subject_keys')";

    for question in [mighty, members, unforced] {
        assert_eq!(count(&superuser, question).await, Ok(0), "{question}");
    }
}

/// What the tests above are worth: without the policies the same question has another answer.
#[tokio::test]
async fn without_row_level_security_the_same_session_reads_everything() {
    let world = planted().await.0;
    let app = world.session("memoric_app").await;
    assert_eq!(count(&app, MEMORIES).await, Ok(0));

    world
        .superuser()
        .await
        .batch_execute("ALTER TABLE memoric.memories DISABLE ROW LEVEL SECURITY")
        .await
        .unwrap();

    assert_eq!(count(&app, MEMORIES).await, Ok(1));
}

/// Whoever signs as the backend does, with a key of its own.
pub(crate) struct Signer {
    kid: String,
    key: [u8; 32],
}

impl Signer {
    pub(crate) async fn register(auth: &Session) -> Self {
        let signer = Self { kid: "00112233445566ff".to_owned(), key: [7; 32] };
        let register = "SELECT sec.register_key($1, $2, interval '1 hour')";
        auth.execute(register, &[&signer.kid, &signer.key.as_slice()]).await.unwrap();
        signer
    }

    pub(crate) fn sign(
        &self,
        pid: i32,
        user: i64,
        target: i64,
        role: &str,
        purpose: &str,
        seconds: i64,
    ) -> String {
        let expiry = OffsetDateTime::now_utc().unix_timestamp() + seconds;
        let context = format!("{}.{pid}.{user}.{target}.{role}..{purpose}.{expiry}", self.kid);
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).unwrap();
        mac.update(context.as_bytes());
        format!("{context}.{}", hex::encode(mac.finalize().into_bytes()))
    }
}

async fn planted() -> (World, Person) {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "the safe is behind the painting"})).await;
    (world, alice)
}

pub(crate) async fn pid(session: &Session) -> i32 {
    session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
}

pub(crate) async fn set_context(session: &Session, context: &str) {
    session.execute("SELECT set_config('memoric.context', $1, false)", &[&context]).await.unwrap();
}

pub(crate) async fn count(session: &Session, query: &str) -> Result<i64, SqlState> {
    session.query_one(query, &[]).await.map(|row| row.get(0)).map_err(|error| state(&error))
}

/// Puts a row of `owner`'s among the memories, as raw SQL can.
pub(crate) fn insert(owner: i64) -> String {
    format!(
        "INSERT INTO memoric.memories (user_id, uuid, payload, key_version, importance, seen, score)
         VALUES ({owner}, gen_random_uuid(), '\\x4d560100000001aa', 1, 5, 1, 70)"
    )
}

pub(crate) async fn run(session: &Session, statement: &str) -> Result<(), SqlState> {
    session.batch_execute(statement).await.map_err(|error| state(&error))
}

fn state(error: &Error) -> SqlState {
    error.code().cloned().expect("PostgreSQL answered")
}

pub(crate) const MEMORIES: &str = "SELECT count(*) FROM memoric.memories";

/// A record of the trail as the backend made it.
const GENUINE: &str = "\
SELECT (to_jsonb(trail) || jsonb_build_object('canonical_head',
           substring(canonical FOR octet_length(canonical) - 4 - octet_length(resource_id))))::text
FROM audit.trail WHERE event_type = 'memory.created'";
