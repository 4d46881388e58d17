//! How admins read the trail.

use super::*;

#[tokio::test]
async fn every_filter_narrows() {
    let desk = Desk::with_events().await;
    let cases = [
        ("", 6),
        ("event_type=auth.login.failed", 2),
        ("event_type=no.such.thing", 0),
        ("user_id=2", 2),
        ("user_id=bob", 0),
        ("resource_type=memory", 1),
        ("resource_id=2", 1),
        ("severity=warning", 3),
        ("success=false", 3),
        ("success=True", 3),
        ("username=CAROL", 2),
        ("username=my+own+secret", 1),
        ("ip_address=203.0.113.7", 4),
        ("ip_address=%3A%3Affff%3A203.0.113.7", 4),
        ("ip_address=203.0.113.8", 0),
        ("username=carol&success=false", 1),
        ("hours=720&limit=1000&offset=2", 6),
        ("unknown=x", 6),
        ("offset=10000", 6),
        ("severity=", 6),
        ("success=true&success=false", 3),
    ];

    for (query, total) in cases {
        let (status, page) =
            desk.audit(Operation::ReadAudit, &format!("/audit/logs?{query}")).await;
        assert_eq!((status, &page["total"]), (200, &json!(total)), "{query}");
    }
}

#[tokio::test]
async fn a_filter_that_cannot_be_meant_is_named_and_not_repeated() {
    let desk = Desk::with_events().await;
    let cases = [
        ("hours=0", "hours"),
        ("hours=721", "hours"),
        ("hours=canary", "hours"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("offset=-1", "offset"),
        ("offset=1.5", "offset"),
        ("offset=10001", "offset"),
        ("offset=9223372036854775807", "offset"),
        ("success=canary", "success"),
        ("ip_address=canary", "ip_address"),
        ("ip_address=203.0.113.0/24", "ip_address"),
        ("event_type=a%00b", "event_type"),
        ("severity=a%00b", "severity"),
        ("user_id=a%00b", "user_id"),
    ];
    let long = |name: &str, length| (format!("{name}={}", "x".repeat(length)), name.to_owned());
    let long = [
        long("event_type", 129),
        long("user_id", 129),
        long("resource_type", 129),
        long("resource_id", 257),
        long("severity", 129),
        long("username", 257),
    ];

    let owned = cases.map(|(query, field)| (query.to_owned(), field.to_owned()));
    for (query, field) in owned.into_iter().chain(long) {
        let (status, body) =
            desk.audit(Operation::ReadAudit, &format!("/audit/logs?{query}")).await;
        assert_eq!((status, &body["errors"][0]["field"]), (422, &json!(field)), "{query}");
        assert!(!body.to_string().contains("canary"), "{body}");
    }
    let both = desk.audit(Operation::ReadAudit, "/audit/logs?limit=0&hours=0").await.1;
    assert_eq!(both["errors"].as_array().unwrap().len(), 2, "all at once");
    for (operation, path) in [
        (Operation::ReadUserAudit, "/audit/logs/user/1?limit=0"),
        (Operation::ReadSecurityAudit, "/audit/logs/security?hours=721"),
        (Operation::CountAudit, "/audit/statistics?hours=x"),
    ] {
        assert_eq!(desk.audit(operation, path).await.0, 422, "{path}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_and_the_total_is_that_of_all() {
    let desk = Desk::with_events().await;
    let mut ids = Vec::new();
    for offset in [0, 2, 4, 6] {
        let target = format!("/audit/logs?limit=2&offset={offset}");
        let (_, page) = desk.audit(Operation::ReadAudit, &target).await;
        assert_eq!(keys(&page), ["logs", "total", "offset", "limit"]);
        assert_eq!(page["total"], 6);
        ids.extend(page["logs"].as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()));
    }
    assert_eq!(ids.len(), 6);
    assert!(ids.is_sorted_by(|newer, older| newer > older));
}

#[tokio::test]
async fn what_one_user_did_is_listed() {
    let desk = Desk::with_events().await;

    let (_, bobs) = desk.audit(Operation::ReadUserAudit, "/audit/logs/user/2?limit=1").await;
    let (_, nobodys) = desk.audit(Operation::ReadUserAudit, "/audit/logs/user/bob").await;

    assert_eq!(keys(&bobs), ["user_id", "logs", "total", "start_time"]);
    assert_eq!((&bobs["user_id"], &bobs["total"]), (&json!("2"), &json!(2)));
    assert_eq!(bobs["logs"].as_array().unwrap().len(), 1);
    assert_eq!(bobs["logs"][0]["event_type"], "authz.access.denied");
    assert_eq!(bobs["logs"][0]["owner_id"], "1", "and whose it was");
    assert!(bobs["start_time"].as_str().unwrap().ends_with("+00:00"));
    assert_eq!((&nobodys["logs"], &nobodys["total"]), (&json!([]), &json!(0)));
}

#[tokio::test]
async fn what_matters_to_security_is_listed() {
    let desk = Desk::with_events().await;

    let (_, page) = desk.audit(Operation::ReadSecurityAudit, "/audit/logs/security").await;

    assert_eq!(keys(&page), ["logs", "total", "start_time"]);
    assert_eq!(page["total"], 3);
    for row in page["logs"].as_array().unwrap() {
        assert_eq!((&row["success"], &row["severity"]), (&json!(false), &json!("warning")));
    }
}

#[tokio::test]
async fn records_are_counted() {
    let desk = Desk::with_events().await;

    let (_, counted) = desk.audit(Operation::CountAudit, "/audit/statistics").await;

    let expected = [
        "total_events",
        "events_by_type",
        "failed_operations",
        "unique_users",
        "start_time",
        "end_time",
    ];
    assert_eq!(keys(&counted), expected);
    let by_type = json!({
        "user.created": 3, "auth.login.failed": 2, "authz.access.denied": 1,
    });
    assert_eq!(counted["events_by_type"], by_type);
    assert_eq!((&counted["total_events"], &counted["failed_operations"]), (&json!(6), &json!(3)));
    assert_eq!((&counted["unique_users"], &counted["end_time"]), (&json!(3), &Value::Null));
}

#[tokio::test]
async fn what_there_is_to_look_for_is_listed() {
    let desk = Desk::new().await;

    let (_, types) = desk.audit(Operation::ListEventTypes, "/audit/events/types").await;
    let (_, levels) = desk.audit(Operation::ListSeverities, "/audit/severity/levels").await;

    assert_eq!(types["total"], EventType::ALL.len());
    assert_eq!(levels["total"], 5);
    assert_eq!(types["event_types"][0]["value"], "auth.login.success");
    assert_eq!(levels["severity_levels"][4]["value"], "critical");
}

#[tokio::test]
async fn only_admins_read_the_trail() {
    let desk = Desk::with_events().await;
    let readers = [
        (Caller::Anonymous, 401),
        (Caller::Known(desk.bob()), 403),
        (Caller::Known(desk.identity(2, Role::Readonly)), 403),
    ];
    let asked = [
        (Operation::ReadAudit, "/audit/logs"),
        (Operation::ReadUserAudit, "/audit/logs/user/2"),
        (Operation::ReadSecurityAudit, "/audit/logs/security"),
        (Operation::CountAudit, "/audit/statistics"),
        (Operation::ListEventTypes, "/audit/events/types"),
        (Operation::ListSeverities, "/audit/severity/levels"),
    ];

    for (operation, path) in asked {
        for (caller, status) in &readers {
            assert_eq!(desk.ask(operation, path, caller, None).await.0, *status, "{path}");
        }
        assert_eq!(desk.audit(operation, path).await.0, 200, "{path}");
    }
}

impl Desk {
    /// Three users, one of whom mistyped, as did a stranger; and Bob asked for Alice's memories.
    async fn with_events() -> Self {
        let desk = Self::new().await;
        desk.register("carol").await;
        for name in ["carol", "my own secret"] {
            let sent = json!({ "username": name, "password": "not the password" });
            desk.anonymously(Operation::Login, &sent).await;
        }
        desk.recall(&desk.bob(), "/memories?user_id=1").await;
        desk
    }

    async fn audit(&self, operation: Operation, target: &str) -> (u16, Value) {
        self.known(operation, target, &self.identity(ROOT, Role::Admin), None).await
    }
}

fn keys(object: &Value) -> Vec<&String> {
    object.as_object().unwrap().keys().collect()
}
