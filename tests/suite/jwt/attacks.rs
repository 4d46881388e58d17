//! Tokens that nobody was given, each a way in somewhere else once.

use super::*;

/// A token, or something that is to be taken for one, and what it tries.
type Attack = (&'static str, String);

/// Everything a forger may have: a live token of their own, and both public halves of the ring.
struct Forger {
    own: Person,
    pair: Pair,
    claims: Value,
    kid: String,
}

#[tokio::test]
async fn no_token_that_was_not_given_out_gets_in() {
    let pair = Pair::new();
    let world = with_keys(vec![pair.setting(false)]).await;
    let forger = Forger::new(world.register("mallory").await, pair);
    let ask = async |token: &str| {
        let request = world.ask(Method::GET, "/auth/me");
        // What cannot be put into a header is refused before anybody could look at it.
        let Ok(request) = request.header("authorization", format!("Bearer {token}")).build() else {
            return None;
        };
        Some(world.client.execute(request).await.unwrap())
    };

    for (why, good) in forger.controls() {
        let answer = ask(&good).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{why} would be believed, signed by us");
    }
    let attacks = [forger.headers(), forger.keys(), forger.payloads(), forger.spellings()];
    for (why, token) in attacks.concat() {
        let Some(answer) = ask(&token).await else { continue };
        let status = answer.status();
        let challenge = answer.headers().get("www-authenticate").cloned();
        let body = answer.text().await.unwrap();
        // A head beyond all bounds is refused as one.
        if token.len() > 15_000 {
            assert!(status.is_client_error(), "{why}: {status}");
            continue;
        }
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{why}: {body}");
        let challenge = challenge.unwrap();
        assert!(challenge.to_str().unwrap().contains(r#"error="invalid_token""#), "{why}");
    }
    let answer = ask(&forger.own.token).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "and the token that was given out still does");
}

impl Forger {
    fn new(own: Person, pair: Pair) -> Self {
        let claims = claims_of(&own);
        let kid = TokenKey::hs256(JWT_SECRET.as_bytes()).kid().to_owned();
        Self { own, pair, claims, kid }
    }

    /// What these tests make is what we would make: with it, only the signature is missing.
    fn controls(&self) -> Vec<Attack> {
        let (hs, ed) = (self.header("HS256", &self.kid), self.header("EdDSA", &self.pair.kid()));
        let claims = self.claims.to_string();
        vec![("HS256", self.hs256(&hs, &claims)), ("EdDSA", self.eddsa(&ed, &claims))]
    }

    /// Headers that say how they would like to be verified. The signature is good every time.
    fn headers(&self) -> Vec<Attack> {
        let (kid, claims) = (&self.kid, self.claims.to_string());
        let jwk = json!({"kty": "oct", "alg": "HS256", "k": BASE64.encode(JWT_SECRET)});
        let own = json!({"kty": "OKP", "crv": "Ed25519", "x": BASE64.encode(self.pair.public())});
        let with = |name: &str, value: Value| {
            json!({"alg": "HS256", "typ": "JWT", "kid": kid, name: value}).to_string()
        };
        let headers = [
            ("alg none", self.header("none", kid)),
            ("alg None", self.header("None", kid)),
            ("alg NONE", self.header("NONE", kid)),
            ("alg nOnE", self.header("nOnE", kid)),
            ("no alg in particular", self.header("", kid)),
            ("alg in another case", self.header("hs256", kid)),
            ("alg with a space", self.header("HS256 ", kid)),
            ("alg with a nul", self.header("HS256\0", kid)),
            ("a longer HMAC", self.header("HS512", kid)),
            ("RSA", self.header("RS256", kid)),
            ("ECDSA, psychic or not", self.header("ES256", kid)),
            ("RSA-PSS", self.header("PS256", kid)),
            ("EdDSA for a secret", self.header("EdDSA", kid)),
            ("no alg", json!({"typ": "JWT", "kid": kid}).to_string()),
            ("alg null", json!({"alg": null, "kid": kid}).to_string()),
            ("a list of algs", json!({"alg": ["HS256"], "kid": kid}).to_string()),
            ("no kid", json!({"alg": "HS256", "typ": "JWT"}).to_string()),
            ("kid null", json!({"alg": "HS256", "kid": null}).to_string()),
            ("kid a list", json!({"alg": "HS256", "kid": [kid]}).to_string()),
            ("kid empty", self.header("HS256", "")),
            ("kid a path", self.header("HS256", "../../../../dev/null")),
            ("kid a file", self.header("HS256", "/proc/sys/kernel/randomize_va_space")),
            ("kid SQL", self.header("HS256", "x' UNION SELECT 'key'--")),
            ("kid a command", self.header("HS256", "key | sleep 5")),
            ("kid a URL", self.header("HS256", "https://evil.example/key")),
            ("kid with a nul", self.header("HS256", &format!("{kid}\0"))),
            ("kid in another case", self.header("HS256", &kid.to_uppercase())),
            ("kid of the other key", self.header("HS256", &self.pair.kid())),
            ("a key of its own", with("jwk", jwk)),
            ("a public key of its own", with("jwk", own)),
            ("a set of keys elsewhere", with("jku", json!("https://evil.example/jwks.json"))),
            ("a certificate of its own", with("x5c", json!(["MIIB"]))),
            ("a certificate elsewhere", with("x5u", json!("https://evil.example/x.pem"))),
            ("a thumbprint", with("x5t", json!("AAAA"))),
            ("a critical extension", with("crit", json!(["exp"]))),
            ("an empty list of those", with("crit", json!([]))),
            ("a payload that is not encoded", with("b64", json!(false))),
            (
                "the same, critical",
                json!({"alg": "HS256", "kid": kid, "b64": false, "crit": ["b64"]}).to_string(),
            ),
            ("a payload that is packed", with("zip", json!("DEF"))),
            ("encryption", json!({"alg": "dir", "enc": "A256GCM", "kid": kid}).to_string()),
            ("another type", with("typ", json!("dpop+jwt"))),
            ("an access token of another kind", with("typ", json!("at+jwt"))),
            ("a token inside", with("cty", json!("JWT"))),
            ("claims in the header", with("exp", json!(4_000_000_000_u64))),
            ("alg twice, bad first", format!(r#"{{"alg":"none","alg":"HS256","kid":"{kid}"}}"#)),
            ("alg twice, bad last", format!(r#"{{"alg":"HS256","alg":"none","kid":"{kid}"}}"#)),
            ("kid twice", format!(r#"{{"alg":"HS256","kid":"x","kid":"{kid}"}}"#)),
            (
                "alg escaped and again",
                format!(r#"{{"alg":"HS256","\u0061lg":"none","kid":"{kid}"}}"#),
            ),
            ("bytes behind it", format!("{}x", self.header("HS256", kid))),
            ("another object behind it", format!("{0}{0}", self.header("HS256", kid))),
            ("a byte-order mark", format!("\u{feff}{}", self.header("HS256", kid))),
            ("a list", "[]".to_owned()),
            ("a text", r#""HS256""#.to_owned()),
            ("nothing", String::new()),
            ("deep", "[".repeat(1000)),
        ];
        headers.map(|(why, header)| (why, self.hs256(&header, &claims))).to_vec()
    }

    /// Keys that a stranger has, or can guess.
    fn keys(&self) -> Vec<Attack> {
        let claims = self.claims.to_string();
        let (hs, ed) = (self.header("HS256", &self.kid), self.header("EdDSA", &self.pair.kid()));
        let confused = self.header("HS256", &self.pair.kid());
        let (public, stranger) = (self.pair.public(), Pair::new());
        let spki = self.pair.key.subject_public_key_info();
        let pem = self.pair.key.public_key_pem();
        let hmac_by = |header: &str, key: &[u8]| self.made(header, &claims, |m| hmac(key, m));
        let identity = [&[1][..], &[0; 63]].concat();
        vec![
            ("no signature", self.made(&hs, &claims, |_| Vec::new())),
            ("no signature, by alg none", self.made(&self.header("none", ""), &claims, |_| vec![])),
            ("an empty secret", hmac_by(&hs, b"")),
            ("a secret of zeros", hmac_by(&hs, &[0; 64])),
            ("the secret of every tutorial", hmac_by(&hs, b"secret")),
            ("the sample secret of the guide", hmac_by(&hs, b"your-secret-key-here")),
            ("its own kid as a secret", hmac_by(&hs, self.kid.as_bytes())),
            ("the public key as a secret", hmac_by(&confused, &public)),
            ("the public key in DER as a secret", hmac_by(&confused, &spki)),
            ("the public key in PEM as a secret", hmac_by(&confused, pem.as_bytes())),
            ("the same less its newline", hmac_by(&confused, pem.trim_end().as_bytes())),
            (
                "the public key in base64 as a secret",
                hmac_by(&confused, BASE64.encode(public).as_bytes()),
            ),
            ("the same, called EdDSA", hmac_by(&ed, &public)),
            ("the same, called by the other kid", hmac_by(&hs, &public)),
            (
                "half a signature",
                self.made(&hs, &claims, |m| hmac(JWT_SECRET.as_bytes(), m)[..16].to_vec()),
            ),
            (
                "one byte of it",
                self.made(&hs, &claims, |m| hmac(JWT_SECRET.as_bytes(), m)[..1].to_vec()),
            ),
            (
                "a signature and more",
                self.made(&hs, &claims, |m| [hmac(JWT_SECRET.as_bytes(), m), vec![0]].concat()),
            ),
            ("a signature of zeros", self.made(&ed, &claims, |_| vec![0; 64])),
            ("the identity as a signature", self.made(&ed, &claims, |_| identity.clone())),
            (
                "a stranger's key",
                self.made(&ed, &claims, |m| stranger.key.sign(m.as_bytes()).unwrap()),
            ),
            (
                "a stranger's key by its own kid",
                self.made(&self.header("EdDSA", &stranger.kid()), &claims, |m| {
                    stranger.key.sign(m.as_bytes()).unwrap()
                }),
            ),
            (
                "a signature with S beyond the order",
                self.made(&ed, &claims, |m| malleable(&self.pair.key.sign(m.as_bytes()).unwrap())),
            ),
            ("one's own signature over other claims", self.regrafted()),
        ]
    }

    /// Claims that are not ours, under a signature that is.
    fn payloads(&self) -> Vec<Attack> {
        let with = |name: &str, value: Value| {
            let mut claims = self.claims.clone();
            claims[name] = value;
            claims.to_string()
        };
        let without = |name: &str| {
            let mut claims = self.claims.clone();
            claims.as_object_mut().unwrap().remove(name);
            claims.to_string()
        };
        let raw = |name: &str, value: &str| with(name, json!("@")).replace(r#""@""#, value);
        let twice =
            |member: &str| self.claims.to_string().replacen('{', &format!("{{{member},"), 1);
        let now = now();
        let payloads = [
            ("no exp", without("exp")),
            ("no sub", without("sub")),
            ("no sid", without("sid")),
            ("no jti", without("jti")),
            ("no gen", without("gen")),
            ("no iss", without("iss")),
            ("no iat", without("iat")),
            ("exp null", with("exp", Value::Null)),
            ("exp a text", with("exp", json!((now + 60).to_string()))),
            ("exp with a fraction", raw("exp", &format!("{}.5", now + 60))),
            ("exp in powers of ten", raw("exp", "9e9")),
            ("exp negative", raw("exp", "-1")),
            ("exp 2^53", raw("exp", "9007199254740992")),
            ("exp 2^63", raw("exp", "9223372036854775808")),
            ("exp 2^64", raw("exp", "18446744073709551616")),
            ("exp 2^64 and a minute", raw("exp", "18446744073709551676")),
            ("exp beyond all numbers", raw("exp", "1e999")),
            ("exp no number", raw("exp", "NaN")),
            ("exp a list", with("exp", json!([now + 60]))),
            ("exp in the past", with("exp", json!(now - 1))),
            ("exp in milliseconds", with("exp", json!((now + 60) * 1000))),
            ("a life of years", with("exp", json!(now + 90_000_000))),
            ("iat in the future", with("iat", json!(now + 600))),
            ("iat after exp", with("iat", json!(now + 7200))),
            ("iat a text", with("iat", json!(now.to_string()))),
            ("iat zero", with("iat", json!(0))),
            ("nbf in the future", with("nbf", json!(now + 600))),
            ("nbf a text", with("nbf", json!("0"))),
            ("sub empty", with("sub", json!(""))),
            ("sub a number", with("sub", json!(1))),
            ("sub zero", with("sub", json!("0"))),
            ("sub negative", with("sub", json!("-1"))),
            ("sub with a zero in front", with("sub", json!("01"))),
            ("sub with a sign", with("sub", json!("+1"))),
            ("sub SQL", with("sub", json!("1 OR 1=1"))),
            ("sub beyond the numbers", with("sub", json!("9223372036854775808"))),
            ("sub with a nul", with("sub", json!("1\0"))),
            ("sub in other digits", with("sub", json!("١"))),
            ("sub a list", with("sub", json!(["1", "2"]))),
            ("sub twice", twice(r#""sub":"1""#)),
            ("exp twice", twice(r#""exp":4000000000"#)),
            ("roles twice", twice(r#""roles":["admin"]"#)),
            ("sub twice, once escaped", twice(r#""\u0073ub":"1""#)),
            ("roles a text", with("roles", json!("admin"))),
            ("roles of another house", with("roles", json!(["root"]))),
            ("roles nested", with("roles", json!([["admin"]]))),
            ("another issuer", with("iss", json!("https://evil.example"))),
            ("a list of issuers", with("iss", json!(["memoric"]))),
            ("an audience", with("aud", json!("memoric"))),
            ("a list of claims", format!("[{}]", self.claims)),
            ("claims twice over", format!("{0}{0}", self.claims)),
            ("bytes behind them", format!("{}\0", self.claims)),
            ("not JSON", "exp=4000000000".to_owned()),
            ("none", String::new()),
            ("null", "null".to_owned()),
            ("more than there is room for", with("namespace", json!("n".repeat(4000)))),
        ];
        let header = self.header("HS256", &self.kid);
        payloads.map(|(why, claims)| (why, self.hs256(&header, &claims))).to_vec()
    }

    /// The live token itself, spelt otherwise. Were one of these believed, a revocation would miss it.
    fn spellings(&self) -> Vec<Attack> {
        let token = &self.own.token;
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let json = json!({"protected": header, "payload": claims, "signature": signature});
        vec![
            ("padding", format!("{token}=")),
            ("padding twice", format!("{token}==")),
            ("padding in the middle", format!("{header}=.{claims}.{signature}")),
            ("bits that decode to nothing", idle_bit_set(token)),
            ("base64 of another alphabet", self.in_standard_alphabet()),
            ("a space in front", format!(" {token}")),
            ("a space behind", format!("{token} x")),
            ("a tab inside", format!("{header}\t.{claims}.{signature}")),
            ("a newline behind", format!("{token}\n")),
            ("a fourth part", format!("{token}.{signature}")),
            ("an empty fourth part", format!("{token}.")),
            ("an empty first part", format!(".{token}")),
            ("five parts, as if encrypted", format!("{header}..{claims}.{claims}.{signature}")),
            ("two parts", format!("{header}.{claims}")),
            ("one part", header.to_owned()),
            ("dots alone", "..".to_owned()),
            ("percent signs", token.replace('.', "%2e")),
            ("a comma and another", format!("{token},{token}")),
            ("quotation marks", format!("\"{token}\"")),
            ("JSON", json.to_string()),
            ("a letter in another case", swapped_case(token)),
            ("letters that look alike", token.replacen('e', "\u{435}", 1)),
            ("a fragment", token[..token.len() - 4].to_owned()),
            ("a long tail", format!("{token}{}", "A".repeat(4000))),
            ("a longer one than any head", "A".repeat(60_000)),
        ]
    }

    /// A token that would be believed, in the alphabet that is not for URLs.
    fn in_standard_alphabet(&self) -> String {
        let header = self.header("HS256", &self.kid);
        let exp = self.claims["exp"].as_u64().unwrap();
        let token = |sooner: u64| {
            let mut claims = self.claims.clone();
            claims["exp"] = json!(exp - sooner);
            self.hs256(&header, &claims.to_string())
        };
        let differs = |token: &String| token.contains(['-', '_']);
        (0..100).map(token).find(differs).unwrap().replace('-', "+").replace('_', "/")
    }

    fn header(&self, alg: &str, kid: &str) -> String {
        json!({"alg": alg, "typ": "JWT", "kid": kid}).to_string()
    }

    fn hs256(&self, header: &str, claims: &str) -> String {
        self.made(header, claims, |message| hmac(JWT_SECRET.as_bytes(), message))
    }

    fn eddsa(&self, header: &str, claims: &str) -> String {
        self.made(header, claims, |message| self.pair.key.sign(message.as_bytes()).unwrap())
    }

    fn made(&self, header: &str, claims: &str, sign: impl FnOnce(&str) -> Vec<u8>) -> String {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = BASE64.encode(sign(&message));
        format!("{message}.{signature}")
    }

    /// An admin's claims under the signature of one's own.
    fn regrafted(&self) -> String {
        let mut claims = self.claims.clone();
        claims["roles"] = json!(["admin"]);
        let parts: Vec<_> = self.own.token.split('.').collect();
        format!("{}.{}.{}", parts[0], BASE64.encode(claims.to_string()), parts[2])
    }
}

/// The same signature with the order of the group added to its second half: valid to whoever does
/// not look (RFC 8032, section 5.1.7).
fn malleable(signature: &[u8]) -> Vec<u8> {
    let order =
        hex::decode("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010").unwrap();
    let (point, scalar) = signature.split_at(32);
    let mut carry = 0;
    let sum = scalar.iter().zip(&order).map(|(left, right)| {
        let sum = u16::from(*left) + u16::from(*right) + carry;
        carry = sum >> 8;
        (sum & 0xff) as u8
    });
    [point.to_vec(), sum.collect()].concat()
}

/// The same signature, with a bit set that its last letter has and the last byte does not need.
fn idle_bit_set(token: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = token.split_at(token.len() - 1);
    let last = LETTERS.iter().position(|letter| [*letter] == last.as_bytes()).unwrap();
    assert_eq!(last & 1, 0, "it is idle");
    format!("{rest}{}", char::from(LETTERS[last | 1]))
}

fn swapped_case(token: &str) -> String {
    let (head, last) = token.split_at(token.len() - 10);
    let swapped = last.chars().map(|letter| match letter.is_ascii_lowercase() {
        true => letter.to_ascii_uppercase(),
        false => letter.to_ascii_lowercase(),
    });
    head.chars().chain(swapped).collect()
}
