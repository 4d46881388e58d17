//! Who may make an account, and of what.

use super::*;

#[tokio::test]
async fn registration_is_closed_unless_it_is_opened() {
    let world = World::with(|settings| {
        settings.auth.registration = memoric_config::schema::Registration::Closed
    })
    .start()
    .await;
    let account = json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});

    let answer = world.ask(Method::POST, "/auth/register").json(&account).send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(problem(answer).await["code"], "registration_closed");
    assert_eq!(count(&world, "SELECT count(*) FROM memoric.users").await, 0);
}

#[tokio::test]
async fn whoever_registers_is_a_user_without_a_namespace() {
    let world = World::start().await;
    let account = json!({
        "username": "mallory", "email": "m@example.com", "password": PASSWORD,
        "namespace": "company_a", "roles": ["admin"], "is_verified": true,
    });

    let answer = world.ask(Method::POST, "/auth/register").json(&account).send().await.unwrap();

    assert_eq!(answer.status(), StatusCode::CREATED);
    let answer = json_of(answer).await;
    assert_eq!(
        (&answer["roles"], &answer["namespace"], &answer["is_verified"]),
        (&json!(["user"]), &Value::Null, &json!(false))
    );
}

#[tokio::test]
async fn a_bad_registration_names_the_field_and_echoes_nothing() {
    let world = World::start().await;
    world.register("taken").await;
    let account = |field: &str, value: Value| {
        let mut account =
            json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});
        account[field] = value;
        account
    };
    let bad = [
        ("username", json!("al")),
        ("username", json!("a".repeat(51))),
        ("username", json!("alice@example.com")),
        ("username", json!("12345")),
        ("username", json!("al\u{0}ice")),
        ("username", json!(7)),
        ("username", Value::Null),
        ("email", json!("not-an-address")),
        ("email", json!("a\u{0}@example.com")),
        ("password", json!("short-QQ")),
        ("password", json!("q".repeat(129))),
        ("password", json!(["planted-canary"])),
        ("full_name", json!("n".repeat(256))),
        ("full_name", json!("n\u{0}planted-canary")),
    ];

    for (field, value) in bad {
        let answer = world
            .ask(Method::POST, "/auth/register")
            .json(&account(field, value.clone()))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY, "{field} {value}");
        let body = answer.text().await.unwrap();
        assert!(
            !body.contains("planted-canary")
                && !body.contains("short-QQ")
                && !body.contains(PASSWORD),
            "{body}"
        );
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["errors"][0]["field"], field, "{body}");
        assert!(problem["detail"].is_string(), "{body}");
    }
    for (field, value) in [("username", json!("taken")), ("email", json!("TAKEN@example.com"))] {
        let answer = world
            .ask(Method::POST, "/auth/register")
            .json(&account(field, value))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{field} is taken");
    }
    assert_eq!(count(&world, "SELECT count(*) FROM memoric.users").await, 1, "nothing is stored");
}
