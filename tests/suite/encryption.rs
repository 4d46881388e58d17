//! What a person said is readable in memory only.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use harness::{
    ENCRYPTION_KEY, PASSWORD, Person, SUPERUSER_PASSWORD, Servers, World, postgres_program,
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio_postgres::Client as Session;

#[tokio::test]
async fn nothing_a_person_said_is_in_the_files_of_the_database() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, canaries()).await;
    world.ask_as(&alice, Method::GET, "/memories?thread_id=canary-thread").send().await.unwrap();
    world.try_log_in("canary-typed-name", PASSWORD).await;
    world.try_log_in("alice", "canary-typed-password").await;
    world
        .ask(Method::POST, "/auth/login")
        .header("user-agent", "canary-agent")
        .body("{}")
        .send()
        .await
        .unwrap();
    let login = json!({"username": "alice", "password": PASSWORD});
    world
        .ask(Method::POST, "/auth/login")
        .header("user-agent", "canary-agent")
        .json(&login)
        .send()
        .await
        .unwrap();
    world.superuser().await.batch_execute("CHECKPOINT").await.unwrap();

    let found = files_with(&Servers::get().await.postgres(), CANARY);

    assert_eq!(found, Vec::<PathBuf>::new());
    let dump = dump(&world).await;
    assert!(dump.contains("COPY memoric.memories"), "all of it is dumped");
    for spelling in [CANARY.to_owned(), hex::encode(CANARY)] {
        assert!(!dump.contains(&spelling), "nor in a dump, where bytes are hex: {spelling}");
    }
    assert!(world.contents(&alice).await[0].contains(CANARY), "the owner reads it all the same");
}

/// What the test above is worth: it finds what is there.
#[tokio::test]
async fn a_memory_that_is_not_sealed_is_found_in_the_files_and_in_a_dump() {
    let world = World::with(|settings| settings.privacy.encrypt_content = false).start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "unsealed-marker of this one test"})).await;
    world.superuser().await.batch_execute("CHECKPOINT").await.unwrap();

    assert!(!files_with(&Servers::get().await.postgres(), "unsealed-marker").is_empty());
    assert!(dump(&world).await.contains(&hex::encode("unsealed-marker")), "as hex");
    assert_eq!(world.contents(&alice).await, ["unsealed-marker of this one test"]);
}

#[tokio::test]
async fn the_same_memory_twice_is_two_ciphertexts() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    for _ in 0..2 {
        world.remember(&alice, json!({"content": "the same"})).await;
    }

    let payloads = payloads(&world).await;

    assert_ne!(payloads[0][7..], payloads[1][7..]);
    assert_eq!(&payloads[0][..3], b"MV\x01", "formats: magic, sealed");
    assert_eq!(payloads[0].len(), payloads[1].len());
}

#[tokio::test]
async fn a_ciphertext_opens_in_its_own_place_alone() {
    let (world, alice, bob) = two_with_memories().await;
    let superuser = tampering(&world).await;
    let change = |sql: &'static str| superuser.execute(sql, &[]);

    change("UPDATE memoric.memories AS a SET payload = b.payload FROM memoric.memories AS b WHERE a.user_id = b.user_id AND a.id <> b.id")
        .await
        .unwrap();
    refused(&world, &alice).await;
    refused(&world, &bob).await;
}

#[tokio::test]
async fn anothers_ciphertext_does_not_open_even_with_its_uuid() {
    let (world, alice, bob) = two_with_memories().await;
    let superuser = tampering(&world).await;
    let steal = "UPDATE memoric.memories AS mine SET payload = theirs.payload, uuid = theirs.uuid, version = theirs.version
        FROM memoric.memories AS theirs WHERE mine.user_id = $2 AND theirs.user_id = $1
        AND mine.id = (SELECT min(id) FROM memoric.memories WHERE user_id = $2)
        AND theirs.id = (SELECT min(id) FROM memoric.memories WHERE user_id = $1)";

    assert_eq!(superuser.execute(steal, &[&alice.id, &bob.id]).await.unwrap(), 1);

    refused(&world, &bob).await;
    assert_eq!(world.contents(&alice).await.len(), 2, "hers still do");
}

#[tokio::test]
async fn no_bit_of_a_payload_can_be_changed() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    let id = world.remember(&alice, json!({"content": "x"})).await;
    let superuser = tampering(&world).await;
    let original = payloads(&world).await.remove(0);

    for place in [2, 7, 38, 39, 70, 71, original.len() - 1] {
        let mut forged = original.clone();
        forged[place] ^= 1;
        superuser
            .execute("UPDATE memoric.memories SET payload = $2 WHERE id = $1", &[&id, &forged])
            .await
            .unwrap();
        refused(&world, &alice).await;
    }
    superuser
        .execute("UPDATE memoric.memories SET payload = $2 WHERE id = $1", &[&id, &original])
        .await
        .unwrap();
    assert_eq!(world.contents(&alice).await, ["x"], "the control");
}

#[tokio::test]
async fn a_version_or_uuid_that_is_not_the_ciphertexts_own_is_noticed() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "x"})).await;
    let superuser = tampering(&world).await;

    for change in
        ["SET version = version + 1", "SET version = version - 1, uuid = gen_random_uuid()"]
    {
        superuser.batch_execute(&format!("UPDATE memoric.memories {change}")).await.unwrap();
        refused(&world, &alice).await;
    }
}

#[tokio::test]
async fn plaintext_put_into_the_database_is_not_taken_for_a_memory() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "x"})).await;
    let clear = [
        b"MV\x00\x00\x00\x00\x01".as_slice(),
        br#"{"content":"planted","metadata":{},"thread_id":null}"#,
    ]
    .concat();

    tampering(&world)
        .await
        .execute("UPDATE memoric.memories SET payload = $1", &[&clear])
        .await
        .unwrap();

    refused(&world, &alice).await;
}

#[tokio::test]
async fn a_destroyed_key_makes_memories_unreadable_and_new_ones_impossible() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "x"})).await;

    world
        .superuser()
        .await
        .execute("UPDATE memoric.user_keys SET wrapped = NULL", &[])
        .await
        .unwrap();
    let again = World::with(|_| {}).on(&world.database).start().await;

    let recall = again.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
    let remember = again
        .ask_as(&alice, Method::POST, "/memories")
        .json(&json!({"content": "y"}))
        .send()
        .await
        .unwrap();
    assert!(!recall.status().is_success(), "{}", recall.status());
    assert!(!remember.status().is_success(), "{}", remember.status());
    let rows: i64 = again
        .superuser()
        .await
        .query_one("SELECT count(*) FROM memoric.memories", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn keys_rest_wrapped() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": "x", "thread_id": "t"})).await;

    let keys = world
        .superuser()
        .await
        .query("SELECT version, wrapped FROM memoric.user_keys ORDER BY version", &[])
        .await
        .unwrap();

    assert_eq!(
        keys.iter().map(|key| key.get::<_, i32>(0)).collect::<Vec<_>>(),
        [0, 1],
        "an index key and a data key"
    );
    for key in keys {
        let wrapped: Vec<u8> = key.get(1);
        assert_eq!(wrapped.len(), 2 + 1 + 8 + 32 + 32 + 32 + 16);
        assert_eq!(&wrapped[..3], b"MV\x01");
    }
}

#[tokio::test]
async fn what_was_written_sealed_is_read_by_the_next_process_with_the_same_key() {
    let world = World::start().await;
    let alice = world.register("alice").await;
    world.remember(&alice, canaries()).await;

    let again = World::with(|_| {})
        .variable("MEMORIC_ENCRYPTION_KEY", ENCRYPTION_KEY)
        .on(&world.database)
        .start()
        .await;

    let memory = again.recall(&alice).await.remove(0);
    assert_eq!(memory["thread_id"], canaries()["thread_id"]);
    assert_eq!(memory["metadata"]["canary-key"], canaries()["metadata"]["canary-key"]);
}

async fn two_with_memories() -> (World, Person, Person) {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    for person in [&alice, &bob] {
        for number in 0..2 {
            world.remember(person, json!({"content": format!("{} {number}", person.name)})).await;
        }
    }
    (world, alice, bob)
}

/// Whoever writes to the files of the database: no trigger and no constraint is in their way.
async fn tampering(world: &World) -> Session {
    let superuser = world.superuser().await;
    superuser.batch_execute("SET session_replication_role = replica").await.unwrap();
    superuser
}

/// What does not open is told as such, and nothing of it is shown.
async fn refused(world: &World, person: &Person) {
    let answer: Response = world.ask_as(person, Method::GET, "/memories").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "decryption_failed");
    assert_eq!(problem["detail"], "Decryption failed", "the guide's sentence");
}

async fn payloads(world: &World) -> Vec<Vec<u8>> {
    let rows = world
        .superuser()
        .await
        .query("SELECT payload FROM memoric.memories ORDER BY id", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

fn canaries() -> Value {
    json!({
        "content": "canary-first-word and canary-content behind it",
        "thread_id": "canary-thread",
        "metadata": {"canary-key": "canary-value", "topic": "canary-topic", "nested": {"deep": ["canary-deep"]}},
    })
}

fn files_with(dir: &Path, text: &str) -> Vec<PathBuf> {
    let output = Command::new("grep").args(["-rlaF", "--", text]).arg(dir).output().unwrap();
    // A file may go while it is looked for; that is status 2, with whatever was found.
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

async fn dump(world: &World) -> String {
    let host = Servers::get().await.postgres();
    let output = Command::new(postgres_program("pg_dump"))
        .args(["-h", &host.display().to_string(), "-U", "postgres", &world.database])
        .env("PGPASSWORD", SUPERUSER_PASSWORD)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const CANARY: &str = "canary-";
