//! Which passwords may be chosen, and how one is set that nobody remembers.

use harness::{PASSWORD, World};
use memoric_config::schema::{PasswordRules, Settings};
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{rooted, send};

#[tokio::test]
async fn what_everybody_would_try_first_is_no_password_wherever_one_is_chosen() {
    let (world, root) = rooted().await;
    let path = format!("/users/{}", world.register("correct-horse-9").await.id);
    for (password, code) in [
        ("elevenchars", "too_short"),
        (&*"x".repeat(129), "too_long"),
        ("1qaz2WSX3edc", "common"),
        ("Correct-Horse-9", "is_username"),
        ("correct-horse-9@example.com", "is_email"),
    ] {
        let account = json!({
            "username": "correct-horse-9", "email": "correct-horse-9@example.com", "password": password,
        });
        let change = json!({"old_password": PASSWORD, "new_password": password});
        let token = token(&world, &root, &path).await;
        let reset = json!({"token": token, "new_password": password});
        let person = world.log_in("correct-horse-9").await;

        for answer in [
            world.ask(Method::POST, "/auth/register").json(&account).send().await.unwrap(),
            send(&world, &root, Method::POST, "/users", &account).await,
            send(&world, &person, Method::POST, "/auth/change-password", &change).await,
            world.ask(Method::POST, "/auth/reset-password").json(&reset).send().await.unwrap(),
        ] {
            let (path, status) = (answer.url().path().to_owned(), answer.status());
            assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {password}");
            let told = answer.text().await.unwrap();
            assert!(!told.contains(password), "{path}: {told}");
            let told: Value = serde_json::from_str(&told).unwrap();
            assert_eq!(told["errors"][0]["code"], code, "{path}: {password}");
        }
    }
}

#[tokio::test]
async fn the_rules_are_those_of_the_settings() {
    let world = World::with(|settings: &mut Settings| {
        settings.auth.password_rules = PasswordRules::Python;
        settings.auth.password_min_length = 8;
    })
    .start()
    .await;
    let register = async |name: &str, password: &str| {
        let email = format!("{name}@example.com");
        let account = json!({"username": name, "email": email, "password": password});
        world.ask(Method::POST, "/auth/register").json(&account).send().await.unwrap()
    };

    let refused = register("alice", "correct-horse-9").await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        refused.json::<Value>().await.unwrap()["errors"][0]["message"],
        "Value error, Password must contain at least one uppercase letter"
    );
    assert_eq!(register("alice", "Horse-9x").await.status(), StatusCode::CREATED);
    assert_eq!(world.try_log_in("alice", "Horse-9x").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_reset_token_sets_one_password_once() {
    let (world, root) = rooted().await;
    let bob = world.register("bob").await;
    let path = format!("/users/{}", bob.id);
    let token = token(&world, &root, &path).await;

    assert_eq!(world.try_log_in("bob", PASSWORD).await.status(), StatusCode::OK, "not set yet");
    let session = world.log_in("bob").await;
    assert_eq!(reset(&world, &token, "a-password-of-bobs").await.status(), StatusCode::OK);

    assert_eq!(world.try_log_in("bob", PASSWORD).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(world.try_log_in("bob", "a-password-of-bobs").await.status(), StatusCode::OK);
    let me = world.ask_as(&session, Method::GET, "/auth/me").send().await.unwrap();
    assert_eq!(me.status(), StatusCode::UNAUTHORIZED, "what was begun has ended");
    assert_invalid(reset(&world, &token, "another-password-of-bobs").await, "used").await;

    let stored = "SELECT count(*) FROM audit.trail WHERE event_type = 'user.password.reset' AND subject = $1 AND owner = $1 AND success";
    let superuser = world.superuser().await;
    let records: i64 = superuser.query_one(stored, &[&bob.id]).await.unwrap().get(0);
    assert_eq!(records, 1);
}

#[tokio::test]
async fn a_reset_token_ends_soon_and_with_whatever_changes_the_account() {
    let (world, root) = rooted().await;
    let bob = world.register("bob").await;
    let path = format!("/users/{}", bob.id);
    let superuser = world.superuser().await;
    let left = "SELECT extract(epoch FROM expires_at - now())::float8 FROM memoric.password_resets";

    let first = token(&world, &root, &path).await;
    let seconds: f64 = superuser.query_one(left, &[]).await.unwrap().get(0);
    assert!((3500.0..=3600.0).contains(&seconds), "{seconds}");
    let second = token(&world, &root, &path).await;
    assert_invalid(reset(&world, &first, "a-password-of-bobs").await, "there is a newer one").await;
    superuser.batch_execute("UPDATE memoric.password_resets SET expires_at = now()").await.unwrap();
    assert_invalid(reset(&world, &second, "a-password-of-bobs").await, "late").await;

    for change in [json!({"roles": ["user"]}), json!({"is_active": false})] {
        let token = token(&world, &root, &path).await;
        send(&world, &root, Method::PATCH, &path, &change).await;
        assert_invalid(reset(&world, &token, "a-password-of-bobs").await, "changed since").await;
    }
    for forged in ["", "mpr_", &first.replace("mpr_", "mk_"), &"x".repeat(5000)] {
        assert_invalid(reset(&world, forged, "a-password-of-bobs").await, "forged").await;
    }
}

#[tokio::test]
async fn what_is_stored_of_a_reset_token_is_of_no_use() {
    let (world, root) = rooted().await;
    let bob = world.register("bob").await;
    let token = token(&world, &root, &format!("/users/{}", bob.id)).await;

    let hash = "SELECT encode(hash, 'hex') FROM memoric.password_resets";
    let hash: String = world.superuser().await.query_one(hash, &[]).await.unwrap().get(0);

    use sha2::{Digest as _, Sha256};
    for plain in [token.as_bytes(), token.trim_start_matches("mpr_").as_bytes()] {
        assert_ne!(hash, hex::encode(Sha256::digest(plain)), "it is keyed");
    }
    for guess in [hash.clone(), format!("mpr_{hash}")] {
        assert_invalid(reset(&world, &guess, "a-password-of-bobs").await, "the hash").await;
    }
}

#[tokio::test]
async fn whoever_is_given_an_account_chooses_its_password() {
    let (world, root) = rooted().await;
    let wanted = json!({"username": "carol", "email": "carol@example.com"});

    let made = send(&world, &root, Method::POST, "/users", &wanted).await;
    assert_eq!(made.status(), StatusCode::CREATED);
    let made: Value = made.json().await.unwrap();
    assert_eq!((&made["roles"], &made["reset_expires_in"]), (&json!(["user"]), &json!(3600)));
    let token = made["reset_token"].as_str().unwrap();

    assert_eq!(reset(&world, token, "carols-own-choice").await.status(), StatusCode::OK);
    let answer = world.try_log_in("carol", "carols-own-choice").await;
    assert_eq!(answer.status(), StatusCode::OK);
}

async fn token(world: &World, root: &harness::Person, path: &str) -> String {
    let answer = send(world, root, Method::PATCH, path, &json!({"reset_password": true})).await;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json::<Value>().await.unwrap()["reset_token"].as_str().unwrap().to_owned()
}

async fn reset(world: &World, token: &str, password: &str) -> Response {
    let sent = json!({"token": token, "new_password": password});
    world.ask(Method::POST, "/auth/reset-password").json(&sent).send().await.unwrap()
}

async fn assert_invalid(answer: Response, why: &str) {
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{why}");
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "invalid_reset_token", "{why}");
}
