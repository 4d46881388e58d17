//! What the backend does for the gateway only where the client itself shows who it is.

use std::net::Ipv4Addr;

use harness::assertion_key;
use memoric_contract::{
    ASSERTION_HEADER, Assertion, AssertionKey, Caller, Identity, KeyId, Operation, Permission,
    PresentedBy, RequestId, Role,
};

use super::*;

/// Whoever has the gateway: the key of its assertions, and a way to the backend.
struct Intruder {
    backend: reqwest::Client,
    key: AssertionKey,
}

#[tokio::test]
async fn the_gateways_word_alone_is_not_enough_to_act_as_an_admin_or_to_make_a_key() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin", "user"]).await;
    let (bob, again) = (world.register("bob").await, world.log_in("root").await);
    let carol = world.register("carol").await;
    let intruder = Intruder::at(&world);
    let (as_root, as_bob) = (identity_of(&root), identity_of(&bob));
    let promoted = Identity { roles: [Role::Admin].into_iter().collect(), ..as_bob.clone() };
    let anothers = format!("/memories?user_id={}", carol.id);
    let acts = [
        (Operation::ListUsers, "/users"),
        (Operation::ReadAudit, "/audit/logs"),
        (Operation::RecallMemories, anothers.as_str()),
        (Operation::ShowProfile, "/auth/users/carol"),
        (Operation::CreateApiKey, "/auth/api-keys"),
    ];
    let acts = acts.map(|(operation, target)| match operation {
        Operation::ShowProfile => (operation, operation.path().replace("{username}", "carol")),
        _ => (operation, target.to_owned()),
    });

    for (operation, target) in &acts {
        let ask = |who: &Identity, shown: Option<&str>| {
            intruder.ask(*operation, target.clone(), who.clone(), shown.map(str::to_owned))
        };
        assert_eq!(ask(&as_root, None).await, 401, "{operation:?}: nothing is shown");
        assert_eq!(ask(&as_root, Some("x.y.z")).await, 401, "{operation:?}: no token");
        assert_eq!(ask(&as_root, Some(&bob.token)).await, 401, "{operation:?}: another's token");
        assert_eq!(ask(&as_root, Some(&again.token)).await, 401, "{operation:?}: another session");
        if *operation != Operation::CreateApiKey {
            let raised = ask(&promoted, Some(&bob.token)).await;
            assert_eq!(raised, 401, "{operation:?}: roles that the token does not have");
        }
        let own = ask(&as_root, Some(&root.token)).await;
        assert!(own == 200 || own == 201, "{operation:?}: {own}");
    }
    let own = intruder.ask(Operation::RecallMemories, "/memories".to_owned(), as_bob, None).await;
    assert_eq!(own, 200, "for one's own memories its word is enough");

    world
        .superuser()
        .await
        .execute("UPDATE memoric.sessions SET ended_at = now() WHERE user_id = $1", &[&root.id])
        .await
        .unwrap();
    for (operation, target) in acts {
        let ended =
            intruder.ask(operation, target, as_root.clone(), Some(root.token.clone())).await;
        assert_eq!(ended, 401, "{operation:?}: its session has ended");
    }
}

#[tokio::test]
async fn a_key_is_good_for_what_it_was_made_for_whatever_the_gateway_says_of_it() {
    let world = World::start().await;
    let (root, carol) =
        (world.person_with("root", &["admin"]).await, world.register("carol").await);
    let intruder = Intruder::at(&world);
    let anothers = format!("/memories?user_id={}", carol.id);
    let acts = [
        (Operation::ListUsers, "/users", &["users:manage"][..]),
        (Operation::ReadAudit, "/audit/logs", &["audit:read"]),
        (Operation::RecallMemories, &anothers, &["memories:read", "users:manage"]),
        (Operation::ShowProfile, "/auth/users/carol", &["users:manage"]),
    ];
    let scopes = [
        &["memories:read"][..],
        &["users:manage"],
        &["audit:read"],
        &["memories:read", "users:manage"],
    ];

    for scopes in scopes {
        let wanted = json!({"name": "scoped", "scopes": scopes});
        let asked = world.ask_as(&root, Method::POST, "/auth/api-keys").json(&wanted);
        let made: Value = asked.send().await.unwrap().json().await.unwrap();
        let presented = PresentedBy::ApiKey {
            id: KeyId::parse(made["id"].as_str().unwrap()).unwrap(),
            scopes: Permission::ALL.into_iter().collect(),
            generation: 1,
            expires_at: now() + 3600,
        };
        let claimed = Identity { presented, ..identity_of(&root) };
        for (operation, target, needed) in &acts {
            let shown = made["api_key"].as_str().map(str::to_owned);
            let status =
                intruder.ask(*operation, (*target).to_owned(), claimed.clone(), shown).await;
            let may = needed.iter().all(|each| scopes.contains(each));
            assert_eq!(status, if may { 200 } else { 403 }, "{operation:?} by {scopes:?}");
        }
    }
}

impl Intruder {
    fn at(world: &World) -> Self {
        let backend =
            reqwest::Client::builder().unix_socket(world.backend.clone()).build().unwrap();
        Self { backend, key: assertion_key() }
    }

    async fn ask(
        &self,
        operation: Operation,
        target: String,
        who: Identity,
        shown: Option<String>,
    ) -> u16 {
        let assertion = Assertion {
            method: operation.method(),
            target: &target,
            operation: operation.name(),
            request: RequestId::new(),
            client: Ipv4Addr::LOCALHOST.into(),
            caller: &Caller::Known(who),
        };
        let method = operation.method().parse::<Method>().unwrap();
        let mut request = self.backend.request(method, format!("http://backend{target}"));
        request = request.header(ASSERTION_HEADER, self.key.sign(&assertion, now()));
        if operation == Operation::CreateApiKey {
            request = request.json(&json!({"name": "nightly", "scopes": ["memories:read"]}));
        }
        if let Some(shown) = shown {
            request = request.bearer_auth(shown);
        }
        request.send().await.unwrap().status().as_u16()
    }
}

fn identity_of(person: &Person) -> Identity {
    let keys = TokenKeys::hs256(JWT_SECRET.as_bytes());
    keys.verify(&person.token, now()).unwrap().identity().unwrap()
}
