//! Who may do what, by the guide's table.

use harness::{PASSWORD, Person, World, until_some};
use memoric_contract::{Demands, Operation, Permission, Role};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

#[tokio::test]
async fn the_guides_table_holds_for_every_operation_and_role() {
    let world = World::start().await;
    let people = [
        (Some(Role::Admin), world.person_with("root", &["admin"]).await),
        (Some(Role::User), world.register("alice").await),
        (Some(Role::Readonly), world.person_with("reader", &["readonly"]).await),
        (None, world.person_with("nobody", &[]).await),
    ];

    for operation in
        Operation::ALL.into_iter().filter(|operation| operation.demands() == Demands::Access)
    {
        let allowed = allowed(operation);
        for (role, person) in &people {
            let may = role.is_some_and(|role| allowed.contains(&role));
            // Some operations end sessions.
            let person = world.log_in(&person.name).await;
            let answer = ask(&world, &person, operation).await;
            let is_refused = answer.status() == StatusCode::FORBIDDEN;
            assert_eq!(is_refused, !may, "{operation:?} as {role:?}: {}", answer.status());
            if is_refused {
                assert_eq!(
                    answer.json::<Value>().await.unwrap()["detail"],
                    "Insufficient permissions"
                );
            } else {
                assert!(
                    answer.status() == StatusCode::NOT_IMPLEMENTED
                        || !answer.status().is_server_error(),
                    "{operation:?} as {role:?}"
                );
            }
        }
    }
}

/// The guide's table ("User Roles"), written out: the code under test has one of its own.
fn allowed(operation: Operation) -> &'static [Role] {
    const ANYONE: &[Role] = &[Role::Admin, Role::User, Role::Readonly];
    const WRITERS: &[Role] = &[Role::Admin, Role::User];
    const ADMINS: &[Role] = &[Role::Admin];
    match operation.name() {
        "logout" | "logout_everywhere" | "list_sessions" | "end_session" | "show_me"
        | "change_password" | "show_profile" | "recall_memories" | "list_clusters" => ANYONE,
        "remember_memory" | "create_api_key" | "list_api_keys" | "rotate_api_key"
        | "revoke_api_key" => WRITERS,
        "run_policies"
        | "list_users"
        | "create_user"
        | "show_user"
        | "change_user"
        | "read_audit"
        | "read_user_audit"
        | "read_security_audit"
        | "count_audit"
        | "list_event_types"
        | "list_severities" => ADMINS,
        unlisted => panic!("{unlisted} has no line in the guide's table"),
    }
}

#[tokio::test]
async fn an_admins_key_does_what_it_was_made_for_and_no_more_whoever_it_is_about() {
    let world = World::start().await;
    let (root, alice) =
        (world.person_with("root", &["admin"]).await, world.register("alice").await);
    world.remember(&alice, json!({"content": "hers"})).await;
    let by_key = |each: &Operation| each.demands() == Demands::Access && each.takes_api_keys();

    for scopes in scopes() {
        let key = make_key(&world, &root, &scopes).await;
        for operation in Operation::ALL.into_iter().filter(by_key) {
            for (whose, owner) in [("one's own", &root), ("another's", &alice)] {
                let is_another = whose != "one's own";
                let needs = needs(operation, is_another);
                let may = needs.iter().all(|needed| scopes.contains(needed));

                let answer = request(&world, owner, operation, is_another);
                let answer = answer.header("x-api-key", &key).send().await.unwrap();

                let (status, about) =
                    (answer.status(), format!("{operation:?}, {whose}: {scopes:?}"));
                assert_eq!(status == StatusCode::FORBIDDEN, !may, "{about}: {status}");
                assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{about}");
                let reads = ["read_audit", "read_user_audit", "read_security_audit", "count_audit"];
                if may && reads.contains(&operation.name()) {
                    let trail: Value = answer.json().await.unwrap();
                    let total = trail["total"].as_i64().or(trail["total_events"].as_i64()).unwrap();
                    assert!(total > 0, "{about}: allowed is not empty");
                }
            }
        }
    }
}

/// Each scope alone, all but each, and all.
fn scopes() -> Vec<Vec<&'static str>> {
    let all = Permission::ALL.map(Permission::name);
    let but = |one| all.into_iter().filter(move |scope| *scope != one).collect();
    all.into_iter()
        .map(|one| vec![one])
        .chain(all.into_iter().map(but))
        .chain([all.to_vec()])
        .collect()
}

async fn make_key(world: &World, person: &Person, scopes: &[&str]) -> String {
    let wanted = json!({"name": "scoped", "scopes": scopes});
    let asked = world.ask_as(person, Method::POST, "/auth/api-keys").json(&wanted);
    let made: Value = asked.send().await.unwrap().json().await.unwrap();
    made["api_key"].as_str().unwrap().to_owned()
}

/// What a key must have been made for, written out: the code under test has a table of its own.
fn needs(operation: Operation, is_another: bool) -> Vec<&'static str> {
    let needs = match operation.name() {
        "show_me" | "show_profile" => None,
        "list_api_keys" | "revoke_api_key" => Some("keys:manage"),
        "list_users" | "create_user" | "show_user" | "change_user" => Some("users:manage"),
        "recall_memories" => Some("memories:read"),
        "remember_memory" => Some("memories:write"),
        "list_clusters" => Some("clusters:read"),
        "run_policies" => Some("policies:execute"),
        "read_audit"
        | "read_user_audit"
        | "read_security_audit"
        | "count_audit"
        | "list_event_types"
        | "list_severities" => Some("audit:read"),
        unlisted => panic!("{unlisted} has no line here"),
    };
    let names_a_user = ["show_profile", "recall_memories", "remember_memory", "list_clusters"];
    let besides = is_another && names_a_user.contains(&operation.name());
    needs.into_iter().chain(besides.then_some("users:manage")).collect()
}

#[tokio::test]
async fn readonly_cannot_create_and_nothing_is_stored() {
    let world = World::start().await;
    let reader = world.person_with("reader", &["readonly"]).await;

    let answer = world
        .ask_as(&reader, Method::POST, "/memories")
        .json(&json!({"content": "x"}))
        .send()
        .await
        .unwrap();

    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(world.recall(&reader).await.is_empty(), "it may read");
}

#[tokio::test]
async fn readonly_may_still_change_its_password() {
    let world = World::start().await;
    let reader = world.person_with("reader", &["readonly"]).await;

    let change = json!({"old_password": PASSWORD, "new_password": "another-horse-battery"});
    let answer = world
        .ask_as(&reader, Method::POST, "/auth/change-password")
        .json(&change)
        .send()
        .await
        .unwrap();

    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn anothers_memories_are_forbidden_and_ones_own_by_any_name_are_not() {
    let world = World::start().await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);
    world.remember(&alice, json!({"content": "mine"})).await;

    let status = |person: &Person, query: String| {
        let request = world.ask_as(person, Method::GET, &format!("/memories?{query}"));
        async { request.send().await.unwrap().status() }
    };

    assert_eq!(status(&bob, format!("user_id={}", alice.id)).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&bob, "user_id=alice".to_owned()).await, StatusCode::FORBIDDEN);
    assert_eq!(
        status(&bob, format!("user_id=%3{}", alice.id)).await,
        StatusCode::FORBIDDEN,
        "however it is spelt"
    );
    assert_eq!(status(&bob, format!("user_id={}", bob.id)).await, StatusCode::OK);
    assert_eq!(status(&bob, "user_id=".to_owned()).await, StatusCode::OK, "empty is oneself");
    let twice = format!("user_id={}&user_id={}", bob.id, alice.id);
    assert_eq!(status(&bob, twice).await, StatusCode::BAD_REQUEST);
    let disguised = format!("user_id={}&user%5Fid={}", bob.id, alice.id);
    assert_eq!(status(&bob, disguised).await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_profile_is_for_its_owner_and_for_admins() {
    let world = World::start().await;
    let (alice, root) =
        (world.register("alice").await, world.person_with("root", &["admin"]).await);
    let status = |person: &Person, name: &str| {
        let request = world.ask_as(person, Method::GET, &format!("/auth/users/{name}"));
        async { request.send().await.unwrap().status() }
    };

    assert_eq!(status(&alice, "alice").await, StatusCode::OK);
    assert_eq!(status(&alice, "root").await, StatusCode::FORBIDDEN);
    assert_eq!(
        status(&alice, "nobody").await,
        StatusCode::FORBIDDEN,
        "whether a name is taken is not told"
    );
    assert_eq!(status(&root, "alice").await, StatusCode::OK);
    assert_eq!(status(&root, "nobody").await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_not_built_yet_says_so() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;
    let unfilled = [Operation::ListClusters, Operation::RunPolicies];

    for operation in unfilled {
        let answer = ask(&world, &root, operation).await;
        assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED, "{operation:?}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json", "{operation:?}");
        assert_eq!(
            answer.json::<Value>().await.unwrap()["code"],
            "not_implemented",
            "{operation:?}"
        );
    }
}

#[tokio::test]
async fn a_path_that_is_no_operation_does_not_exist() {
    let world = World::start().await;
    let root = world.person_with("root", &["admin"]).await;

    for path in [
        "/nope",
        "/metrics",
        "/docs",
        "/internal/health",
        "/internal/revocations",
        "/internal/live",
        "/Memories",
    ] {
        let answer = world.ask_as(&root, Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let answer = world.ask_as(&root, Method::DELETE, "/memories").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["allow"], "GET, POST");
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let world = World::with(|settings| {
        settings.gateway.limits.identity.per_second = 0.25;
        settings.gateway.limits.identity.burst = 5;
    })
    .start()
    .await;
    let (alice, bob) = (world.register("alice").await, world.register("bob").await);

    let refused = until_some("she is put off", async || {
        let answer = world.ask_as(&alice, Method::GET, "/memories").send().await.unwrap();
        (answer.status() == StatusCode::TOO_MANY_REQUESTS).then_some(answer)
    })
    .await;

    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=4).contains(&wait), "{wait}");
    assert!(world.recall(&bob).await.is_empty(), "another's budget is untouched");
    tokio::time::sleep(std::time::Duration::from_secs(wait)).await;
    assert!(world.recall(&alice).await.is_empty(), "the promise was honest");
}

async fn ask(world: &World, person: &Person, operation: Operation) -> Response {
    request(world, person, operation, false).bearer_auth(&person.token).send().await.unwrap()
}

/// `operation`, about `person`, whom it names where it need not if it `is_another`.
fn request(
    world: &World,
    person: &Person,
    operation: Operation,
    is_another: bool,
) -> RequestBuilder {
    let path = operation
        .path()
        .replace("{username}", &person.name)
        .replace("{user_id}", &person.id.to_string());
    let path = match operation {
        Operation::RecallMemories | Operation::ListClusters if is_another => {
            format!("{path}?user_id={}", person.id)
        }
        _ => path,
    };
    let method: Method = operation.method().parse().unwrap();
    let body = match operation {
        Operation::RememberMemory if is_another => json!({"content": "x", "user_id": person.id}),
        Operation::RememberMemory => json!({"content": "x"}),
        Operation::ChangePassword => {
            json!({"old_password": "not-the-password", "new_password": "another-horse-battery"})
        }
        _ => json!({}),
    };
    let request = world.ask(method.clone(), &path);
    if matches!(method, Method::POST | Method::PATCH) { request.json(&body) } else { request }
}
