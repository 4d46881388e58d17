//! What the guide has set, or advises to set, before anybody depends on it: lines 36 to 45, 165 to 211, 245 to 303 and 320 to 359.

use super::*;

/// Pages that the guide lets in (269, 299).
const PAGES: [&str; 2] = ["https://yourdomain.com", "https://app.yourdomain.com"];

#[tokio::test]
async fn the_environment_of_the_guide_is_understood() {
    // 45 and 169 run Python; a test cannot count on its modules, so what they print is printed here.
    let secret = "c152ee2c0f69b20c400615e8a593ff519bd1b77d45fd5a2f62f7bba56cabb7804450e5ea01b66394bc431a3d3fadfd1b507e56569f135bf2715be53f60342cfd";
    let fernet = "mUGZpEL9Ywx4nS0bDqvtR2kHfJ7cXoWi3eTgA6VlB8s=";
    let memoric = Recipe::new()
        .await
        .set("MEMORIC_JWT_SECRET", secret)
        .set("MEMORIC_ENCRYPTION_KEY", fernet)
        .set("MEMORIC_CORS_ORIGINS", &PAGES.join(","))
        .start()
        .await;

    for page in PAGES {
        assert_eq!(preflight(&memoric, page), (204, page.to_owned()), "line 269: {page}");
    }
    let elsewhere = "https://elsewhere.example";
    assert_eq!(preflight(&memoric, elsewhere), (403, String::new()), "line 258");
}

#[tokio::test]
async fn the_sample_values_of_the_guide_are_refused() {
    let samples = [
        (39, "MEMORIC_JWT_SECRET", "your-secret-key-here"),
        (175, "MEMORIC_ENCRYPTION_KEY", "your-encryption-key-here"),
        // 268 prints a password to be replaced; a vault that opens with it is open.
        (268, "MEMORIC_DB_PASSWORD", "strong_db_password"),
    ];
    for (line, name, value) in samples {
        let told = refused(&Recipe::new().await.set(name, value), "memoric-backend");
        assert!(told.contains(name) && !told.contains(value), "line {line}: {told}");
    }
}

#[tokio::test]
async fn the_configuration_of_the_guide_is_understood() {
    let printed = [
        (181, "privacy:\n  encrypt_content: true\n", &["privacy.encrypt_content = true"][..]),
        (
            206,
            "privacy:\n  user_isolation: true           # Enforce user data separation\n  allow_global_scope: false      # Prevent cross-user queries\n",
            &["privacy.user_isolation = true", "privacy.allow_global_scope = false"],
        ),
        (
            275,
            "# config.yaml\nprivacy:\n  user_isolation: true\n  encrypt_content: true\n\nobservability:\n  logging:\n    enabled: true\n    level: INFO\n\n  metrics:\n    enabled: true\n",
            &[
                "privacy.user_isolation = true",
                "privacy.encrypt_content = true",
                "observability.logging.enabled = true",
                "observability.logging.level = \"INFO\"",
                "observability.metrics.enabled = true",
            ],
        ),
    ];
    let recipe = Recipe::new().await;
    for (line, yaml, settings) in printed {
        let file = recipe.folder().join("config.yaml");
        std::fs::write(&file, yaml).unwrap();
        for program in ["memoric-backend", "memoric-gateway"] {
            let told = checked(&recipe, program, &["--config", &file.display().to_string()]);
            for setting in settings {
                let setting = format!("{setting} (from ");
                assert!(told.contains(&setting), "line {line}: {program}: {setting}: {told}");
            }
        }
    }
}

/// The checklist of lines 249 to 258. Of the rest, 251 and 394 are `startup`'s: of a key that is wrong,
/// another one or none.
#[tokio::test]
async fn the_checklist_of_the_guide_can_be_ticked() {
    let recipe = Recipe::new().await;
    let secret = recipe.value("MEMORIC_JWT_SECRET")[1..].to_owned();
    let told = refused(&recipe.set("MEMORIC_JWT_SECRET", &secret), "memoric-gateway");
    assert!(told.contains("MEMORIC_JWT_SECRET") && told.contains("needs 64"), "line 249: {told}");

    let remote = Recipe::new().await.set("MEMORIC_DATABASE__HOST", "db.example.com");
    let told = refused(&remote, "memoric-backend");
    assert!(told.contains("set it to verify-full"), "line 252: {told}");

    let memoric = Recipe::new()
        .await
        .set("MEMORIC_GATEWAY__LIMITS__READ__BURST", "1")
        .set("MEMORIC_GATEWAY__LIMITS__READ__PER_SECOND", "0.01")
        .start()
        .await;
    create_users_of_line_60(&memoric);
    let user = token(&memoric, "user1", "user_password_456");
    let certificate = memoric.folder().join("certificate.pem").display().to_string();
    let health = format!("https://localhost:{}/health", memoric.https.port());
    let (status, _) = curl(&format!("curl --cacert {certificate} {health}"));
    assert_eq!(status, 200, "line 250");

    let key = api_key_of_line_120(&memoric);
    let rotate = format!("/auth/api-keys/{}/rotate", key.split('_').nth(1).unwrap());
    let (status, rotated) = curl(&format!(
        r#"curl -X POST http://{}{rotate} -H "Authorization: Bearer {user}""#,
        memoric.http
    ));
    assert_eq!(status, 200, "line 255");
    assert_ne!(text(&rotated["api_key"]), key, "line 255: another one");

    let read = format!(
        r#"curl -s -D - -o /dev/null http://{}/memories -H "Authorization: Bearer {user}""#,
        memoric.http
    );
    let (first, second) = (shell(&read), shell(&read).to_lowercase());
    assert!(first.starts_with("HTTP/1.1 200 "), "line 254: {first}");
    assert!(second.starts_with("http/1.1 429 "), "line 254: {second}");
    assert!(second.contains("\r\nretry-after: "), "line 254: {second}");
}

#[tokio::test]
async fn the_production_set_up_of_the_guide_makes_its_admin_once() {
    let recipe = Recipe::new().await;
    let (database, mark) = (recipe.value("MEMORIC_DATABASE__NAME").to_owned(), "boss@example.com");
    let production = |recipe: Recipe| {
        recipe
            .set("CORS_ORIGIN", PAGES[0])
            .set("CREATE_ADMIN", "1")
            .set("ADMIN_USERNAME", "boss")
            .set("ADMIN_PASSWORD", "secure_password_123")
            .set("ADMIN_EMAIL", mark)
            .set("MEMORIC_AUTH__ACCESS_TOKEN_TTL", "120")
    };
    let without = refused(&Recipe::new().await.unset("MEMORIC_JWT_SECRET"), "memoric-gateway");
    assert!(without.contains("MEMORIC_JWT_SECRET"), "line 328: {without}");

    let memoric = production(recipe).start().await;

    assert_eq!(preflight(&memoric, PAGES[0]), (204, PAGES[0].to_owned()), "line 338");
    assert_eq!(preflight(&memoric, PAGES[1]), (403, String::new()), "line 338");
    let session = log_in(&memoric, "boss", "secure_password_123");
    assert_eq!(session["expires_in"], 120, "line 384");
    let (status, profile) = curl(&format!(
        r#"curl http://{}/auth/me -H "Authorization: Bearer {}""#,
        memoric.http,
        text(&session["access_token"])
    ));
    assert_eq!((status, &profile["roles"]), (200, &json!(["admin"])), "line 349");

    drop(memoric);
    let memoric = production(Recipe::on(Servers::get().await, database)).start().await;
    let listed = memoric.program("memoric-backend").args(["user", "list"]).run();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.matches(mark).count(), 1, "line 342, the first time only: {listed}");
    token(&memoric, "boss", "secure_password_123");
}

/// Lines 355 to 357: where it listens and what it logs, unless it is told otherwise.
#[tokio::test]
async fn the_guides_addresses_are_the_defaults() {
    let recipe = Recipe::new().await.unset("MEMORIC_HTTP").unset("MEMORIC_HTTPS");
    let told = checked(&recipe, "memoric-gateway", &[]);
    for line in [
        r#"gateway.http = "127.0.0.1:8000" (default)"#,
        r#"observability.logging.level = "INFO" (default)"#,
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
}

/// What a program complains of that does not start like this.
fn refused(recipe: &Recipe, program: &str) -> String {
    let refused = recipe.program(program).args(["serve"]).run();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{told}");
    told
}

/// What `check` prints.
fn checked(recipe: &Recipe, program: &str, more: &[&str]) -> String {
    let checked = recipe.program(program).args(["check"]).args(more.iter().copied()).run();
    let [told, complaint] =
        [&checked.stdout, &checked.stderr].map(|said| String::from_utf8_lossy(said));
    format!("{told}{complaint}")
}

/// The status, and whom it lets in, of what a browser asks before `page` may read.
fn preflight(memoric: &Deployment, page: &str) -> (u16, String) {
    let told = shell(&format!(
        r#"curl -s -D - -o /dev/null -X OPTIONS http://{}/memories -H "Origin: {page}" -H "Access-Control-Request-Method: GET""#,
        memoric.http
    ));
    let allowed = told.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("access-control-allow-origin").then(|| value.trim().to_owned())
    });
    (told[9..12].parse().unwrap(), allowed.unwrap_or_default())
}
