//! What people write in files, variables and flags, and what they are told.

use std::{fs, path::Path};

use proptest::prelude::*;

use super::*;
use crate::schema::{DatabaseTls, Level, Quota, Registration};

#[test]
fn nothing_is_needed() {
    let settings = load(None, &Environment::default(), &[]).unwrap();
    assert_eq!(settings, Settings::default());
}

#[test]
fn the_shipped_file_has_every_setting_at_its_default() {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/memoric.yaml"));
    let loaded = load_traced(Some(file), &Environment::default(), &[]).unwrap();

    assert_eq!(loaded.settings, Settings::default());
    for (path, _) in Node::defaults().unwrap().leaves() {
        let origin = loaded.origins.of(&path);
        assert!(matches!(origin, Origin::File { .. }), "{path} is not in memoric.yaml");
    }
}

#[test]
fn every_setting_of_the_shipped_file_has_a_comment() {
    let text = include_str!("../../memoric.yaml");
    let mut is_explained = false;
    for line in text.lines() {
        let line = line.trim();
        let is_setting = line.contains(':') && !line.starts_with('#');
        // What stands in a section of two lines is explained above it.
        let is_pair = ["certificate:", "key:", "per_second:", "burst:", "enabled: true"];
        let is_short = is_pair.iter().any(|start| line.starts_with(start));
        assert!(!is_setting || is_explained || is_short, "{line}");
        is_explained = line.starts_with('#');
    }
}

#[test]
fn the_guides_file_is_taken_as_printed() {
    let guide = "# config.yaml\nprivacy:\n  user_isolation: true\n  encrypt_content: true\n\n\
                 observability:\n  logging:\n    enabled: true\n    level: INFO\n\n  \
                 metrics:\n    enabled: true\n";
    assert_eq!(read(guide, &[], &[]).unwrap(), Settings::default());
}

#[test]
fn the_environment_wins_over_the_file_and_a_flag_over_both() {
    let file = "gateway: {limits: {keys: 1}, threads: 1, bounds: {headers: 11}}";
    let settings = read(
        file,
        &[("MEMORIC_GATEWAY__LIMITS__KEYS", "2"), ("MEMORIC_GATEWAY__THREADS", "2")],
        &[("gateway.limits.keys", "3")],
    )
    .unwrap();

    assert_eq!(settings.gateway.limits.keys, 3);
    assert_eq!(settings.gateway.threads, 2);
    assert_eq!(settings.gateway.bounds.headers, 11);
}

#[test]
fn part_of_a_section_leaves_the_rest_at_its_default() {
    let file = "gateway:\n  limits:\n    credentials:\n      burst: 5\nprivacy:\ncors: ~\n";
    let settings = read(file, &[], &[]).unwrap();

    assert_eq!(settings.gateway.limits.credentials, Quota { per_second: 0.5, burst: 5 });
    assert_eq!(settings.privacy, Settings::default().privacy);
}

#[test]
fn every_kind_of_setting_can_be_a_variable() {
    let settings = read(
        "",
        &[
            ("MEMORIC_HTTP", "0.0.0.0:8001"),
            ("MEMORIC_HTTPS", ""),
            ("MEMORIC_GATEWAY_METRICS", "[::1]:9001"),
            ("MEMORIC_BACKEND_METRICS", "127.0.0.1:0"),
            ("MEMORIC_CORS_ORIGINS", "https://yourdomain.com,https://app.yourdomain.com"),
            ("MEMORIC_AUTH__REGISTRATION", "open"),
            ("MEMORIC_DATABASE__NAME", "123"),
            ("MEMORIC_DATABASE__TLS", "off"),
            ("MEMORIC_DATABASE__CA", "/etc/ca.pem"),
            ("MEMORIC_GATEWAY__BACKEND_UID", "1000"),
            ("MEMORIC_GATEWAY__TIMEOUTS__HEAD", "2.5"),
            ("MEMORIC_GATEWAY__LIMITS__ADDRESS__PER_SECOND", "7"),
            ("MEMORIC_OBSERVABILITY__LOGGING__ENABLED", "False"),
            ("MEMORIC_OBSERVABILITY__LOGGING__LEVEL", "critical"),
        ],
        &[],
    )
    .unwrap();

    assert_eq!(settings.gateway.http, Some("0.0.0.0:8001".parse().unwrap()));
    assert_eq!(settings.gateway.https, None);
    assert_eq!(settings.gateway.metrics, "[::1]:9001".parse().unwrap());
    assert_eq!(settings.backend.metrics.port(), 0);
    assert_eq!(settings.cors.origins.len(), 2);
    assert_eq!(settings.auth.registration, Registration::Open);
    assert_eq!(settings.database.name, "123");
    assert_eq!(settings.database.tls, DatabaseTls::Off);
    assert_eq!(settings.database.ca.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(settings.gateway.backend_uid, Some(1000));
    assert_eq!(settings.gateway.timeouts.head.duration().as_millis(), 2500);
    assert!((settings.gateway.limits.address.per_second - 7.0).abs() < f64::EPSILON);
    assert!(!settings.observability.logging.enabled);
    assert_eq!(settings.observability.logging.level, Level::Error);
}

#[test]
fn the_guides_cors_origin_yields_to_the_list() {
    let one = [("CORS_ORIGIN", "https://a.example")];
    let both =
        [("CORS_ORIGIN", "https://a.example"), ("MEMORIC_CORS_ORIGINS", "https://b.example")];

    assert_eq!(read("", &one, &[]).unwrap().cors.origins, ["https://a.example"]);
    assert_eq!(read("", &both, &[]).unwrap().cors.origins, ["https://b.example"]);
}

#[test]
fn a_mistake_in_the_file_is_named_by_line_field_reason_and_nearest_name() {
    for (file, refusal) in [
        (
            "# first\nprivacy:\n  encrypt_contents: true\n",
            ":3: privacy.encrypt_contents: unknown setting, did you mean privacy.encrypt_content?",
        ),
        ("privcy: {}\n", ":1: privcy: unknown setting, did you mean privacy?"),
        (
            "\nencrypt_content: true\n",
            ":2: encrypt_content: unknown setting, did you mean privacy.encrypt_content?",
        ),
        ("storage:\n  tiers: []\n", ":1: storage: unknown setting"),
        ("1: x\n", ":1: 1: unknown setting"),
        (
            "auth:\n  access_token_ttl: soon\n",
            ":2: auth.access_token_ttl: must be a whole number, not text",
        ),
        (
            "auth:\n  access_token_ttl:\n",
            ":2: auth.access_token_ttl: must be a whole number, not empty",
        ),
        (
            "auth:\n  access_token_ttl: 1.5\n",
            ":2: auth.access_token_ttl: must be a whole number, not a decimal number",
        ),
        (
            "auth:\n  access_token_ttl: 59\n",
            ":2: auth.access_token_ttl: must be between 60 and 86400",
        ),
        (
            "auth:\n  session_idle: 3600\n  access_token_ttl: 3601\n",
            ":3: auth.access_token_ttl: must not be greater than auth.session_idle",
        ),
        (
            "auth:\n  session_life: 3600\n  access_token_ttl: 3601\n",
            ":3: auth.access_token_ttl: must not be greater than auth.session_life",
        ),
        (
            "auth:\n  access_token_ttl: -1\n",
            ":2: auth.access_token_ttl: must be a whole number from 0 to 18446744073709551615",
        ),
        ("auth: {registration: perhaps}\n", ":1: auth.registration: must be closed or open"),
        (
            "auth: {registration: true}\n",
            ":1: auth.registration: must be closed or open, not true or false",
        ),
        (
            "database:\n  name: 123\n",
            ":2: database.name: must be text, not a whole number: put it in quotes",
        ),
        ("database:\n  port: 65536\n", ":2: database.port: must be a whole number from 0 to 65535"),
        (
            "audit:\n  spool:\n    known_bytes: 1000\n",
            ":3: audit.spool.known_bytes: must be between 65536 and 1099511627776",
        ),
        ("audit:\n  durability: often\n", ":2: audit.durability: must be group or strict"),
        ("database:\n  port: 0\n", ":2: database.port: must be between 1 and 65535"),
        ("database:\n  tls: no\n", ":2: database.tls: must be off or verify-full"),
        ("database:\n  tls: verify-full\n", ":2: database.tls: verify-full needs database.ca"),
        (
            "database:\n  url: postgresql://a:hunter2@b/c\n",
            ":2: database.url: must have no password in it: that is what MEMORIC_DB_PASSWORD is for",
        ),
        (
            "privacy: {encrypt_content: yes}\n",
            ":1: privacy.encrypt_content: must be true or false, not text",
        ),
        (
            "privacy:\n  user_isolation: false\n",
            ":2: privacy.user_isolation: must be true: false is not yet supported",
        ),
        (
            "privacy:\n  allow_global_scope: true\n",
            ":2: privacy.allow_global_scope: must be false: true is not yet supported",
        ),
        ("gateway: 5\n", ":1: gateway: must be a section of settings, not a whole number"),
        (
            "gateway:\n  http: 8000\n",
            ":2: gateway.http: must be text, not a whole number: put it in quotes",
        ),
        (
            "gateway:\n  http: localhost:8000\n",
            ":2: gateway.http: must be an address and a port, such as 127.0.0.1:8000",
        ),
        (
            "gateway:\n  limits:\n    keys: 0\n",
            ":3: gateway.limits.keys: must be between 1 and 100000000",
        ),
        (
            "gateway:\n  limits:\n    address:\n      per_second: 0\n",
            ":4: gateway.limits.address.per_second: must be between 0.0001 and 1000000",
        ),
        (
            "gateway:\n  timeouts:\n    head: -1\n",
            ":3: gateway.timeouts.head: must be between 0 and 31536000 seconds",
        ),
        (
            "gateway:\n  timeouts:\n    head: 0\n",
            ":3: gateway.timeouts.head: must be longer than 0 seconds",
        ),
        ("cors:\n  origins: https://a.example\n", ":2: cors.origins: must be a list, not text"),
        (
            "cors:\n  origins:\n    - https://a.example\n    - '*'\n",
            ":4: cors.origins[1]: must be an origin: * and null would let anybody in",
        ),
        (
            "cors:\n  origins:\n    - 5\n",
            ":3: cors.origins[0]: must be text, not a whole number: put it in quotes",
        ),
        (
            "redis:\n  url: http://cache\n",
            ":2: redis.url: must be redis://host:port/db, rediss://host:port/db or redis+unix:///path?db=0",
        ),
        (
            "redis:\n  prefix: '{x}'\n",
            ":2: redis.prefix: must be at most 64 visible ASCII characters without braces",
        ),
        (
            "observability:\n  logging:\n    level: LOUD\n",
            ":3: observability.logging.level: must be DEBUG, INFO, WARNING, ERROR, CRITICAL or TRACE",
        ),
    ] {
        assert_eq!(refused(file), refusal, "{file}");
    }
}

#[test]
fn what_is_no_yaml_is_refused_on_one_line_with_its_place() {
    for (file, place) in [
        ("privacy:\n  encrypt_content: true\n encrypt: x\n", ":3: "),
        ("privacy: {\n", ":1: "),
        ("privacy: {}\nprivacy: {}\n", ":2: "),
        ("a: *nowhere\n", ":1: "),
        ("--- {}\n--- {}\n", ":2: "),
        ("privacy: !secret x\n", ":1: "),
        ("- privacy\n", ":1: must be a section of settings, not a list"),
        ("just words\n", ":1: must be a section of settings, not text"),
    ] {
        let refusal = refused(file);
        assert!(refusal.starts_with(place), "{file:?}: {refusal}");
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
    }
}

#[test]
fn anchors_and_merges_are_understood() {
    let file = "gateway:\n  limits:\n    address: &quota {per_second: 9, burst: 9}\n    \
                identity:\n      <<: *quota\n      burst: 8\n";
    let limits = read(file, &[], &[]).unwrap().gateway.limits;

    assert_eq!(limits.address, Quota { per_second: 9.0, burst: 9 });
    assert_eq!(limits.identity, Quota { per_second: 9.0, burst: 8 });
}

#[test]
fn a_file_that_expands_without_end_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert!(refused(&bomb).starts_with(':'));
    assert!(refused(&"[".repeat(100_000)).starts_with(':'));
    assert!(refused(&"a: {".repeat(100_000)).starts_with(':'));
}

#[test]
fn a_mistake_in_the_file_is_one_even_where_a_variable_hides_it() {
    let refusal =
        read("auth: {access_token_ttl: soon}", &[("MEMORIC_AUTH__ACCESS_TOKEN_TTL", "60")], &[]);
    assert!(refusal.unwrap_err().to_string().contains(":1: auth.access_token_ttl"));
}

#[test]
fn a_mistake_in_the_environment_is_named_by_its_variable() {
    for (name, value, refusal) in [
        (
            "MEMORIC_ENCRYPTON_KEY",
            "hunter2",
            "MEMORIC_ENCRYPTON_KEY: unknown variable, did you mean MEMORIC_ENCRYPTION_KEY?",
        ),
        (
            "MEMORIC_GATEWAY__LIMIT__KEYS",
            "5",
            "MEMORIC_GATEWAY__LIMIT__KEYS: unknown variable, did you mean MEMORIC_GATEWAY__LIMITS__KEYS?",
        ),
        (
            "MEMORIC_DATABASE_PORT",
            "5433",
            "MEMORIC_DATABASE_PORT: unknown variable, did you mean MEMORIC_DATABASE__PORT?",
        ),
        ("MEMORIC_WHATEVER_THAT_IS", "", "MEMORIC_WHATEVER_THAT_IS: unknown variable"),
        (
            "MEMORIC_GATEWAY__LIMITS__KEYS",
            "many",
            "MEMORIC_GATEWAY__LIMITS__KEYS: gateway.limits.keys: must be a whole number, not text",
        ),
        (
            "MEMORIC_GATEWAY__LIMITS__KEYS",
            "0",
            "MEMORIC_GATEWAY__LIMITS__KEYS: gateway.limits.keys: must be between 1 and 100000000",
        ),
        (
            "MEMORIC_GATEWAY__TIMEOUTS__HEAD",
            "nan",
            "MEMORIC_GATEWAY__TIMEOUTS__HEAD: gateway.timeouts.head: must be a number, not text",
        ),
        (
            "MEMORIC_HTTP",
            "8000",
            "MEMORIC_HTTP: gateway.http: must be an address and a port, such as 127.0.0.1:8000",
        ),
        (
            "MEMORIC_PRIVACY__ENCRYPT_CONTENT",
            "1",
            "MEMORIC_PRIVACY__ENCRYPT_CONTENT: privacy.encrypt_content: must be true or false",
        ),
        (
            "CORS_ORIGIN",
            "*",
            "CORS_ORIGIN: cors.origins[0]: must be an origin: * and null would let anybody in",
        ),
    ] {
        assert_eq!(read("", &[(name, value)], &[]).unwrap_err().to_string(), refusal);
    }
}

#[test]
fn a_setting_with_two_variables_is_refused() {
    let variables = [("MEMORIC_HTTP", "127.0.0.1:1"), ("MEMORIC_GATEWAY__HTTP", "127.0.0.1:2")];
    let refusal = read("", &variables, &[]).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "MEMORIC_HTTP: sets gateway.http, and so does MEMORIC_GATEWAY__HTTP: set one"
    );

    let variables =
        [("CORS_ORIGIN", ""), ("MEMORIC_CORS_ORIGINS", ""), ("MEMORIC_CORS__ORIGINS", "")];
    assert!(read("", &variables, &[]).is_err());
}

#[test]
fn a_mistake_in_a_flag_is_named_by_the_flag() {
    for (path, value, refusal) in [
        (
            "privacy.encrypt_contents",
            "true",
            "--set privacy.encrypt_contents: unknown setting, did you mean privacy.encrypt_content?",
        ),
        ("gateway", "x", "--set gateway: is a section of settings, did you mean gateway.http?"),
        (
            "gateway.limits.keys",
            "many",
            "--set gateway.limits.keys: must be a whole number, not text",
        ),
        ("gateway.limits.keys", "0", "--set gateway.limits.keys: must be between 1 and 100000000"),
    ] {
        assert_eq!(read("", &[], &[(path, value)]).unwrap_err().to_string(), refusal);
    }
}

#[test]
fn a_flag_is_a_path_and_a_value() {
    assert_eq!(flag("redis.prefix=a=b"), Ok(("redis.prefix".to_owned(), "a=b".to_owned())));
    assert_eq!(flag("gateway.http="), Ok(("gateway.http".to_owned(), String::new())));
    assert!(flag("gateway.http").is_err());
    assert!(flag("=5").is_err());
}

#[test]
fn variables_of_others_and_of_kubernetes_do_not_matter() {
    let variables = [
        ("PATH", "/bin"),
        ("MEMORIC_HOME", "/srv/memoric"),
        ("CREATE_ADMIN", "1"),
        ("MEMORIC_GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("MEMORIC_GATEWAY_PORT", "tcp://10.0.0.1:8000"),
    ];
    assert_eq!(read("", &variables, &[]).unwrap(), Settings::default());
}

#[test]
fn the_file_may_be_named_by_a_variable() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "auth: {access_token_ttl: 60}").unwrap();
    let path = file.path().display().to_string();

    let settings = load(None, &Environment::from_iter([("MEMORIC_CONFIG", path)]), &[]).unwrap();

    assert_eq!(settings.auth.access_token_ttl, 60);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, long) = (folder.path().join("missing.yaml"), folder.path().join("long.yaml"));
    fs::write(&long, "#".repeat(LONGEST as usize + 1)).unwrap();

    for (file, reason) in [
        (missing.as_path(), "could not be read: No such file"),
        (folder.path(), "could not be read: Is a directory"),
        (long.as_path(), "has more than 1048576 bytes"),
    ] {
        let refusal = load(Some(file), &Environment::default(), &[]).unwrap_err().to_string();
        assert!(refusal.starts_with(&format!("{}: {reason}", file.display())), "{refusal}");
    }
}

#[test]
fn a_refusal_of_a_process_is_told_with_its_line() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "gateway:\n  tls:\n    key: /nowhere\n").unwrap();
    let loaded = load_traced(Some(file.path()), &Environment::default(), &[]).unwrap();

    let refusal = loaded.origins.locate(crate::Invalid::new("gateway.tls.key", "is not there"));

    let place = format!("{}:3: gateway.tls.key: is not there", file.path().display());
    assert_eq!(refusal.to_string(), place);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z:\\-\\[\\]{}&*!|>'\"%@`#,? \n\t0-9.<~\\\\]{0,80}") {
        drop(read(&text, &[], &[]));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        drop(load(Some(file.path()), &Environment::default(), &[]));
    }
}

/// The refusal of `file`, from behind the file's name.
fn refused(file: &str) -> String {
    let refusal = read(file, &[], &[]).unwrap_err().to_string();
    let (_, rest) = refusal.split_once("memoric.yaml").unwrap();
    rest.to_owned()
}

fn read(
    text: &str,
    variables: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Settings, ConfigError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memoric.yaml");
    fs::write(&file, text).unwrap();
    let flags: Vec<_> = flags.iter().map(|(p, v)| ((*p).to_owned(), (*v).to_owned())).collect();
    load(Some(&file), &variables.iter().copied().collect(), &flags)
}
