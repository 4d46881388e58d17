use jsonwebtoken::EncodingKey;
use serde_json::json;

use super::*;
use crate::token::TokenKey;

#[test]
fn a_token_is_its_issuers_by_the_key_it_names_or_nobodys() {
    let (issuer, other) = (Issuer::new("one"), Issuer::new("two"));
    let token = issuer.mint(&claims());

    let foreign = issuer.keys().verify(&token, WANTED, NOW).unwrap();

    assert_eq!((foreign.issuer.as_deref(), foreign.subject.as_str()), (Some(ISSUER_URL), "s-1"));
    assert_eq!(foreign.roles, [Role::User].into_iter().collect());
    assert_eq!(Minter::of(&token), Ok(Minter::Other(ISSUER_URL.to_owned())));
    assert_eq!(other.keys().verify(&token, WANTED, NOW), Err(TokenError::UnknownKey));
    let same_name = Issuer { kid: "one", ..other };
    assert_eq!(same_name.keys().verify(&token, WANTED, NOW), Err(TokenError::Forged));
    let elsewhere = ("https://other.example", WANTED.1);
    assert!(issuer.keys().verify(&token, elsewhere, NOW).is_err(), "minted by somebody else");
}

#[test]
fn a_header_chooses_nothing() {
    let issuer = Issuer::new("one");
    let with = |name: &str, value: Value| {
        let mut header = json!({"alg": "EdDSA", "kid": "one", "typ": "at+jwt"});
        header[name] = value;
        issuer.sign(&header.to_string(), &claims().to_string())
    };
    assert!(issuer.keys().verify(&with("x5t", json!("of no use")), WANTED, NOW).is_ok());
    let hostile = [
        with("alg", json!("none")),
        with("alg", json!("HS256")),
        with("alg", json!("ES256")),
        with("alg", json!(["EdDSA"])),
        with("kid", json!("")),
        with("kid", json!(1)),
        with("typ", json!("dpop+jwt")),
        with("typ", json!("logout+jwt")),
        with("crit", json!(["exp"])),
        with("b64", json!(false)),
        with("jwk", issuer.jwk()),
        with("jku", json!("https://evil.example")),
        with("x5u", json!("https://evil.example")),
        with("x5c", json!(["MIIB"])),
        with("zip", json!("DEF")),
        with("enc", json!("A256GCM")),
        issuer.sign(r#"{"alg":"EdDSA","alg":"EdDSA","kid":"one"}"#, &claims().to_string()),
        issuer.sign(r#"{"alg":"EdDSA","kid":"one","kid":"one"}"#, &claims().to_string()),
    ];
    let nothing = ["crit", "b64", "jwk", "jku", "x5u", "x5c", "zip", "enc"]
        .map(|name| with(name, Value::Null));
    for token in hostile.into_iter().chain(nothing) {
        assert!(issuer.keys().verify(&token, WANTED, NOW).is_err(), "{token}");
    }
}

#[test]
fn claims_are_of_this_issuer_for_us_and_now() {
    let issuer = Issuer::new("one");
    let judged = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        issuer.keys().verify(&issuer.mint(&claims), WANTED, NOW)
    };
    assert!(judged("aud", json!(["other", "memoric"])).is_ok());
    assert!(judged("roles", json!("admin")).is_ok_and(|foreign| foreign.roles == Roles::default()));
    assert_eq!(judged("exp", json!(NOW)), Err(TokenError::Ended));
    assert_eq!(judged("nbf", json!(NOW + 6)), Err(TokenError::Early));
    for (name, value) in [
        ("iss", json!("https://issuer.example/")),
        ("iss", json!([ISSUER_URL])),
        ("aud", json!("other")),
        ("aud", json!([])),
        ("aud", json!({"memoric": 1})),
        ("sub", json!("")),
        ("sub", json!(1)),
        ("sub", json!("x".repeat(256))),
        ("sub", json!("a\u{0}b")),
        ("exp", json!(NOW + MAX_LIFETIME + 1)),
        ("exp", json!(u64::MAX)),
        ("exp", json!(NOW as f64 + 60.5)),
        ("exp", Value::Null),
        ("iat", json!(NOW + 6)),
    ] {
        assert!(judged(name, value.clone()).is_err(), "{name}: {value}");
    }
}

#[test]
fn of_a_set_of_keys_only_what_is_for_signing_is_taken() {
    let issuer = Issuer::new("one");
    let taken = |change: &dyn Fn(&mut Value)| {
        let mut jwk = issuer.jwk();
        change(&mut jwk);
        let other = Issuer::new("two").jwk();
        let set = json!({"keys": [{"kty": "oct", "kid": "secret", "k": "AAAA"}, jwk, 1, other]});
        let keys = IssuerKeys::read(set.to_string().as_bytes(), &[IssuerAlgorithm::EdDsa]);
        keys.unwrap().keys.len() - 1
    };
    assert_eq!(taken(&|_| ()), 1);
    assert_eq!(taken(&|jwk| jwk["use"] = json!("enc")), 0);
    assert_eq!(taken(&|jwk| jwk["alg"] = json!("RS256")), 0);
    assert_eq!(
        taken(&|jwk| jwk["d"] = json!("AAAA")),
        0,
        "a private key that is told to everybody"
    );
    assert_eq!(taken(&|jwk| jwk["x"] = json!("AAAA")), 0);
    let twice = json!({"keys": [issuer.jwk(), issuer.jwk()]}).to_string();
    assert!(IssuerKeys::read(twice.as_bytes(), &[IssuerAlgorithm::EdDsa]).is_none());
    let set = json!({"keys": [issuer.jwk()]}).to_string();
    let others = IssuerKeys::read(set.as_bytes(), &[IssuerAlgorithm::Rs256]);
    assert!(others.is_none(), "an algorithm that the operator does not want");
    assert!(IssuerKeys::read(br#"{"keys": []}"#, &[IssuerAlgorithm::EdDsa]).is_none());
    assert!(IssuerKeys::read(b"{}", &[IssuerAlgorithm::EdDsa]).is_none());
}

#[test]
fn of_foreign_tokens_only_those_are_opened_that_the_key_signed() {
    #[derive(Deserialize)]
    struct Vectors {
        groups: Vec<Group>,
    }
    #[derive(Deserialize)]
    struct Group {
        key: Value,
        tests: Vec<Vector>,
    }
    #[derive(Deserialize)]
    struct Vector {
        id: u32,
        comment: String,
        jws: String,
        result: String,
    }
    let vectors: Vectors = serde_json::from_str(include_str!("wycheproof.json")).unwrap();
    let all = [IssuerAlgorithm::Rs256, IssuerAlgorithm::Es256, IssuerAlgorithm::EdDsa];
    let (mut opened, mut refused) = (0, 0);
    for Group { key, tests } in vectors.groups {
        let set = json!({"keys": [key]}).to_string();
        let keys = IssuerKeys::read(set.as_bytes(), &all);
        for Vector { id, comment, jws, result } in tests {
            let is_open = keys.as_ref().is_some_and(|keys| keys.open(&jws).is_ok());
            let is_good = result == "valid" && !STRICTER.contains(&id);
            assert_eq!(is_open, is_good, "{id}: {comment}");
            *(if is_open { &mut opened } else { &mut refused }) += 1;
        }
    }
    assert!(opened > 5 && refused > 200, "{opened} and {refused}");
}

#[test]
fn a_token_of_the_python_server_says_what_that_said_and_no_more() {
    let ring = TokenKeys::hs256(&[b's'; 64]);
    let header = json!({"alg": "HS256", "typ": "JWT"}).to_string();
    let claims = json!({"sub": "3", "roles": ["admin", "user"], "namespace": null,
                        "iat": NOW, "exp": NOW + 3600, "jti": format!("3_{NOW}")});
    let judged = |header: &str, claims: &Value, secret: &[u8]| {
        let key = EncodingKey::from_secret(secret);
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims.to_string()));
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        ring.verify_legacy(&format!("{message}.{signature}"), NOW)
    };
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        claims
    };

    let foreign = judged(&header, &claims, &[b's'; 64]).unwrap();

    assert_eq!((foreign.issuer, foreign.subject.as_str()), (None, "3"));
    assert_eq!(judged(&header, &claims, &[b'x'; 64]), Err(TokenError::Forged));
    let kid = TokenKey::hs256(&[b's'; 64]).kid().to_owned();
    for header in
        [json!({"alg": "none", "typ": "JWT"}), json!({"alg": "HS256", "typ": "JWT", "kid": kid})]
    {
        assert!(judged(&header.to_string(), &claims, &[b's'; 64]).is_err(), "{header}");
    }
    for (name, value) in [
        ("sub", json!("")),
        ("sub", json!("4")),
        ("iss", json!("memoric")),
        ("sid", json!("x")),
        ("gen", json!(1)),
        ("aud", json!("x")),
        ("jti", json!("x")),
        ("iat", json!(NOW + 6)),
        ("exp", json!(NOW)),
        ("exp", json!(NOW + MAX_LIFETIME + 1)),
        ("exp", json!(1.9e9)),
        ("exp", Value::Null),
    ] {
        assert!(
            judged(&header, &with(name, value.clone()), &[b's'; 64]).is_err(),
            "{name} {value}"
        );
    }
}

#[test]
fn what_was_minted_before_all_of_a_users_ended_ended_with_it() {
    let issuer = Issuer::new("one");
    let linked = |ended_at| Linked {
        user: UserId(3),
        roles: Roles::default(),
        namespace: None,
        generation: 1,
        ended_at,
    };
    let admits = |issued_at: Value, ended_at| {
        let mut claims = claims();
        claims["iat"] = issued_at;
        let foreign = issuer.keys().verify(&issuer.mint(&claims), WANTED, NOW).unwrap();
        linked(ended_at).admits(&foreign)
    };

    assert!(admits(json!(NOW), Some(NOW - LEEWAY - 1)));
    assert!(!admits(json!(NOW), Some(NOW - LEEWAY)), "by a clock that is ahead");
    assert!(!admits(json!(NOW), Some(NOW)), "perhaps minted before, in the same second");
    assert!(!admits(json!(NOW - 1), Some(NOW)));
    assert!(!admits(Value::Null, Some(1)), "it does not say when");
    assert!(admits(Value::Null, None) && admits(json!(0), None), "nothing ever ended");
}

/// An issuer with one Ed25519 key.
struct Issuer {
    kid: &'static str,
    seed: u8,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self { kid, seed: kid.len() as u8 + kid.as_bytes()[0] }
    }

    fn pkcs8(&self) -> Vec<u8> {
        let mut der = hex::decode("302e020100300506032b657004220420").unwrap();
        der.extend([self.seed; 32]);
        der
    }

    fn jwk(&self) -> Value {
        let key = EncodingKey::from_ed_der(&self.pkcs8());
        let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.kid);
        jwk
    }

    fn keys(&self) -> IssuerKeys {
        let set = json!({"keys": [self.jwk()]}).to_string();
        IssuerKeys::read(set.as_bytes(), &[IssuerAlgorithm::EdDsa]).unwrap()
    }

    fn mint(&self, claims: &Value) -> String {
        let header = json!({"alg": "EdDSA", "kid": self.kid, "typ": "JWT"});
        self.sign(&header.to_string(), &claims.to_string())
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let key = EncodingKey::from_ed_der(&self.pkcs8());
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::EdDSA).unwrap();
        format!("{message}.{signature}")
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER_URL, "sub": "s-1", "aud": "memoric", "exp": NOW + 600, "iat": NOW,
           "roles": ["user", "someone elses"]})
}

const ISSUER_URL: &str = "https://issuer.example";
const WANTED: (&str, &str) = (ISSUER_URL, "memoric");
const NOW: u64 = 1_800_000_000;

/// Vectors that are called valid, and that we refuse.
const STRICTER: [u32; 0] = [];
