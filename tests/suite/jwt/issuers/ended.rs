//! Tokens of others end before their time: with all that is their user's, and by themselves.

use std::time::Duration;

use harness::PASSWORD;
use tokio::time::sleep;

use super::*;

#[tokio::test]
async fn what_ends_all_that_is_a_users_ends_what_others_minted_for_them() {
    let issuer = Issuer::start().await;
    let theirs = issuer.settings();
    let day = time::OffsetDateTime::now_utc().date().next_day().unwrap().next_day().unwrap();
    let world = World::with(move |settings| {
        settings.auth.issuers = vec![theirs];
        settings.auth.legacy_tokens = Some(day.to_string());
    });
    let world = world.start().await;
    let root = world.person_with("root", &["admin"]).await;
    let changed = json!({"old_password": PASSWORD, "new_password": "another-horse-battery"});
    let ends = [
        ("alice", Method::POST, "/auth/logout-all", json!({})),
        ("bob", Method::POST, "/auth/change-password", changed),
        ("carol", Method::PATCH, "/users/", json!({"roles": ["readonly"]})),
    ];
    for (name, method, path, body) in ends {
        let person = world.register(name).await;
        link_by_sql(&world, &issuer, name, person.id).await;
        let imported = "UPDATE memoric.users SET imported_at = now() WHERE id = $1";
        world.superuser().await.execute(imported, &[&person.id]).await.unwrap();
        let mint = |issued_at: Value| {
            let mut claims = issuer.claims(name, now());
            claims["iat"] = issued_at;
            issuer.mint(&claims)
        };
        let olds = [
            mint(json!(now() - 60)),
            mint(json!(now())),
            mint(json!(now() + AHEAD - 1)),
            mint(Value::Null),
            legacy(person.id, &json!(["user"]), now() - 60),
        ];
        for old in &olds {
            until(&world, old, 200).await;
        }

        let (who, at) = match path {
            "/users/" => (&root, format!("{path}{}", person.id)),
            _ => (&person, path.to_owned()),
        };
        let ended = world.ask_as(who, method, &at).json(&body).send().await.unwrap();
        assert!(ended.status().is_success(), "{path}: {}", ended.status());

        for old in &olds {
            assert_eq!(recall(&world, old).await.0, 401, "{path}: {old}");
        }
        // What an issuer mints from now on, if its clock is as far ahead as one may be.
        sleep(Duration::from_secs(2)).await;
        let later = now() + AHEAD;
        for new in [mint(json!(later)), legacy(person.id, &json!(["user"]), later)] {
            assert_eq!(recall(&world, &new).await.0, 200, "{path}: of a time after that");
        }
    }
}

#[tokio::test]
async fn whoever_logs_out_with_anothers_token_ends_that_token_alone() {
    let issuer = Issuer::start().await;
    let world = believing(&issuer, false).await;
    let alice = world.register("alice").await;
    link_by_sql(&world, &issuer, "s", alice.id).await;
    let mint = |jti: Value, exp: u64| {
        let mut claims = issuer.claims("s", now());
        claims["jti"] = jti;
        claims["exp"] = json!(exp);
        issuer.mint(&claims)
    };
    let soon = now() + 600;
    let (one, other) = (mint(json!("one"), soon), mint(json!("other"), soon));
    let log_out = async |token: &str| {
        let asked = world.ask(Method::POST, "/auth/logout").bearer_auth(token);
        let answer = asked.send().await.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap()["code"].clone())
    };
    until(&world, &other, 200).await;
    assert_eq!(recall(&world, &one).await.0, 200);

    assert_eq!(log_out(&one).await.0, StatusCode::OK);

    assert_eq!(recall(&world, &one).await.0, 401);
    assert_eq!(log_out(&one).await.0, StatusCode::UNAUTHORIZED, "once");
    assert_eq!(recall(&world, &other).await.0, 200, "another of the same user");
    assert_eq!(recall(&world, &alice.token).await.0, 200, "their own session");
    for nameless in [mint(Value::Null, soon), mint(json!(""), soon)] {
        let refused = (StatusCode::FORBIDDEN, json!("foreign_session"));
        assert_eq!(log_out(&nameless).await, refused, "only its issuer can end it");
        assert_eq!(recall(&world, &nameless).await.0, 200);
    }
    let told = "SELECT count(*) FROM memoric.revocations WHERE user_id = $1 AND space = 'jti'
                AND expires_at BETWEEN now() + '9 minutes' AND now() + '11 minutes'";
    let told: i64 = world.superuser().await.query_one(told, &[&alice.id]).await.unwrap().get(0);
    assert_eq!(told, 1, "in the feed, for as long as it would have lived");
}

/// Seconds that an issuer's clock may be ahead of ours.
const AHEAD: u64 = 5;
