//! What is nobody's business is written down nowhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use harness::{
    ASSERTION_SECRET, CHECK_SECRET, DATABASE_PASSWORD, ENCRYPTION_KEY, JWT_SECRET, Recipe, Servers,
};

use super::*;

#[tokio::test]
async fn no_secret_is_in_any_record_log_metric_or_file() {
    let memoric = Recipe::new()
        .await
        .set("MEMORIC_AUTH__REGISTRATION", "open")
        .set("MEMORIC_OBSERVABILITY__LOGGING__LEVEL", "TRACE")
        .start()
        .await;
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", memoric.http);
    let post = |path: &str, sent: Value| client.post(url(path)).json(&sent);
    let account = json!({
        "username": "alice", "email": "alice@example.com", "password": "Canary-password-1",
    });
    assert_eq!(status(post("/auth/register", account)).await, 201);
    let login = json!({"username": "alice", "password": "Canary-password-1"});
    let answer: Value = post("/auth/login", login).send().await.unwrap().json().await.unwrap();
    let token = answer["access_token"].as_str().unwrap().to_owned();
    let id = answer["user"]["id"].as_i64().unwrap();
    let key = json!({"name": "Key", "scopes": ["memories:read"]});
    let key = post("/auth/api-keys", key).bearer_auth(&token).send().await.unwrap();
    let key = key.json::<Value>().await.unwrap()["api_key"].as_str().unwrap().to_owned();
    let refresh = answer["refresh_token"].as_str().unwrap().to_owned();
    let device = answer["device_token"].as_str().unwrap().to_owned();
    let (mut errors, mut asked) = (String::new(), Vec::new());

    for (expected, request) in [
        (
            200,
            post(
                "/memories",
                json!({
                    "content": "Canary-content", "thread_id": "Canary-thread",
                    "metadata": {"Canary-name": "Canary-value"},
                }),
            )
            .bearer_auth(&token),
        ),
        (200, client.get(url("/memories?thread_id=Canary-thread&top_k=5")).bearer_auth(&token)),
        (422, client.get(url("/memories?top_k=Canary-number")).bearer_auth(&token)),
        (403, client.get(url("/memories?user_id=Canary-user")).bearer_auth(&token)),
        (403, client.get(url("/audit/logs?severity=Canary-severity")).bearer_auth(&token)),
        (403, client.get(url("/auth/users/Canary-name")).bearer_auth(&token)),
        (404, client.get(url("/Canary-path?Canary-query=Canary-value")).bearer_auth(&token)),
        (401, client.get(url("/memories")).bearer_auth("Canary.token.x")),
        (401, client.get(url("/memories")).bearer_auth(format!("{token}Canary-signature"))),
        (401, client.get(url("/memories")).header("x-api-key", "mk_Canary-key")),
        (200, client.get(url("/memories")).header("x-api-key", &key)),
        (401, client.get(url("/memories")).header("x-api-key", key.replace("mk_", "mk_0"))),
        (403, client.get(url("/audit/logs")).bearer_auth(&key)),
        (401, client.get(url("/memories")).bearer_auth(&refresh)),
        (401, post("/auth/refresh", json!({"refresh_token": refresh.replace("mrt_", "mrt_0")}))),
        (401, client.post(url("/auth/logout")).bearer_auth(&refresh)),
        (
            200,
            client
                .get(url("/memories"))
                .header("cookie", "session=Canary-cookie")
                .bearer_auth(&token),
        ),
        (401, client.get(url("/memories")).header("authorization", "Basic Canary-basic")),
        (
            422,
            post("/memories", json!({"content": 7, "Canary-field": "Canary-value"}))
                .bearer_auth(&token),
        ),
        (415, client.post(url("/memories")).body("Canary-body").bearer_auth(&token)),
        (
            401,
            post(
                "/auth/login",
                json!({"username": "Canary-typed-name", "password": "Canary-typed"}),
            ),
        ),
        (401, post("/auth/login", json!({"username": "alice", "password": "Canary-wrong"}))),
        (
            401,
            post(
                "/auth/login",
                json!({"username": "alice", "password": "Canary-wrong", "device_token": device}),
            ),
        ),
        (
            400,
            post(
                "/auth/reset-password",
                json!({"token": "mpr_Canary", "new_password": "Canary-new"}),
            ),
        ),
        (
            422,
            post("/auth/register", json!({"username": "Canary name", "password": "Canary-short"})),
        ),
        (
            400,
            post(
                "/auth/change-password",
                json!({"old_password": "Canary-wrong", "new_password": "Canary-password-2"}),
            )
            .bearer_auth(&token),
        ),
        (
            200,
            client
                .get(url("/memories"))
                .header("origin", "https://Canary-origin")
                .bearer_auth(&token),
        ),
    ] {
        let answer = request.send().await.unwrap();
        let (status, about) = (answer.status().as_u16(), answer.url().clone());
        asked.push(answer.headers()["x-request-id"].to_str().unwrap().to_owned());
        let told = format!("{:?} {}", answer.headers().clone(), answer.text().await.unwrap());
        assert_eq!(status, expected, "{about}: {told}");
        errors += if status == 200 { "" } else { &told };
    }
    let superuser = Servers::get().await.superuser(&memoric.database).await;
    let role = "UPDATE memoric.users SET roles = '{admin}' WHERE id = $1";
    superuser.execute(role, &[&id]).await.unwrap();
    let login = json!({"username": "alice", "password": "Canary-password-1"});
    let root: Value = post("/auth/login", login).send().await.unwrap().json().await.unwrap();
    let root = root["access_token"].as_str().unwrap().to_owned();
    let given = json!({"username": "carol", "email": "carol@example.com"});
    let given = post("/users", given).bearer_auth(&root).send().await.unwrap();
    let given = given.json::<Value>().await.unwrap()["reset_token"].as_str().unwrap().to_owned();
    let choice = json!({"token": given, "new_password": "Canary-password-3"});
    assert_eq!(status(post("/auth/reset-password", choice)).await, 200);
    let secrets = [
        "canary",
        token.rsplit('.').next().unwrap(),
        &key[key.len() - 40..],
        &refresh[refresh.len() - 40..],
        &device[device.len() - 40..],
        &given[given.len() - 40..],
        JWT_SECRET,
        ASSERTION_SECRET,
        CHECK_SECRET,
        ENCRYPTION_KEY,
        DATABASE_PASSWORD,
    ];
    until("all is recorded", async || {
        recorded(&superuser, asked.iter().map(String::as_str)).await.len() == asked.len()
    })
    .await;
    let logs = client.get(url("/audit/logs?limit=1000")).bearer_auth(&root);
    let logs = logs.send().await.unwrap().text().await.unwrap();
    assert!(asked.iter().all(|request| logs.contains(request)), "{logs}");

    let metrics = async |name| {
        let url = format!("http://{}/metrics", memoric.value(name));
        reqwest::get(url).await.unwrap().text().await.unwrap()
    };
    let dumped =
        "SELECT trail::text FROM audit.trail UNION ALL SELECT users::text FROM memoric.users
                  UNION ALL SELECT sessions::text FROM memoric.sessions
                  UNION ALL SELECT api_keys::text FROM memoric.api_keys
                  UNION ALL SELECT password_resets::text FROM memoric.password_resets";
    let rows = superuser.query(dumped, &[]).await.unwrap();
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let places = [
        ("the records", logs),
        ("the tables", rows.concat()),
        ("the answers", errors),
        ("the gateway's log", memoric.gateway.stdout() + &memoric.gateway.stderr()),
        ("the backend's log", memoric.backend.stdout() + &memoric.backend.stderr()),
        ("the gateway's metrics", metrics("MEMORIC_GATEWAY_METRICS").await),
        ("the backend's metrics", metrics("MEMORIC_BACKEND_METRICS").await),
        ("the gateway's spool", contents(&memoric.folder().join("spool"))),
    ];
    for (place, told) in places {
        assert!(!told.is_empty(), "{place}");
        for secret in secrets {
            for spelt in [secret.to_owned(), hex::encode(secret), hex::encode(capital(secret))] {
                let found = told.to_lowercase().find(&spelt.to_lowercase());
                let around = found.map(|at| excerpt(&told, at));
                assert_eq!(around, None, "{secret} in {place}");
            }
        }
    }
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

/// All that is in a folder's files.
fn contents(folder: &Path) -> String {
    let mut folders = vec![PathBuf::from(folder)];
    let mut whole = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => whole.extend(fs::read(entry.path()).unwrap_or_default()),
            }
        }
    }
    String::from_utf8_lossy(&whole).into_owned()
}

fn capital(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    first.to_uppercase() + rest
}

fn excerpt(text: &str, at: usize) -> String {
    let lower = text.to_lowercase();
    String::from_utf8_lossy(&lower.as_bytes()[at.saturating_sub(200)..lower.len().min(at + 100)])
        .into_owned()
}
