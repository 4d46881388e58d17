//! Who writes into the trail, and who reads it.

use std::net::Ipv4Addr;

use harness::{assertion_key, now};
use memoric_contract::{
    ASSERTION_HEADER, Assertion, Caller, InternalOperation, RequestId, UserId,
    audit::{Emitter, EventType, Personal, Record, Report},
    spool::{Answer, Frames, Piece, Poisoned, batch},
};
use time::OffsetDateTime;

use super::*;

#[tokio::test]
async fn one_record_that_cannot_be_taken_does_not_keep_others_out_and_is_not_lost() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let good = report(&alice, OffsetDateTime::now_utc());
    let bad = report(&alice, time::Date::MIN.midnight().assume_utc());
    let frames = [bad.frame(), good.frame()];

    let first = deliver(&world, batch(frames.iter().map(Vec::as_slice))).await;
    let Some(Piece::Frame(refused)) = Frames::new(&frames[0]).next() else { panic!("a frame") };
    let kept = Poisoned::refused(refused.payload());
    let second = deliver(&world, batch([kept.frame().as_slice()])).await;

    assert_eq!((first.acknowledged, first.refused), (vec![good.record().id()], vec![0]));
    assert_eq!((second.acknowledged, second.refused), (vec![kept.id], vec![]));
    let errors = logs(&world, &root, "/audit/logs?event_type=system.error").await;
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0]["request_id"], json!(bad.record().request.to_string()));
}

#[tokio::test]
async fn nobody_but_a_gateway_writes_into_the_trail() {
    let world = World::start().await;
    let (alice, _) = people(&world).await;
    let body = batch([report(&alice, OffsetDateTime::now_utc()).frame().as_slice()]);
    let socket = reqwest::Client::builder().unix_socket(world.backend.clone()).build().unwrap();

    let unsigned = socket.post("http://backend/internal/audit").body(body.clone());
    let from_outside = world.ask_as(&alice, Method::POST, "/internal/audit").body(body);

    assert_eq!(unsigned.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(from_outside.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let rows = world.superuser().await;
    let rows = rows.query("SELECT FROM audit.trail WHERE event_type = 'memory.retrieved'", &[]);
    assert!(rows.await.unwrap().is_empty());
}

#[tokio::test]
async fn nobody_but_admins_reads_the_trail() {
    let world = World::start().await;
    let (alice, root) = people(&world).await;
    let people = [
        (alice.clone(), StatusCode::FORBIDDEN),
        (world.person_with("reader", &["readonly"]).await, StatusCode::FORBIDDEN),
        (world.person_with("nobody", &[]).await, StatusCode::FORBIDDEN),
        (root, StatusCode::OK),
    ];

    let own = format!("/audit/logs/user/{}", alice.id);
    for path in [
        "/audit/logs",
        &own,
        "/audit/logs/security",
        "/audit/statistics",
        "/audit/events/types",
        "/audit/severity/levels",
    ] {
        for (person, status) in &people {
            let answer = world.ask_as(person, Method::GET, path).send().await.unwrap();
            assert_eq!(answer.status(), *status, "{path} as {}", person.name);
        }
        let anonymous = world.ask(Method::GET, path).send().await.unwrap();
        assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
}

fn report(who: &Person, occurred_at: OffsetDateTime) -> Report {
    let event = EventType::MemoryRetrieved;
    let record = Record {
        subject: Some(UserId(who.id)),
        owner: Some(UserId(who.id)),
        status: Some(200),
        ..Record::new(RequestId::new(), Emitter::Gateway, event, occurred_at)
    };
    Report::new(record, None, Personal::default())
}

/// Delivers a batch as a gateway does.
async fn deliver(world: &World, body: Vec<u8>) -> Answer {
    let operation = InternalOperation::DeliverRecords;
    let assertion = Assertion {
        method: operation.method(),
        target: operation.path(),
        operation: operation.name(),
        request: RequestId::new(),
        client: Ipv4Addr::LOCALHOST.into(),
        caller: &Caller::Anonymous,
    };
    let client = reqwest::Client::builder().unix_socket(world.backend.clone()).build().unwrap();
    let answer = client
        .post(format!("http://backend{}", operation.path()))
        .header(ASSERTION_HEADER, assertion_key().sign(&assertion, now()))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    Answer::from_bytes(&answer.bytes().await.unwrap()).unwrap()
}
