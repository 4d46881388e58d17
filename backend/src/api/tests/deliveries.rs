//! What becomes of the records that gateways deliver.

use memoric_contract::{
    CredentialKind, PresentedBy,
    audit::{Action, Emitter, Personal, Report, event_id},
    spool::{self, Frames, LONGEST_BATCH, Piece, Poisoned, batch},
};
use time::OffsetDateTime;
use tokio::time::sleep;
use uuid::Uuid;

use super::*;

#[tokio::test]
async fn what_is_delivered_is_in_the_trail_with_who_where_what_and_whose() {
    let desk = Desk::new().await;
    let (alice, bob) = (desk.alice(), desk.bob());
    let read = reading(&alice, bob.user);

    let answer = desk.deliver(&[&read.frame()]).await;

    assert_eq!(answer, acknowledged(&[&read]));
    let row = desk.found("event_type=memory.retrieved").await;
    assert_eq!((&row["user_id"], &row["session_id"]), (&json!("1"), &json!(session(&alice))));
    assert_eq!((&row["ip_address"], &row["user_agent"]), (&json!("192.0.2.8"), &json!("agent")));
    assert_eq!((&row["action"], &row["resource_type"]), (&json!("read"), &json!("memory")));
    assert_eq!(
        (&row["request_method"], &row["request_path"]),
        (&json!("GET"), &json!("/memories"))
    );
    assert_eq!((&row["status_code"], &row["success"]), (&json!(200), &json!(true)));
    let stored = "SELECT (emitter, owner, personal_subject, resource_id)::text FROM audit.trail
                  WHERE event_type = 'memory.retrieved'";
    let expected = format!("(1,{},{},9)", bob.user, alice.user);
    assert_eq!(desk.world.as_superuser(stored).await, [expected]);
}

#[tokio::test]
async fn a_retry_doubles_nothing_whether_all_of_it_was_taken_or_half() {
    let desk = Desk::new().await;
    let [one, other] = [reading(&desk.alice(), UserId(1)), reading(&desk.bob(), UserId(2))];
    let (first, second) = (one.frame(), other.frame());

    desk.deliver(&[&first]).await;
    let again = desk.deliver(&[&first, &second, &second]).await;

    let told: Vec<_> = [&one, &other, &other].map(|report| report.record().id()).into();
    assert_eq!((again.acknowledged, again.refused), (told, vec![]));
    assert_eq!(desk.count("memory.retrieved").await, 2);
}

#[tokio::test]
async fn two_deliveries_of_one_batch_at_once_are_one() {
    let desk = Desk::new().await;
    let reports: Vec<_> = (0..40).map(|_| reading(&desk.alice(), UserId(1))).collect();
    let mut frames: Vec<_> = reports.iter().map(Report::frame).collect();
    let there: Vec<_> = frames.iter().map(Vec::as_slice).collect();
    let body = batch(there);
    frames.reverse();
    let back = batch(frames.iter().map(Vec::as_slice));

    let answers = tokio::join!(desk.post(&body), desk.post(&back), desk.post(&body));

    for answer in [answers.0, answers.1, answers.2] {
        assert_eq!(answer.acknowledged.len(), 40);
    }
    assert_eq!(desk.count("memory.retrieved").await, 40);
}

#[tokio::test]
async fn only_a_gateway_delivers() {
    let desk = Desk::new().await;
    let body = batch([reading(&desk.alice(), UserId(1)).frame().as_slice()]);
    let unsigned = Request::post("/internal/audit").body(Body::from(body.clone())).unwrap();
    let elsewhere = ("POST", "/internal/audit", "internal_check_live");

    let unsigned = desk.api.answer(unsigned).await.status();
    let (head, _) =
        desk.exchange(elsewhere, &Caller::Anonymous, Body::from(body), RequestId::new()).await;

    assert_eq!((unsigned.as_u16(), head.status.as_u16()), (401, 401));
    assert_eq!(desk.count("memory.retrieved").await, 0);
}

#[tokio::test]
async fn a_gateway_tells_of_what_is_its_own_and_of_nothing_else() {
    let desk = Desk::new().await;
    let alice = desk.alice();
    let told = |change: fn(&mut Record)| {
        let mut record = reading(&alice, alice.user).into_parts().0;
        change(&mut record);
        Report::new(record, None, Personal::default()).frame()
    };
    let good = reading(&alice, alice.user);
    let frames = [
        told(|record| record.event = EventType::MemoryCreated),
        told(|record| record.event = EventType::LoginSucceeded),
        told(|record| record.event = EventType::UserUpdated),
        good.frame(),
        told(|record| record.event = EventType::TokenCreated),
        told(|record| record.subject = Some(UserId(-202_611))),
        told(|record| record.owner = Some(UserId(0))),
        told(|record| record.status = Some(40_000)),
        told(|record| record.occurred_at += time::Duration::hours(2)),
    ];

    let answer = desk.deliver(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;

    assert_eq!(answer.refused, [0, 1, 2, 4, 5, 6, 7, 8]);
    assert_eq!(answer.acknowledged, [good.record().id()]);
    let emitters = "SELECT DISTINCT emitter FROM audit.trail WHERE event_type NOT LIKE 'user.%'";
    assert_eq!(desk.world.as_superuser(emitters).await, ["1"]);
}

#[tokio::test]
async fn a_poisoned_value_costs_no_other_record_and_is_kept_sealed() {
    let desk = Desk::new().await;
    let good: Vec<_> = (0..7).map(|_| reading(&desk.alice(), UserId(1))).collect();
    // Such a time is good for a record, and for no database.
    let mut record = good[0].clone().into_parts().0;
    record.request = RequestId::new();
    record.occurred_at = time::Date::MIN.midnight().assume_utc();
    let personal = Personal { user_agent: Some("canary".to_owned()), ..Personal::default() };
    let poison = Report::new(record, None, personal);
    let mut frames: Vec<_> = good.iter().map(Report::frame).collect();
    frames.insert(3, poison.frame());

    let first = desk.deliver(&frames.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
    let kept = Poisoned::refused(payload(&poison.frame()));
    let second = desk.deliver(&[&kept.frame(), &kept.frame()]).await;

    assert_eq!((first.acknowledged.len(), first.refused), (7, vec![3]));
    assert_eq!((second.acknowledged, second.refused), (vec![kept.id; 2], vec![]));
    let row = desk.found("event_type=system.error").await;
    assert_eq!(row["metadata"]["reason"], "refused");
    assert_eq!((&row["severity"], &row["success"]), (&json!("error"), &json!(false)));
    let raw = desk.raw("event_type = 'system.error'").await;
    assert!(!raw.contains("canary") && !raw.contains(&hex::encode("canary")), "{raw}");
    assert!(raw.contains(&poison.record().request.to_string()), "which request it was is known");
}

#[tokio::test]
async fn damaged_bytes_and_unknown_frames_are_kept_too() {
    let desk = Desk::new().await;
    let damaged = Poisoned::damaged(&[7; 70_000]);

    let answer = desk.deliver(&[&damaged.frame()]).await;

    assert_eq!((answer.acknowledged, answer.refused), (vec![damaged.id], vec![]));
    assert_eq!(desk.found("event_type=system.error").await["metadata"]["reason"], "damaged");
}

#[tokio::test]
async fn a_spoilt_key_holds_no_record_back_and_poison_comes_without_what_it_would_seal() {
    let desk = Desk::new().await;
    let spoil = "INSERT INTO audit.subject_keys (subject, wrapped)
                 VALUES (-to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')::int, 'spoilt')
                 ON CONFLICT (subject) DO UPDATE SET wrapped = 'spoilt'";
    desk.world.as_superuser(spoil).await;
    let mut record = reading(&desk.alice(), UserId(1)).into_parts().0;
    (record.event, record.subject, record.owner) = (EventType::TokenInvalid, None, None);
    let (stranger, good) =
        (Report::new(record, None, whoever()), reading(&desk.alice(), UserId(1)));
    let poison = Poisoned::refused(payload(&stranger.frame()));

    let first = desk.deliver(&[&stranger.frame(), &good.frame()]).await;
    let second = desk.deliver(&[&poison.frame()]).await;

    assert_eq!((first.acknowledged, first.refused), (vec![good.record().id()], vec![0]));
    assert_eq!((second.acknowledged, second.refused), (vec![poison.id], vec![]));
    let row = "SELECT personal IS NULL AND address_hash IS NULL FROM audit.trail
               WHERE event_type = 'system.error'";
    assert_eq!(desk.world.as_superuser(row).await, ["t"]);
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_has_one_record() {
    let desk = Desk::new().await;
    let (alice, request) = (desk.alice(), RequestId::new());
    let lost = failing(&alice, request);
    assert_eq!(desk.remember_in(request, &alice).await, 200);

    let answer = desk.deliver(&[&lost.frame()]).await;
    let again = desk.deliver(&[&lost.frame()]).await;

    assert_eq!((&answer, &again), (&acknowledged(&[&lost]), &acknowledged(&[&lost])));
    assert_eq!(desk.records_of(request).await, ["memory.created"]);
}

#[tokio::test]
async fn a_change_that_is_late_is_not_made_behind_its_record() {
    let desk = Desk::new().await;
    let (alice, request) = (desk.alice(), RequestId::new());

    desk.deliver(&[&failing(&alice, request).frame()]).await;

    assert_eq!(desk.remember_in(request, &alice).await, 409);
    assert_eq!(desk.records_of(request).await, ["system.error"]);
    assert_eq!(desk.recall(&alice, "/memories").await.1, json!([]));
}

#[tokio::test]
async fn a_change_under_way_is_waited_for() {
    let desk = Desk::new().await;
    let (alice, request) = (desk.alice(), RequestId::new());
    let (client, _driver) = desk.world.superuser().await;
    let id = event_id(request, Emitter::Backend, 0);
    client.batch_execute("BEGIN").await.unwrap();
    client.execute("INSERT INTO audit.event_ids VALUES ($1, now())", &[&id]).await.unwrap();

    let lost = failing(&alice, request);
    let frame = lost.frame();
    let frames = [frame.as_slice()];
    let commit = async {
        desk.until_somebody_waits().await;
        client.batch_execute("COMMIT").await.unwrap();
    };
    let (answer, ()) = tokio::join!(desk.deliver(&frames), commit);

    assert_eq!(answer, acknowledged(&[&lost]));
    assert_eq!(desk.records_of(request).await, [""; 0]);
}

#[tokio::test]
async fn what_goes_well_is_not_taken_for_a_lost_answer() {
    let desk = Desk::new().await;
    let read = reading(&desk.alice(), UserId(1));

    desk.deliver(&[&read.frame()]).await;

    let known = format!(
        "SELECT count(*) FROM audit.event_ids WHERE event_id = '{}'",
        event_id(read.record().request, Emitter::Backend, 0)
    );
    assert_eq!(desk.world.as_superuser(&known).await, ["0"]);
}

#[tokio::test]
async fn nothing_is_acknowledged_or_refused_for_a_fault_of_the_database() {
    let desk = Desk::new().await;
    let body = batch([reading(&desk.alice(), UserId(1)).frame().as_slice()]);

    desk.world.as_superuser("REVOKE EXECUTE ON FUNCTION audit.deliver FROM memoric_auth").await;
    let broken = desk.try_post(&body).await.0;
    let away = format!(
        "ALTER DATABASE {} CONNECTION LIMIT 0;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND usename LIKE 'memoric%'",
        desk.world.as_superuser("SELECT quote_ident(current_database())").await[0]
    );
    desk.world.as_superuser(&away).await;
    let away = desk.try_post(&body).await.0;

    assert_eq!((broken.status.as_u16(), away.status.as_u16()), (500, 503));
}

#[tokio::test]
async fn a_batch_beyond_its_bounds_is_no_batch() {
    let desk = Desk::new().await;
    let frame = reading(&desk.alice(), UserId(1)).frame();
    let status = async |body: &[u8]| desk.try_post(body).await.0.status.as_u16();

    assert_eq!(status(b"").await, 422);
    assert_eq!(status(b"{}").await, 422);
    assert_eq!(status(&batch([&frame[1..]])).await, 422);
    assert_eq!(status(&batch(vec![frame.as_slice(); 501])).await, 422);
    assert_eq!(status(&vec![1; LONGEST_BATCH + 2]).await, 413);
    assert_eq!(desk.deliver(&[]).await, spool::Answer::default());
    assert_eq!(desk.count("memory.retrieved").await, 0);
}

#[tokio::test]
async fn strangers_are_sealed_for_the_month_and_the_forgotten_not_at_all() {
    let desk = Desk::new().await;
    let alice = desk.alice();
    let mut record = reading(&alice, alice.user).into_parts().0;
    (record.event, record.subject, record.owner) = (EventType::TokenInvalid, None, None);
    record.occurred_at = OffsetDateTime::UNIX_EPOCH;
    let stranger = Report::new(record, None, whoever());
    let forget = format!(
        "INSERT INTO audit.subject_keys (subject, wrapped) VALUES ({}, NULL)
         ON CONFLICT (subject) DO UPDATE SET wrapped = NULL",
        alice.user
    );
    desk.world.as_superuser(&forget).await;

    desk.deliver(&[&stranger.frame(), &reading(&alice, alice.user).frame()]).await;

    let subject = "SELECT personal_subject = -to_char(now(), 'YYYYMM')::int FROM audit.trail
                   WHERE event_type = 'auth.token.invalid'";
    assert_eq!(desk.world.as_superuser(subject).await, ["t"]);
    let row = desk.found("event_type=memory.retrieved").await;
    assert_eq!((&row["ip_address"], &row["user_agent"]), (&Value::Null, &Value::Null));
}

impl Desk {
    async fn deliver(&self, frames: &[&[u8]]) -> spool::Answer {
        self.post(&batch(frames.iter().copied())).await
    }

    async fn post(&self, body: &[u8]) -> spool::Answer {
        let (head, body) = self.try_post(body).await;
        assert_eq!(head.status, 200, "{}", String::from_utf8_lossy(&body));
        spool::Answer::from_bytes(&body).unwrap()
    }

    async fn try_post(&self, body: &[u8]) -> (Parts, Bytes) {
        let asked = ("POST", spool::BATCH_PATH, InternalOperation::DeliverRecords.name());
        self.exchange(asked, &Caller::Anonymous, Body::from(body.to_vec()), RequestId::new()).await
    }

    async fn remember_in(&self, request: RequestId, who: &Identity) -> u16 {
        let asked = ("POST", "/memories", Operation::RememberMemory.name());
        let sent = Some(json!({ "content": "x" }));
        self.send(asked, &Caller::Known(who.clone()), sent.as_ref(), request).await.0
    }

    /// The one record that an admin finds.
    async fn found(&self, filter: &str) -> Value {
        let root = self.identity(ROOT, Role::Admin);
        let target = format!("/audit/logs?{filter}");
        let (status, page) = self.known(Operation::ReadAudit, &target, &root, None).await;
        assert_eq!((status, &page["total"]), (200, &json!(1)), "{page}");
        page["logs"][0].clone()
    }

    async fn count(&self, event: &str) -> usize {
        let sql = format!("SELECT count(*) FROM audit.trail WHERE event_type = '{event}'");
        self.world.as_superuser(&sql).await[0].parse().unwrap()
    }

    async fn records_of(&self, request: RequestId) -> Vec<String> {
        let sql = format!("SELECT event_type FROM audit.trail WHERE request_id = '{request}'");
        self.world.as_superuser(&sql).await
    }

    /// Rows of the trail as they are stored.
    async fn raw(&self, which: &str) -> String {
        let sql = format!("SELECT trail::text FROM audit.trail AS trail WHERE {which}");
        self.world.as_superuser(&sql).await.concat()
    }

    async fn until_somebody_waits(&self) {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'
                       AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())";
        let began = Instant::now();
        while self.world.as_superuser(waiting).await != ["1"] {
            assert!(began.elapsed() < Duration::from_secs(60), "nobody does");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn acknowledged(reports: &[&Report]) -> spool::Answer {
    let acknowledged = reports.iter().map(|report| report.record().id()).collect();
    spool::Answer { acknowledged, refused: Vec::new() }
}

fn payload(frame: &[u8]) -> &[u8] {
    match Frames::new(frame).next() {
        Some(Piece::Frame(frame)) => frame.payload(),
        other => panic!("{other:?}"),
    }
}

fn session(identity: &Identity) -> Uuid {
    match &identity.presented {
        PresentedBy::AccessToken { sid, .. } => *sid,
        PresentedBy::ApiKey { .. } => panic!("a key"),
    }
}

fn whoever() -> Personal {
    Personal {
        address: Some(Ipv4Addr::new(192, 0, 2, 8).into()),
        user_agent: Some("agent".to_owned()),
        username: None,
    }
}

/// That somebody read memories of `owner`'s.
fn reading(who: &Identity, owner: UserId) -> Report {
    let (event, now) = (EventType::MemoryRetrieved, OffsetDateTime::now_utc());
    let record = Record {
        subject: Some(who.user),
        owner: Some(owner),
        credential: Some((CredentialKind::AccessToken, Uuid::from_u128(1).to_string())),
        session: Some(session(who)),
        operation: Some(Operation::RecallMemories),
        action: Some(Action::Read),
        status: Some(200),
        resource: Some(Resource::Memory),
        ..Record::new(RequestId::new(), Emitter::Gateway, event, now)
    };
    Report::new(record, Some("9".to_owned()), whoever())
}

/// That nobody knows what became of a memory of somebody's.
fn failing(who: &Identity, request: RequestId) -> Report {
    let (record, ..) = reading(who, who.user).into_parts();
    let record = Record {
        request,
        event: EventType::SystemError,
        operation: Some(Operation::RememberMemory),
        status: Some(504),
        success: false,
        ..record
    };
    Report::new(record, None, whoever())
}
