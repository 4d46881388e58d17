//! A process that cannot keep its promises does not start, and says why on one line.

use std::{net::TcpListener, os::unix::fs::PermissionsExt as _, path::Path, process::Output};

use harness::{Deployment, PASSWORD, Recipe, Servers, World, until};
use serde_json::json;

const BOTH: [&str; 2] = ["memoric-backend", "memoric-gateway"];

#[tokio::test]
async fn a_secret_that_is_missing_short_or_a_sample_stops_the_start() {
    let bad = [
        ("MEMORIC_JWT_SECRET", "short"),
        ("MEMORIC_JWT_SECRET", "your-secret-key-here"),
        ("MEMORIC_JWT_SECRET", &"a".repeat(64)),
        ("MEMORIC_JWT_SECRET", &"0123456789abcdef".repeat(4)),
        ("MEMORIC_JWT_SECRET", &"INSECURE_DEV_SECRET_CHANGE_IN_PRODUCTION".repeat(2)),
        ("MEMORIC_JWT_SECRET", ""),
        ("MEMORIC_ASSERTION_KEY", "00"),
        ("MEMORIC_ASSERTION_KEY", &"0".repeat(64)),
        ("MEMORIC_CHECK_KEY", "00"),
        ("MEMORIC_CHECK_KEY", &"0".repeat(64)),
    ];
    let recipe = Recipe::new().await;
    for program in BOTH {
        for (name, value) in bad {
            let refused = recipe.program(program).env(name, value).args(["serve"]).run();
            assert_refused(&refused, &[name], &format!("{program} {name}={value}"));
            assert!(
                value.is_empty() || value == "short" || !told(&refused).contains(value),
                "{program} shows {name}"
            );
        }
    }
    for (name, programs) in [
        ("MEMORIC_JWT_SECRET", &BOTH[..]),
        ("MEMORIC_ASSERTION_KEY", &BOTH[..]),
        ("MEMORIC_CHECK_KEY", &BOTH[..]),
        ("MEMORIC_DB_PASSWORD", &["memoric-backend"]),
    ] {
        let recipe = Recipe::new().await.unset(name);
        for program in programs {
            let refused = recipe.program(program).args(["serve"]).run();
            assert_refused(&refused, &[name], &format!("{program} without {name}"));
        }
    }
}

#[tokio::test]
async fn equal_secrets_are_refused() {
    let recipe = Recipe::new().await;
    let secret = recipe.value("MEMORIC_ASSERTION_KEY").to_owned();
    for program in BOTH {
        let refused =
            recipe.program(program).env("MEMORIC_JWT_SECRET", &secret).args(["serve"]).run();
        assert_refused(&refused, &["MEMORIC_JWT_SECRET", "MEMORIC_ASSERTION_KEY"], program);
        let refused =
            recipe.program(program).env("MEMORIC_CHECK_KEY", &secret).args(["serve"]).run();
        assert_refused(&refused, &["MEMORIC_CHECK_KEY", "MEMORIC_ASSERTION_KEY"], program);
    }
}

#[tokio::test]
async fn a_secret_may_come_from_a_file_and_from_one_place_only() {
    let recipe = Recipe::new().await;
    let file = recipe.folder().join("jwt");
    std::fs::write(&file, format!("{}\n", recipe.value("MEMORIC_JWT_SECRET"))).unwrap();
    let file = file.display().to_string();

    let both = recipe
        .program("memoric-gateway")
        .env("MEMORIC_JWT_SECRET_FILE", &file)
        .args(["serve"])
        .run();
    assert_refused(&both, &["MEMORIC_JWT_SECRET", "MEMORIC_JWT_SECRET_FILE"], "both");
    let memoric =
        recipe.unset("MEMORIC_JWT_SECRET").set("MEMORIC_JWT_SECRET_FILE", &file).start().await;
    assert!(
        reqwest::get(format!("http://{}/ready", memoric.http)).await.unwrap().status().is_success()
    );

    let recipe = Recipe::new().await.unset("MEMORIC_JWT_SECRET");
    let absent = recipe
        .program("memoric-gateway")
        .env("MEMORIC_JWT_SECRET_FILE", "/nowhere/jwt")
        .args(["serve"])
        .run();
    assert_refused(&absent, &["MEMORIC_JWT_SECRET_FILE", "/nowhere/jwt"], "absent");
}

#[tokio::test]
async fn a_password_comes_from_a_file_and_an_impossible_one_makes_nobody() {
    let memoric = Recipe::new().await.start().await;
    let file = memoric.folder().join("password");
    let create = |name: &str, password: &[u8]| {
        std::fs::write(&file, password).unwrap();
        let email = format!("{name}@example.com");
        let path = file.display().to_string();
        let wanted = ["user", "create", "--username", name, "--email", &email, "--role", "user"];
        memoric.program("memoric-backend").args(wanted).args(["--password-file", &path]).run()
    };

    for (name, password) in [
        ("empty", &b""[..]),
        ("blank", b"\n"),
        ("nul", b"correct\0horse-battery\n"),
        ("bytes", b"correct-\xff\xfe-horse\n"),
    ] {
        let refused = create(name, password);
        assert_eq!(refused.status.code(), Some(1), "{name}: {}", told(&refused));
        assert!(!told(&refused).contains("correct"), "{name}: {}", told(&refused));
    }
    assert!(create("alice", format!("{PASSWORD}\n").as_bytes()).status.success());

    let listed = memoric.program("memoric-backend").args(["user", "list"]).run();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.matches("@example.com").count(), 1, "{listed}");
    assert_eq!(log_in(&memoric, "alice").await.0, 200, "the end of the line is not part of it");
}

#[tokio::test]
async fn what_the_operator_takes_away_a_running_gateway_hears_of() {
    let memoric = Recipe::new().await.start().await;
    for name in ["alice", "bob"] {
        let email = format!("{name}@example.com");
        let wanted = ["user", "create", "--username", name, "--email", &email, "--role", "user"];
        let create = memoric.program("memoric-backend").args(wanted).args(["--password-stdin"]);
        assert!(create.input(PASSWORD).run().status.success());
    }
    for (name, command) in [
        ("alice", &["user", "deactivate", "--user", "alice"][..]),
        ("bob", &["user", "set-roles", "--user", "bob", "--role", "readonly"]),
    ] {
        let token = log_in(&memoric, name).await.1;
        let ask = async || {
            let asked = reqwest::Client::new().get(format!("http://{}/memories", memoric.http));
            asked.bearer_auth(&token).send().await.unwrap().status()
        };
        assert_eq!(ask().await, 200, "{name}");

        let done = memoric.program("memoric-backend").args(command.iter().copied()).run();

        assert!(done.status.success(), "{}", told(&done));
        until(&format!("{name} is refused"), async || ask().await == 401).await;
    }
    assert_eq!(log_in(&memoric, "alice").await.0, 401, "she is let in no more");
    assert_eq!(log_in(&memoric, "bob").await.0, 200, "he is, for less");
}

/// The status of the answer, and a token if there is one.
async fn log_in(memoric: &Deployment, name: &str) -> (u16, String) {
    let login = json!({"username": name, "password": PASSWORD});
    let asked = reqwest::Client::new().post(format!("http://{}/auth/login", memoric.http));
    let answer = asked.json(&login).send().await.unwrap();
    let status = answer.status().as_u16();
    let answer: serde_json::Value = answer.json().await.unwrap();
    (status, answer["access_token"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_setting_that_is_unknown_or_impossible_is_named_with_its_line() {
    let recipe = Recipe::new().await;
    let bad = [
        ("privacy:\n  encrypt_contents: true\n", 2, "encrypt_content"),
        ("privacy:\n  encrypt_content: maybe\n", 2, "privacy.encrypt_content"),
        ("\nprivacy:\n  user_isolation: false\n", 3, "not yet"),
        ("privacy:\n  allow_global_scope: true\n", 2, "not yet"),
        ("auth:\n  access_token_ttl: 5\n", 2, "auth.access_token_ttl"),
        ("auth:\n  registration: ajar\n", 2, "auth.registration"),
        ("gateway:\n  limits:\n    keys: 0\n", 3, "gateway.limits.keys"),
        ("audit:\n  spool:\n    known_bytes: 65535\n", 3, "audit.spool.known_bytes"),
        ("audit:\n  strangers:\n    burst: 0\n", 3, "audit.strangers"),
        ("cors:\n  origins: ['*']\n", 2, "cors.origins"),
        ("cors:\n  origins: ['https://a.example/path']\n", 2, "cors.origins"),
        ("obserability:\n  metrics:\n    enabled: true\n", 1, "observability"),
        ("privacy: {encrypt_content: true}\nprivacy: {encrypt_content: false}\n", 2, "privacy"),
        ("privacy: [\n", 1, "config.yaml"),
    ];
    for program in BOTH {
        for (yaml, line, word) in bad {
            let file = recipe.folder().join("config.yaml");
            std::fs::write(&file, yaml).unwrap();
            let refused = recipe
                .program(program)
                .args(["serve", "--config", &file.display().to_string()])
                .run();
            assert_refused(&refused, &[word, "config.yaml:"], &format!("{program}: {yaml}"));
            if !yaml.ends_with("[\n") {
                assert!(
                    told(&refused).contains(&format!("config.yaml:{line}")),
                    "{yaml}: {}",
                    told(&refused)
                );
            }
        }
        let misspelt =
            recipe.program(program).env("MEMORIC_ENCRYPTON_KEY", "x").args(["serve"]).run();
        assert_refused(
            &misspelt,
            &["MEMORIC_ENCRYPTON_KEY", "MEMORIC_ENCRYPTION_KEY"],
            "a misspelt variable",
        );
        let flag =
            recipe.program(program).args(["serve", "--set", "auth.acces_token_ttl=60"]).run();
        assert_refused(&flag, &["auth.access_token_ttl"], "a misspelt flag");
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_stops_the_gateway() {
    let recipe = Recipe::new().await;
    let other = Recipe::new().await;
    let (key, other_key) = (
        recipe.value("MEMORIC_GATEWAY__TLS__KEY").to_owned(),
        other.value("MEMORIC_GATEWAY__TLS__KEY"),
    );
    let garbage = recipe.folder().join("garbage.pem");
    std::fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .unwrap();
    let garbage = garbage.display().to_string();

    for (name, value) in [
        ("MEMORIC_GATEWAY__TLS__CERTIFICATE", "/nowhere/certificate.pem"),
        ("MEMORIC_GATEWAY__TLS__CERTIFICATE", &garbage),
        ("MEMORIC_GATEWAY__TLS__CERTIFICATE", &key),
        ("MEMORIC_GATEWAY__TLS__KEY", "/nowhere/key.pem"),
        ("MEMORIC_GATEWAY__TLS__KEY", other_key),
    ] {
        let refused = recipe.program("memoric-gateway").env(name, value).args(["serve"]).run();
        assert_refused(&refused, &[value], &format!("{name}={value}"));
    }
}

#[tokio::test]
async fn a_port_that_is_taken_stops_the_start() {
    let recipe = Recipe::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();

    for (program, name) in [
        ("memoric-gateway", "MEMORIC_HTTP"),
        ("memoric-gateway", "MEMORIC_HTTPS"),
        ("memoric-gateway", "MEMORIC_GATEWAY_METRICS"),
        ("memoric-backend", "MEMORIC_BACKEND_METRICS"),
    ] {
        let refused = recipe.program(program).env(name, &address).args(["serve"]).run();
        assert_refused(&refused, &[&address], &format!("{program} {name}"));
    }
}

#[tokio::test]
async fn a_database_that_is_away_unmigrated_or_too_new_stops_the_backend() {
    let recipe = Recipe::new().await;
    let away = recipe
        .program("memoric-backend")
        .env("MEMORIC_DATABASE__HOST", "/nowhere")
        .args(["serve"])
        .run();
    assert_refused(&away, &["database"], "away");
    let wrong = recipe
        .program("memoric-backend")
        .env("MEMORIC_DB_PASSWORD", "another password than that")
        .args(["serve"])
        .run();
    assert_refused(&wrong, &["memoric_"], "another password");

    let servers = Servers::get().await;
    let empty = Recipe::on(servers, servers.empty_database().await);
    assert_refused(
        &empty.program("memoric-backend").args(["serve"]).run(),
        &["memoric-backend migrate"],
        "unmigrated",
    );

    let superuser = servers.superuser(recipe.value("MEMORIC_DATABASE__NAME")).await;
    superuser.batch_execute(TOO_NEW).await.unwrap();
    assert_refused(
        &recipe.program("memoric-backend").args(["serve"]).run(),
        &["schema"],
        "too new",
    );
}

#[tokio::test]
async fn a_wrong_but_valid_encryption_key_is_told_from_the_right_one() {
    let recipe = Recipe::new().await;
    let database = recipe.value("MEMORIC_DATABASE__NAME").to_owned();
    let memoric = recipe.start().await;
    drop(memoric);

    let other = "q0w9e8r7t6y5u4i3o2p1a0s9d8f7g6h5j4k3l2z1x0c=";
    let recipe = Recipe::on(Servers::get().await, database).set("MEMORIC_ENCRYPTION_KEY", other);
    let refused = recipe.program("memoric-backend").args(["serve"]).run();

    assert_refused(&refused, &["MEMORIC_ENCRYPTION_KEY"], "another key");
    assert!(!told(&refused).contains(other));
}

#[tokio::test]
async fn content_is_sealed_for_good_or_not_at_all() {
    for (first, then) in [("true", "false"), ("false", "true")] {
        let recipe = Recipe::new().await.set("MEMORIC_PRIVACY__ENCRYPT_CONTENT", first);
        let database = recipe.value("MEMORIC_DATABASE__NAME").to_owned();
        drop(recipe.start().await);

        let flipped = Recipe::on(Servers::get().await, database.clone())
            .set("MEMORIC_PRIVACY__ENCRYPT_CONTENT", then);
        let backend = |command| flipped.program("memoric-backend").args([command]).run();

        let reason = format!("privacy.encrypt_content: must be {first}");
        assert_refused(&backend("serve"), &[&reason], then);
        let checked = backend("check");
        assert!(!checked.status.success());
        assert!(String::from_utf8_lossy(&checked.stdout).contains(&reason), "{then}");
        let as_before = Recipe::on(Servers::get().await, database)
            .set("MEMORIC_PRIVACY__ENCRYPT_CONTENT", first);
        drop(as_before.start().await);
    }
}

#[tokio::test]
async fn a_key_that_is_generated_is_kept_and_its_loss_is_noticed() {
    let recipe = Recipe::new().await.unset("MEMORIC_ENCRYPTION_KEY");
    let file = recipe.folder().join("encryption.key");
    let recipe = recipe.set("MEMORIC_ENCRYPTION__GENERATED_KEY", &file.display().to_string());
    let database = recipe.value("MEMORIC_DATABASE__NAME").to_owned();
    let memoric = recipe.start().await;
    assert_eq!(mode(&file), 0o600);
    let kept = std::fs::read(&file).unwrap();
    drop(memoric.backend);
    drop(memoric.gateway);

    let elsewhere = Recipe::on(Servers::get().await, database).unset("MEMORIC_ENCRYPTION_KEY");
    let lost = elsewhere.folder().join("encryption.key");
    let elsewhere = elsewhere.set("MEMORIC_ENCRYPTION__GENERATED_KEY", &lost.display().to_string());
    assert_refused(&elsewhere.program("memoric-backend").args(["serve"]).run(), &["key"], "lost");
    std::fs::write(&lost, kept).unwrap();
    elsewhere.start().await;
}

#[tokio::test]
async fn the_channel_is_a_socket_or_loopback_and_nothing_else() {
    let recipe = Recipe::new().await;
    for (program, name, value) in [
        ("memoric-backend", "MEMORIC_BACKEND__LISTEN", "0.0.0.0:8801"),
        ("memoric-backend", "MEMORIC_BACKEND__LISTEN", "192.0.2.1:8801"),
        ("memoric-gateway", "MEMORIC_GATEWAY__BACKEND", "http://192.0.2.1:8801"),
        ("memoric-gateway", "MEMORIC_GATEWAY__BACKEND", "http://backend.example:8801"),
    ] {
        let refused = recipe.program(program).env(name, value).args(["serve"]).run();
        assert_refused(
            &refused,
            &[if program == "memoric-backend" { "backend.listen" } else { "gateway.backend" }],
            value,
        );
    }
}

#[tokio::test]
async fn check_shows_every_setting_and_no_secret() {
    let recipe = Recipe::new().await;
    let memoric = recipe.start().await;
    for program in BOTH {
        let checked = memoric.program(program).args(["check"]).run();
        let shown = format!("{}{}", String::from_utf8_lossy(&checked.stdout), told(&checked));
        assert!(checked.status.success(), "{program}: {shown}");
        assert!(shown.contains("auth.access_token_ttl = 3600"), "{shown}");
        for secret in [
            harness::JWT_SECRET,
            harness::ASSERTION_SECRET,
            harness::CHECK_SECRET,
            harness::ENCRYPTION_KEY,
            harness::DATABASE_PASSWORD,
        ] {
            assert!(!shown.contains(secret), "{program} shows a secret");
        }
    }
    let alone = Recipe::new().await;
    let checked = alone.program("memoric-gateway").args(["check"]).run();
    assert!(!checked.status.success(), "a backend that is away is a finding");
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(told.contains("spool: ok") && !alone.folder().join("spool").exists(), "{told}");
}

#[tokio::test]
async fn a_gateway_that_could_write_nothing_down_does_not_start() {
    let recipe = Recipe::new().await.set("MEMORIC_AUDIT__SPOOL__FOLDER", "/dev/null/spool");

    let refused = recipe.program("memoric-gateway").args(["serve"]).run();
    let checked = recipe.program("memoric-gateway").args(["check"]).run();

    assert_refused(&refused, &["audit.spool.folder", "/dev/null/spool"], "no folder");
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(told.contains("spool: the spool in /dev/null/spool cannot be used"), "{told}");
}

#[tokio::test]
async fn whoever_took_the_name_of_the_first_admin_is_not_taken_for_them() {
    let recipe = Recipe::new()
        .await
        .set("ADMIN_USERNAME", "boss")
        .set("ADMIN_PASSWORD", "secure_password_123")
        .set("ADMIN_EMAIL", "boss@example.com");
    let backend = |words: &[&'static str]| {
        recipe.program("memoric-backend").env("CREATE_ADMIN", "true").args(words.to_vec()).run()
    };
    let stranger = ["user", "create", "--username", "boss", "--email", "x@example.com", "--role"];
    let made = recipe
        .program("memoric-backend")
        .args(stranger.into_iter().chain(["user", "--password-stdin"]))
        .input("a password of theirs")
        .run();
    assert!(made.status.success(), "{}", told(&made));

    for (change, lack) in
        [(None, "boss is there already, and is no admin"), (Some("deactivate"), "is no admin")]
    {
        if let Some(change) = change {
            assert!(backend(&["user", change, "--user", "boss"]).status.success());
        }
        for command in ["serve", "migrate"] {
            assert_refused(&backend(&[command]), &["ADMIN_USERNAME", lack], command);
        }
    }
    let promoted = backend(&["user", "set-roles", "--user", "boss", "--role", "admin"]);
    assert!(promoted.status.success(), "{}", told(&promoted));
    assert_refused(&backend(&["serve"]), &["ADMIN_USERNAME", "is not active"], "inactive");
    assert!(backend(&["user", "activate", "--user", "boss"]).status.success());

    let migrated = backend(&["migrate"]);
    let said = String::from_utf8_lossy(&migrated.stdout);
    assert!(migrated.status.success(), "{}", told(&migrated));
    assert!(said.contains("boss (admin) is there already"), "{said}");
}

#[tokio::test]
async fn a_command_at_the_console_leaves_no_key_that_lasts() {
    let recipe = Recipe::new().await;

    for _ in 0..2 {
        let listed = recipe.program("memoric-backend").args(["user", "list"]).run();
        assert!(listed.status.success(), "{}", told(&listed));
    }

    let superuser = Servers::get().await.superuser(recipe.value("MEMORIC_DATABASE__NAME")).await;
    let lasting = "SELECT count(*), count(*) FILTER (WHERE expires_at > now() + interval '15 minutes') FROM sec.key";
    let keys = superuser.query_one(lasting, &[]).await.unwrap();
    assert_eq!((keys.get::<_, i64>(0), keys.get::<_, i64>(1)), (2, 0));
}

#[tokio::test]
async fn a_redis_that_is_away_degrades_and_does_not_stop() {
    let world = World::with(|settings| {
        settings.redis.url = "redis+unix:///tmp/nowhere/redis.sock".to_owned()
    })
    .start()
    .await;
    let alice = world.register("alice").await;

    world.remember(&alice, json!({"content": "x"})).await;

    assert_eq!(world.contents(&alice).await, ["x"]);
    until("it is degraded", async || {
        let answer = world.ask(reqwest::Method::GET, "/ready").send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["status"] == "degraded"
    })
    .await;
}

fn assert_refused(output: &Output, words: &[&str], case: &str) {
    let told = told(output);
    assert_eq!(output.status.code(), Some(1), "{case}: {told}");
    assert_eq!(told.trim_end().lines().count(), 1, "one line: {case}: {told}");
    for word in words {
        assert!(told.contains(word), "{case}: {word:?} is not in {told}");
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

/// As a release would leave it that this one cannot serve.
const TOO_NEW: &str = "UPDATE memoric.migrations SET compatible_from = 1000000";
