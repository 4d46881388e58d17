//! What sessions are begun, seen and ended for, by the database's own word.

use memoric_contract::{Operation, Role, audit::EventType};
use uuid::Uuid;

use super::*;
use crate::{
    administration::Administration,
    store::{
        Context,
        fixture::{World, entry, scope},
    },
};

#[tokio::test]
async fn an_admin_sees_the_sessions_of_another_on_the_record_alone() {
    const SQL: &str = "\
        SELECT id FROM credentials.list_sessions(current_setting('memoric.context'), $1, '1 day', '1 day', 10)";
    let world = World::new().await;
    assert!(world.log_in(world.bob, 1, Uuid::new_v4()).await);
    let own = scope(world.alice, Role::Admin, Operation::ListSessions);
    let context = Context { target: world.bob, ..own.context().clone() };
    let act = Administration::in_context(context);
    let told = |owner| {
        let mut told = entry(EventType::AccessGranted, Some(world.alice));
        told.record.owner = Some(owner);
        told.record.operation = Some(Operation::ListSessions);
        told
    };
    let seen = async |entry: Option<&Entry>| {
        let scoped = world.store.pools().admin.scoped(act.context());
        let mut tx = scoped.begin().await.unwrap();
        if let Some(entry) = entry {
            let append = "SELECT audit.append($1, NULL)";
            tx.query(append, &[&Appended::new(entry)]).await.unwrap();
        }
        let rows = tx.query(SQL, &[&world.bob.0]).await;
        tx.commit().await.ok();
        rows.map(|rows| rows.len()).map_err(|error| error.code().unwrap().code().to_owned())
    };

    assert_eq!(seen(None).await, Err("28000".to_owned()), "no record");
    let elsewhere = Operation::LogoutEverywhere;
    let mut another = told(world.bob);
    another.record.operation = Some(elsewhere);
    assert_eq!(seen(Some(&another)).await, Err("28000".to_owned()), "of something else");
    assert_eq!(seen(Some(&told(world.bob))).await, Ok(1));
    assert_eq!(seen(None).await, Err("28000".to_owned()), "of an earlier transaction");
}

#[tokio::test]
async fn sessions_that_ended_are_found_without_reading_the_others() {
    let world = World::new().await;
    let body = world
        .as_superuser("SELECT prosrc FROM pg_proc WHERE oid = 'credentials.purge'::regproc")
        .await
        .concat();
    let delete = body.split(';').find(|each| each.contains("memoric.sessions")).unwrap();

    let plan = world.as_superuser(&format!("SET enable_seqscan = off; EXPLAIN {delete}")).await;

    assert!(plan.concat().contains("sessions_ended"), "{plan:#?}");
}

#[tokio::test]
async fn where_a_user_has_as_many_sessions_as_may_be_the_one_used_longest_ago_ends() {
    let world = World::new().await;
    let oldest = Uuid::from_u128(1);
    crowd(&world, "sessions", 999).await;
    assert!(world.log_in(world.alice, 1, oldest).await, "one is left");
    let ageing = "UPDATE memoric.sessions SET last_used_at = now() - interval '1 h' WHERE id = ";
    world.as_superuser(&format!("{ageing}'{oldest}'")).await;

    let (began, records) = start(&world, Uuid::from_u128(2)).await;

    let ended = began.ended.unwrap();
    assert_eq!((began.generation, &ended.revoked), (1, &Revoked::Session(oldest)));
    assert_eq!(world.store.revocations_since("").await.unwrap().revocations, [ended.message()]);
    let live = async |id| world.store.is_live(world.alice, Uuid::nil(), id, 1).await.unwrap();
    assert!(!live(oldest).await && live(Uuid::from_u128(2)).await);
    assert_eq!(count(&world, LIVING).await, "1000");
    assert_eq!(records, 2, "the end is on record as any is");
}

#[tokio::test]
async fn what_no_token_can_be_left_of_ends_without_a_word_to_gateways() {
    let world = World::new().await;
    crowd(&world, "sessions", 1000).await;
    world.as_superuser("UPDATE memoric.sessions SET last_used_at = now() - interval '2 d'").await;

    let (began, records) = start(&world, Uuid::from_u128(2)).await;

    assert_eq!((began.ended, records), (None, 2));
    assert_eq!(count(&world, LIVING).await, "1000");
}

#[tokio::test]
async fn where_too_many_ended_one_by_one_all_end_and_nothing_is_kept_of_each() {
    let world = World::new().await;
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert!(world.log_in(world.alice, 1, one).await && world.log_in(world.alice, 1, other).await);
    let scope = scope(world.alice, Role::User, Operation::Logout);
    let end = async |session| {
        let (told, all) = (told(&world), told(&world));
        world.store.end_session(&scope, session, (&told, &all)).await.unwrap().unwrap().revoked
    };

    crowd(&world, "revocations", 999).await;
    assert_eq!(end(one).await, Revoked::Session(one), "the last that ends alone");
    assert_eq!(end(other).await, Revoked::Before(2));

    assert_eq!(world.store.find_user(world.alice).await.unwrap().unwrap().generation, 2);
    assert_eq!(count(&world, REVOCATIONS).await, "1", "that of the generation");
    let live = async |id| world.store.is_live(world.alice, Uuid::nil(), id, 1).await.unwrap();
    assert!(!live(one).await && !live(other).await);
}

#[tokio::test]
async fn tokens_of_others_and_logins_end_all_as_well_where_too_many_ended_one_by_one() {
    let world = World::new().await;
    let scope = scope(world.alice, Role::User, Operation::Logout);
    let end = async |token| {
        let (told, all) = (told(&world), told(&world));
        let token = (Uuid::from_u128(token), 1 << 40);
        world.store.end_foreign(&scope, token, (&told, &all)).await.unwrap().map(|it| it.revoked)
    };
    assert_eq!(end(7).await, Some(Revoked::Token(Uuid::from_u128(7))));
    crowd(&world, "revocations", 999).await;
    assert_eq!(end(7).await, None, "it has ended");
    assert_eq!(end(8).await, Some(Revoked::Before(2)));
    assert_eq!(count(&world, REVOCATIONS).await, "1");

    crowd(&world, "revocations", 1000).await;
    crowd(&world, "sessions", 1000).await;
    world.as_superuser("UPDATE memoric.sessions SET generation = 2").await;
    let session = Uuid::from_u128(3);
    let new = NewSession { generation: 2, ..new_session(&world, session) };
    let (told, all) = (told(&world), told(&world));
    let began = world.store.start_session(&new, (&told, &all)).await.unwrap().unwrap();

    assert_eq!(began.generation, 3);
    assert_eq!(began.ended.unwrap().revoked, Revoked::Before(3));
    assert!(world.store.is_live(world.alice, Uuid::nil(), session, 3).await.unwrap());
    assert_eq!(
        (count(&world, LIVING).await, count(&world, REVOCATIONS).await),
        ("1".into(), "1".into())
    );
}

/// Begins one of Alice's sessions, and how many records came of it.
async fn start(world: &World, id: Uuid) -> (Began, usize) {
    let before: usize = count(world, RECORDS).await.parse().unwrap();
    let (told, displaced) = (told(world), told(world));
    let began = world.store.start_session(&new_session(world, id), (&told, &displaced)).await;
    let after: usize = count(world, RECORDS).await.parse().unwrap();
    (began.unwrap().unwrap(), after - before)
}

fn new_session(world: &World, id: Uuid) -> NewSession {
    NewSession { id, user: world.alice, generation: 1, seed: [7; 32], personal: None }
}

fn told(world: &World) -> Entry {
    entry(EventType::LoggedOut, Some(world.alice))
}

/// That many of Alice's sessions, or of what ended one by one.
async fn crowd(world: &World, of: &str, many: u32) {
    let alice = world.alice;
    let insert = match of {
        "sessions" => format!(
            "INSERT INTO memoric.sessions (id, user_id, seed, generation)
             SELECT gen_random_uuid(), {alice}, sha256('x'), 1 FROM generate_series(1, {many})"
        ),
        _ => format!(
            "INSERT INTO memoric.revocations (user_id, space, value, expires_at)
             SELECT {alice}, 'sid', gen_random_uuid(), now() + interval '1 h' FROM generate_series(1, {many})"
        ),
    };
    world.as_superuser(&insert).await;
}

async fn count(world: &World, of: &str) -> String {
    world.as_superuser(&format!("SELECT count(*) FROM {of}")).await.concat()
}

const LIVING: &str = "memoric.sessions WHERE ended_at IS NULL";
const REVOCATIONS: &str = "memoric.revocations";
const RECORDS: &str = "audit.trail";
