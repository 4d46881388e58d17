//! An admin reaches another's memories, on the record; nobody else does, and nobody off it.

use harness::{Person, World, until};
use memoric_contract::{
    Operation, RequestId, UserId,
    audit::{Emitter, EventType, RECORDED_HEADER, Record, Severity},
};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio_postgres::{Client as Session, error::SqlState};

use crate::isolation::{MEMORIES, Signer, count, insert, pid, run, set_context};

#[tokio::test]
async fn an_admin_reads_and_writes_for_another() {
    let (world, root, alice) = people().await;
    world.remember(&root, json!({"content": "root's own"})).await;

    let read = recall(&world, &root, &format!("user_id={}&thread_id=home", alice.id)).await;
    assert_eq!(read.status(), StatusCode::OK);
    assert!(!read.headers().contains_key(RECORDED_HEADER), "that is between backend and gateway");
    assert_eq!(contents(read).await, [SECRET]);
    let own = recall(&world, &root, &format!("user_id={}", root.id)).await;
    assert_eq!(contents(own).await, ["root's own"], "one's own id is no other's");

    for owner in [json!(alice.id), json!(alice.id.to_string())] {
        let sent = json!({"content": "planted", "user_id": owner, "thread_id": "home"});
        let kept = remember(&world, &root, &sent).await;
        assert_eq!(kept.status(), StatusCode::OK, "{owner}");
    }
    for memory in world.recall(&alice).await {
        assert_eq!(memory["user_id"], alice.id.to_string());
        assert_eq!(memory["metadata"]["user_id"], alice.id.to_string());
    }
    let mut hers = world.contents(&alice).await;
    hers.sort();
    assert_eq!(hers, ["planted", "planted", SECRET], "sealed with her key, it opens for her");
    assert_eq!(world.contents(&root).await, ["root's own"]);
}

#[tokio::test]
async fn the_first_memory_of_a_user_may_be_an_admins_doing() {
    let (world, root, _) = people().await;
    let bob = world.register("bob").await;

    let nothing = recall(&world, &root, &format!("user_id={}", bob.id)).await;
    assert_eq!(contents(nothing).await, [""; 0]);
    remember(&world, &root, &json!({"content": "welcome", "user_id": bob.id})).await;

    assert_eq!(world.contents(&bob).await, ["welcome"]);
}

#[tokio::test]
async fn nobody_else_crosses_over_by_any_spelling() {
    let (world, _, alice) = people().await;
    let others = [
        world.register("bob").await,
        world.person_with("reader", &["readonly"]).await,
        world.person_with("nobody", &[]).await,
    ];
    let id = alice.id.to_string();
    let digits: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for other in &others {
        for query in [
            format!("user_id={id}"),
            format!("user_id={digits}"),
            format!("user%5fid={id}"),
            format!("%75ser_id={digits}"),
            format!("user_id=0{id}"),
            format!("user_id={id}&user_id={}", other.id),
            format!("user_id={}&user_id={id}", other.id),
            format!("user_id=&user%5Fid={id}"),
            format!("user_id={},{id}", other.id),
            format!("user_id={id}%20"),
            format!("user_id={id}&reason=curious"),
            format!("user_id={id}&reason={}", "x".repeat(300)),
        ] {
            for path in ["/memories", "/memories/", "/clusters"] {
                let asked = world.ask_as(other, Method::GET, &format!("{path}?{query}"));
                let answer = asked.send().await.unwrap();
                let status = answer.status();
                let expected = [StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST];
                assert!(expected.contains(&status), "{path}?{query}: {status}");
                assert!(!answer.text().await.unwrap().contains(SECRET), "{path}?{query}");
            }
        }
        for body in [
            format!(r#"{{"content":"planted","user_id":{id}}}"#),
            format!(r#"{{"content":"planted","user_id":"{id}"}}"#),
            format!(r#"{{"content":"planted","user\u005fid":"{id}"}}"#),
            format!(r#"{{"content":"planted","user_id":"{}","user_id":"{id}"}}"#, other.id),
            format!(r#"{{"content":"planted","user_id":"{id}","user_id":"{}"}}"#, other.id),
            format!(r#"{{"user_id":"{id}","content":7}}"#),
            format!(r#"{{"content":"planted","user_id":{id}.0}}"#),
            format!(r#"{{"content":"planted","user_id":["{id}"]}}"#),
            format!(r#"{{"content":"planted","user_id":{{"$eq":{id}}}}}"#),
            r#"{"content":"planted","user_id":true}"#.to_owned(),
        ] {
            let asked = world.ask_as(other, Method::POST, "/memories");
            let asked = asked.header("content-type", "application/json").body(body.clone());
            let status = asked.send().await.unwrap().status();
            let is_doubled = body.matches("user_id").count() > 1;
            let expected = status == StatusCode::FORBIDDEN
                || is_doubled && status == StatusCode::UNPROCESSABLE_ENTITY;
            assert!(expected, "{body}: {status}");
        }
        // A query says nothing about what is to be kept: whose it is says the body.
        let asked = world.ask_as(other, Method::POST, &format!("/memories?user_id={id}"));
        asked.json(&json!({"content": "planted"})).send().await.unwrap();
    }
    assert_eq!(world.contents(&alice).await, [SECRET]);
}

#[tokio::test]
async fn what_an_admin_read_or_wrote_is_on_record_with_whose_and_why() {
    let (world, root, alice) = people().await;
    let target = format!("user_id={}", alice.id);

    recall(&world, &root, &format!("{target}&reason=case%204711%0D%0A%1b[31m")).await;
    recall(&world, &root, &target).await;
    let sent = json!({"content": "x", "user_id": alice.id, "reason": "asked by phone"});
    let kept = remember(&world, &root, &sent).await.json::<Value>().await.unwrap();

    let expected = |event: &str, purpose: &str, resource: &str, reason: &str| {
        let (root, alice) = (root.id, alice.id);
        format!(
            "{event} {root} {alice} warning 200 memory/{resource} an admin crossed over to user {alice}, {purpose}: {reason}"
        )
    };
    let kept = kept["id"].to_string();
    assert_eq!(
        crossings(&world).await,
        [
            expected(
                "memory.retrieved",
                "recall_memories",
                "-",
                "case 4711\u{fffd}\u{fffd}\u{fffd}[31m"
            ),
            expected("memory.retrieved", "recall_memories", "-", "no reason given"),
            expected("memory.created", "remember_memory", &kept, "asked by phone"),
        ]
    );
    let page =
        world.ask_as(&root, Method::GET, "/audit/logs?severity=warning&event_type=memory.created");
    let page: Value = page.send().await.unwrap().json().await.unwrap();
    assert_eq!(page["logs"][0]["user_id"], root.id.to_string());
    assert_eq!(page["logs"][0]["username"], Value::Null);
    let told = page["logs"][0]["description"].as_str().unwrap();
    assert!(told.contains(&format!("user {}", alice.id)) && told.contains("asked by phone"));
}

#[tokio::test]
async fn a_crossing_has_one_record_and_it_is_the_backends() {
    let (world, root, alice) = people().await;
    recall(&world, &root, &format!("user_id={}", alice.id)).await;
    remember(&world, &root, &json!({"content": "x", "user_id": alice.id})).await;

    // What a gateway records is delivered in order, so when this is there, so is what came before.
    recall(&world, &root, "").await;
    let superuser = world.superuser().await;
    let gateways = format!(
        "SELECT count(*) FROM audit.trail
         WHERE emitter = 1 AND operation IN ('recall_memories', 'remember_memory') AND subject = {}",
        root.id
    );
    let last = format!("{gateways} AND owner = subject");
    until("the last one is there", async || count(&superuser, &last).await == Ok(1)).await;

    assert_eq!(count(&superuser, &gateways).await, Ok(1));
    assert_eq!(crossings(&world).await.len(), 2);
}

#[tokio::test]
async fn a_reason_has_bounds() {
    let (world, root, alice) = people().await;
    let long = "x".repeat(201);

    let read = recall(&world, &root, &format!("user_id={}&reason={long}", alice.id)).await;
    let sent = json!({"content": "x", "user_id": alice.id, "reason": long});
    let written = remember(&world, &root, &sent).await;

    for answer in [read, written] {
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(answer.json::<Value>().await.unwrap()["errors"][0]["field"], "reason");
    }
    assert_eq!(crossings(&world).await, [""; 0]);
    let own = recall(&world, &alice, &format!("reason={}", "x".repeat(300))).await;
    assert_eq!(own.status(), StatusCode::OK, "who does not cross over needs no reason");
}

#[tokio::test]
async fn what_cannot_be_recorded_is_neither_read_nor_written() {
    let (world, root, alice) = people().await;
    let superuser = world.superuser().await;
    let target = format!("user_id={}", alice.id);
    let refuse = "ALTER TABLE audit.event_ids ADD CONSTRAINT full_up CHECK (false) NOT VALID";
    superuser.batch_execute(refuse).await.unwrap();

    let read = recall(&world, &root, &target).await;
    let sent = json!({"content": "x", "user_id": alice.id});
    let written = remember(&world, &root, &sent).await;

    assert!(read.status().is_server_error(), "{}", read.status());
    assert!(!read.text().await.unwrap().contains(SECRET));
    assert!(written.status().is_server_error(), "{}", written.status());
    assert_eq!(count(&superuser, MEMORIES).await, Ok(1));

    superuser.batch_execute("ALTER TABLE audit.event_ids DROP CONSTRAINT full_up").await.unwrap();
    assert_eq!(contents(recall(&world, &root, &target).await).await, [SECRET], "the control");
}

#[tokio::test]
async fn whoever_may_not_cross_over_is_on_record_too() {
    let (world, _, alice) = people().await;
    let bob = world.register("bob").await;

    let refused = remember(&world, &bob, &json!({"content": "x", "user_id": alice.id})).await;

    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    let (bob, alice) = (bob.id, alice.id);
    assert_eq!(
        crossings(&world).await,
        [format!("authz.access.denied {bob} {alice} warning 403 memory/- another user's memories")]
    );
}

#[tokio::test]
async fn whether_there_is_a_user_is_for_admins_to_know() {
    let (world, root, _) = people().await;
    let bob = world.register("bob").await;

    for nobody in ["987654", "alice", "007", "-1", "0", "9223372036854775808"] {
        for (person, expected) in [(&root, StatusCode::NOT_FOUND), (&bob, StatusCode::FORBIDDEN)] {
            let read = recall(&world, person, &format!("user_id={nobody}")).await;
            let sent = json!({"content": "x", "user_id": nobody});
            let written = remember(&world, person, &sent).await;
            assert_eq!((read.status(), written.status()), (expected, expected), "{nobody}");
        }
    }
    let clusters = world.ask_as(&root, Method::GET, &format!("/clusters?user_id={}", bob.id));
    assert_eq!(clusters.send().await.unwrap().status(), StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn an_admin_is_one_for_as_long_as_the_database_says_so() {
    let (world, root, alice) = people().await;
    let target = format!("user_id={}", alice.id);
    assert_eq!(recall(&world, &root, &target).await.status(), StatusCode::OK);

    let demote = "UPDATE memoric.users SET roles = '{user}' WHERE username = 'root'";
    world.superuser().await.batch_execute(demote).await.unwrap();

    let read = recall(&world, &root, &target).await;
    let written = remember(&world, &root, &json!({"content": "x", "user_id": alice.id})).await;
    assert_eq!((read.status(), written.status()), (StatusCode::FORBIDDEN, StatusCode::FORBIDDEN));
    assert_eq!(world.contents(&alice).await, [SECRET]);
}

#[tokio::test]
async fn the_memories_of_a_deactivated_user_are_there_for_as_long_as_their_key() {
    let (world, root, alice) = people().await;
    let target = format!("user_id={}", alice.id);
    let superuser = world.superuser().await;

    superuser
        .batch_execute("UPDATE memoric.users SET is_active = false WHERE username = 'alice'")
        .await
        .unwrap();
    assert_eq!(contents(recall(&world, &root, &target).await).await, [SECRET]);

    superuser.batch_execute("UPDATE memoric.user_keys SET wrapped = NULL").await.unwrap();
    let elsewhere = World::with(|_| {}).on(&world.database).start().await;
    let is_let_in = async || recall(&elsewhere, &root, "").await.status() == StatusCode::OK;
    until("it has learnt of revocations", is_let_in).await;
    let read = recall(&elsewhere, &root, &target).await;
    assert_eq!(read.status(), StatusCode::FORBIDDEN);
    assert_eq!(read.json::<Value>().await.unwrap()["code"], "erased");
    let written = remember(&elsewhere, &root, &json!({"content": "x", "user_id": alice.id})).await;
    assert_eq!(written.status(), StatusCode::FORBIDDEN);
    assert_eq!(count(&superuser, MEMORIES).await, Ok(1));
}

#[tokio::test]
async fn the_applications_role_cannot_use_an_admins_context() {
    let (world, root, alice) = people().await;
    let (app, signer) = (world.session("memoric_app").await, signer(&world).await);
    let pid = pid(&app).await;

    for operation in [Operation::RecallMemories, Operation::RememberMemory] {
        let purpose = operation.name();
        let context = signer.sign(pid, root.id, alice.id, "admin", purpose, 10);
        set_context(&app, &context).await;
        assert!(record(&app, &root, &alice, operation).await.is_err(), "{purpose}");
        assert_eq!(count(&app, MEMORIES).await, Ok(0), "{purpose}");
        let planted = run(&app, &insert(alice.id)).await;
        assert_eq!(planted, Err(SqlState::INSUFFICIENT_PRIVILEGE), "{purpose}");
    }
}

#[tokio::test]
async fn the_admins_role_sees_what_it_has_just_recorded_and_nothing_else() {
    let (world, root, alice) = people().await;
    let bob = world.register("bob").await;
    world.remember(&bob, json!({"content": "bob's"})).await;
    let (admin, signer) = (world.session("memoric_admin").await, signer(&world).await);
    let pid = pid(&admin).await;
    let context = |target: &Person, role: &str, purpose: &str| {
        signer.sign(pid, root.id, target.id, role, purpose, 10)
    };
    let hers = context(&alice, "admin", "recall_memories");
    assert_eq!(count(&admin, MEMORIES).await, Ok(0), "without a context");
    set_context(&admin, &hers).await;
    assert_eq!(count(&admin, MEMORIES).await, Ok(0), "nothing was recorded in this session");

    run(&admin, "BEGIN").await.unwrap();
    record(&admin, &root, &alice, Operation::RecallMemories).await.unwrap();
    assert_eq!(count(&admin, MEMORIES).await, Ok(1), "the control: hers, on record");
    for (otherwise, whose) in [
        (context(&bob, "admin", "recall_memories"), "of another"),
        (context(&alice, "admin", "remember_memory"), "for another purpose"),
        (context(&alice, "user", "recall_memories"), "as another role"),
    ] {
        set_context(&admin, &otherwise).await;
        assert_eq!(count(&admin, MEMORIES).await, Ok(0), "{whose}");
    }
    run(&admin, "COMMIT").await.unwrap();

    set_context(&admin, &hers).await;
    assert_eq!(count(&admin, MEMORIES).await, Ok(0), "that was another transaction");
    run(&admin, "BEGIN").await.unwrap();
    record(&admin, &root, &alice, Operation::ReadAudit).await.unwrap();
    assert_eq!(count(&admin, MEMORIES).await, Ok(0), "the record is about something else");
    run(&admin, "ROLLBACK").await.unwrap();
    assert!(
        record(&admin, &bob, &alice, Operation::RecallMemories).await.is_err(),
        "nor in another's name"
    );
}

#[tokio::test]
async fn the_admins_role_writes_what_it_has_just_recorded_and_nothing_else() {
    let (world, root, alice) = people().await;
    let bob = world.register("bob").await;
    world.remember(&bob, json!({"content": "bob's"})).await;
    let (admin, signer) = (world.session("memoric_admin").await, signer(&world).await);
    let context = signer.sign(pid(&admin).await, root.id, alice.id, "admin", "remember_memory", 10);
    set_context(&admin, &context).await;

    let refused = Err(SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(run(&admin, &insert(alice.id)).await, refused, "off the record");
    run(&admin, "BEGIN").await.unwrap();
    record(&admin, &root, &alice, Operation::RememberMemory).await.unwrap();
    assert_eq!(run(&admin, &insert(alice.id)).await, Ok(()), "the control");
    assert_eq!(run(&admin, &insert(bob.id)).await, refused);
    run(&admin, "ROLLBACK").await.unwrap();
}

/// What the tests above are worth: without the policies the same session has more.
#[tokio::test]
async fn without_the_policies_the_same_session_reads_everything() {
    let (world, root, alice) = people().await;
    let (admin, signer) = (world.session("memoric_admin").await, signer(&world).await);
    let context = signer.sign(pid(&admin).await, root.id, alice.id, "admin", "recall_memories", 10);
    set_context(&admin, &context).await;
    assert_eq!(count(&admin, MEMORIES).await, Ok(0));

    let lenient = "ALTER POLICY recall_as_admin ON memoric.memories USING (user_id = (SELECT sec.administered('recall_memories')))";
    world.superuser().await.batch_execute(lenient).await.unwrap();

    assert_eq!(count(&admin, MEMORIES).await, Ok(1));
}

/// An admin, and Alice, who has something to hide.
async fn people() -> (World, Person, Person) {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let alice = world.register("alice").await;
    world.remember(&alice, json!({"content": SECRET, "thread_id": "home"})).await;
    (world, root, alice)
}

async fn recall(world: &World, person: &Person, query: &str) -> Response {
    let asked = world.ask_as(person, Method::GET, &format!("/memories?{query}"));
    asked.send().await.unwrap()
}

async fn remember(world: &World, person: &Person, memory: &Value) -> Response {
    world.ask_as(person, Method::POST, "/memories").json(memory).send().await.unwrap()
}

async fn contents(answer: Response) -> Vec<String> {
    assert_eq!(answer.status(), StatusCode::OK);
    let memories = answer.json::<Vec<Value>>().await.unwrap();
    memories.iter().map(|memory| memory["content"].as_str().unwrap().to_owned()).collect()
}

/// Every record of the backend's in which who acts is not whose it is.
async fn crossings(world: &World) -> Vec<String> {
    let sql = "SELECT concat_ws(' ', event_type, subject, owner, severity, status, resource_type || '/' || coalesce(resource_id, '-'), description)
               FROM audit.trail WHERE emitter = 2 AND owner <> subject ORDER BY id";
    let rows = world.superuser().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn signer(world: &World) -> Signer {
    Signer::register(&world.session("memoric_auth").await).await
}

/// Appends a record that agrees with itself, as raw SQL can.
async fn record(
    session: &Session,
    subject: &Person,
    owner: &Person,
    operation: Operation,
) -> Result<u64, tokio_postgres::Error> {
    let now = OffsetDateTime::now_utc();
    let record = Record {
        request: RequestId::new(),
        emitter: Emitter::Backend,
        number: 0,
        occurred_at: now.replace_microsecond(now.microsecond()).unwrap(),
        event: EventType::MemoryRetrieved,
        severity: Severity::Warning,
        subject: Some(UserId(subject.id)),
        owner: Some(UserId(owner.id)),
        credential: None,
        session: None,
        operation: Some(operation),
        action: None,
        status: None,
        success: true,
        resource: None,
        namespace: None,
        description: None,
        error_message: None,
        metadata: None,
        digest: None,
    };
    let columns = json!({
        "event_id": record.id(), "request_id": record.request.0, "emitter": record.emitter.code(),
        "occurred_at": record.occurred_at.unix_timestamp_nanos() / 1000,
        "event_type": record.event.name(), "severity": record.severity.name(),
        "subject": subject.id, "owner": owner.id, "operation": operation.name(),
        "method": operation.method(), "path": operation.path(), "success": record.success,
        "canonical_head": format!("\\x{}", hex::encode(record.canonical_head(&[]))),
    });
    let sql = "SELECT audit.append(jsonb_populate_record(NULL::audit.record, columns || jsonb_build_object(
                   'occurred_at', to_timestamp(0) + make_interval(secs => (columns->>'occurred_at')::bigint / 1000000)
                       + (columns->>'occurred_at')::bigint % 1000000 * interval '1 microsecond')), NULL)
               FROM (SELECT $1::text::jsonb AS columns) AS told";
    session.execute(sql, &[&columns.to_string()]).await
}

const SECRET: &str = "the safe is behind the painting";
