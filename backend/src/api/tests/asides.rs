//! What the gateway is told beside an answer.

use memoric_contract::{
    audit::{OWNER_HEADER, RECORDED_HEADER, RESOURCE_HEADER},
    revocation::{REVOKED_HEADER, Revocation, Revoked},
};

use super::*;

#[tokio::test]
async fn whatever_the_backend_records_it_says_so() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let carol = Caller::Known(desk.log_in("carol", PASSWORD).await);
    let bob = Caller::Known(desk.bob());
    let nobody = Caller::Anonymous;
    let name =
        |name: &str| json!({ "username": name, "email": "d@example.com", "password": PASSWORD });
    let password =
        |old: &str| json!({ "old_password": old, "new_password": "another_password_12" });
    let cases = [
        (Operation::Register, "/auth/register", &nobody, Some(name("dave")), 201),
        (Operation::Register, "/auth/register", &nobody, Some(name("dave")), 400),
        (Operation::Login, "/auth/login", &nobody, Some(name("dave")), 200),
        (Operation::Login, "/auth/login", &nobody, Some(name("nobody")), 401),
        (Operation::RememberMemory, "/memories", &carol, Some(json!({ "content": "x" })), 200),
        (Operation::ChangePassword, "/auth/change-password", &carol, Some(password("no")), 400),
        (Operation::ChangePassword, "/auth/change-password", &carol, Some(password(PASSWORD)), 200),
        (Operation::RecallMemories, "/memories?user_id=1", &bob, None, 403),
        (Operation::ShowProfile, "/auth/users/alice", &bob, None, 403),
    ];

    for (operation, target, caller, sent, status) in cases {
        let (answer, request) = desk.aside(operation, target, caller, sent).await;
        assert_eq!(answer.status, status, "{operation:?}");
        assert_eq!(answer.headers[RECORDED_HEADER], "1", "{operation:?} {status}");
        assert_eq!(desk.recorded(request).await, 1, "{operation:?} {status}");
    }
}

#[tokio::test]
async fn what_the_backend_does_not_record_it_does_not_claim() {
    let mut desk = Desk::new().await;
    let bob = Caller::Known(desk.bob());
    let reset = json!({ "token": "mpr_a-guess", "new_password": "another_password_12" });
    let refresh = json!({ "refresh_token": "mrt_a-guess" });
    let cases = [
        (Operation::RecallMemories, "/memories", &bob, None, 200),
        (Operation::ShowMe, "/auth/me", &bob, None, 200),
        (Operation::RememberMemory, "/memories", &bob, Some(json!({})), 422),
        (Operation::Login, "/auth/login", &Caller::Anonymous, Some(json!({})), 422),
        (Operation::ResetPassword, "/auth/reset-password", &Caller::Anonymous, Some(reset), 400),
        (Operation::Refresh, "/auth/refresh", &Caller::Anonymous, Some(refresh), 401),
        (Operation::ReadAudit, "/audit/logs", &bob, None, 403),
        (Operation::ListClusters, "/clusters", &bob, None, 501),
    ];

    for (operation, target, caller, sent, status) in cases {
        let (answer, request) = desk.aside(operation, target, caller, sent).await;
        assert_eq!(answer.status, status, "{operation:?}");
        assert!(!answer.headers.contains_key(RECORDED_HEADER), "{operation:?} {status}");
        assert_eq!(desk.recorded(request).await, 0, "{operation:?} {status}");
    }
    desk.api.app.registration = Registration::Closed;
    let nobody = Caller::Anonymous;
    let (closed, request) = desk.aside(Operation::Register, "/auth/register", &nobody, None).await;
    assert_eq!((closed.status.as_u16(), desk.recorded(request).await), (403, 0));
}

#[tokio::test]
async fn a_record_that_is_not_kept_is_not_claimed() {
    let desk = Desk::new().await;
    let bob = Caller::Known(desk.bob());
    desk.world
        .as_superuser("REVOKE EXECUTE ON FUNCTION audit.append FROM memoric_auth, memoric_app")
        .await;

    for (operation, target, sent) in [
        (Operation::RememberMemory, "/memories", Some(json!({ "content": "x" }))),
        (Operation::RecallMemories, "/memories?user_id=1", None),
    ] {
        let (answer, _) = desk.aside(operation, target, &bob, sent).await;
        assert_eq!(answer.status, 500, "{operation:?}");
        assert!(!answer.headers.contains_key(RECORDED_HEADER), "{operation:?}");
    }
}

#[tokio::test]
async fn the_gateway_is_told_whose_it_was() {
    let desk = Desk::new().await;
    let (alice, bob) = (desk.alice(), desk.bob());
    let (bobs, root) =
        (Caller::Known(bob.clone()), Caller::Known(desk.identity(ROOT, Role::Admin)));
    let (alice, bob) = (alice.user.to_string(), bob.user.to_string());
    let cases = [
        (Operation::RecallMemories, "/memories", &bobs, Some(&bob), None),
        (Operation::RememberMemory, "/memories", &bobs, Some(&bob), None),
        (Operation::ShowMe, "/auth/me", &bobs, Some(&bob), Some(&bob)),
        (Operation::ShowProfile, "/auth/users/bob", &bobs, Some(&bob), Some(&bob)),
        (Operation::ShowProfile, "/auth/users/alice", &root, Some(&alice), Some(&alice)),
        (Operation::ShowProfile, "/auth/users/nobody", &root, None, None),
        (Operation::ReadAudit, "/audit/logs?user_id=1", &root, Some(&alice), None),
        (Operation::ReadAudit, "/audit/logs", &root, None, None),
    ];

    for (operation, target, caller, owner, resource) in cases {
        let (answer, _) = desk.aside(operation, target, caller, None).await;
        let said = |name| answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(said(OWNER_HEADER).as_ref(), owner, "{target}");
        assert_eq!(said(RESOURCE_HEADER).as_ref(), resource, "{target}");
    }
}

#[tokio::test]
async fn the_gateway_is_told_what_was_ended_by_what_it_carried() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    let carol = desk.log_in("carol", PASSWORD).await;
    let caller = Caller::Known(carol.clone());
    let change = |old: &str| json!({ "old_password": old, "new_password": "another_password_12" });
    let (operation, target) = (Operation::ChangePassword, "/auth/change-password");

    let (failed, _) = desk.aside(operation, target, &caller, Some(change("wrong"))).await;
    let (done, _) = desk.aside(operation, target, &caller, Some(change(PASSWORD))).await;

    assert!(!failed.headers.contains_key(REVOKED_HEADER));
    let told = Revocation::parse(done.headers[REVOKED_HEADER].to_str().unwrap()).unwrap();
    assert_eq!((told.user, told.revoked), (carol.user, Revoked::Before(2)));
}

#[tokio::test]
async fn the_gateway_is_told_of_every_session_and_key_that_it_helped_to_end() {
    let desk = Desk::new().await;
    desk.register("carol").await;
    for (operation, path) in [
        (Operation::Logout, "/auth/logout"),
        (Operation::EndSession, "/auth/sessions/{}"),
        (Operation::LogoutEverywhere, "/auth/logout-all"),
    ] {
        let carol = desk.log_in("carol", PASSWORD).await;
        let session = carol.presented.session().unwrap();
        let path = path.replace("{}", &session.to_string());

        let (done, _) = desk.aside(operation, &path, &Caller::Known(carol.clone()), None).await;

        let told = Revocation::parse(done.headers[REVOKED_HEADER].to_str().unwrap()).unwrap();
        let ended = match operation {
            Operation::LogoutEverywhere => Revoked::Before(2),
            _ => Revoked::Session(session),
        };
        assert_eq!((told.user, told.revoked), (carol.user, ended), "{operation:?}");
    }
    let carol = desk.log_in("carol", PASSWORD).await;
    let wanted = json!({ "name": "carols" });
    let made = desk.known(Operation::CreateApiKey, "/auth/api-keys", &carol, Some(&wanted)).await;
    let id = made.1["id"].as_str().unwrap().to_owned();

    let path = format!("/auth/api-keys/{id}");
    let (done, _) = desk.aside(Operation::RevokeApiKey, &path, &Caller::Known(carol), None).await;

    let told = Revocation::parse(done.headers[REVOKED_HEADER].to_str().unwrap()).unwrap();
    assert_eq!(told.revoked, Revoked::Key(KeyId(id)));
}

impl Desk {
    async fn aside(
        &self,
        operation: Operation,
        target: &str,
        caller: &Caller,
        sent: Option<Value>,
    ) -> (Parts, RequestId) {
        let asked = (operation.method(), target, operation.name());
        let sent = sent.map_or_else(Body::empty, |sent| Body::from(sent.to_string()));
        let request = RequestId::new();
        (self.exchange(asked, caller, sent, request).await.0, request)
    }

    /// How many records a request has that are not beside another.
    async fn recorded(&self, request: RequestId) -> usize {
        let sql = format!("SELECT count(*) FROM audit.trail WHERE request_id = '{request}'");
        self.world.as_superuser(&sql).await[0].parse().unwrap()
    }
}
