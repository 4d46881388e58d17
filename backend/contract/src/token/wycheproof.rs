//! What Project Wycheproof knows of signatures that should not be believed, and of some that should.

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Vectors {
    hs256: Vec<Secret>,
    ed25519: Vec<Public>,
}

#[derive(Deserialize)]
struct Secret {
    k: String,
    tests: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    id: u32,
    comment: String,
    jws: String,
    result: String,
}

#[derive(Deserialize)]
struct Public {
    pk: String,
    tests: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    id: u32,
    comment: String,
    msg: String,
    sig: String,
    result: String,
}

#[test]
fn of_tokens_only_those_are_opened_that_the_key_signed() {
    let (mut opened, mut refused) = (0, 0);
    for Secret { k, tests } in vectors().hs256 {
        let secret = BASE64.decode(k).unwrap();
        for Token { id, comment, jws, result } in tests {
            if MISPRINTED.contains(&id) {
                continue;
            }
            let ring: TokenKeys =
                [TokenKey::hs256(&secret).called(&kid_of(&jws))].into_iter().collect();
            let is_ours = result == "valid" && !LENIENT.contains(&id);
            assert_eq!(ring.open(&jws).is_ok(), is_ours, "{id}: {comment}");
            *(if is_ours { &mut opened } else { &mut refused }) += 1;
        }
    }
    assert_eq!((opened, refused), (8, 30));
}

#[test]
fn of_ed25519_signatures_only_the_sound_are_believed() {
    let (mut believed, mut refused) = (0, 0);
    for Public { pk, tests } in vectors().ed25519 {
        let key = TokenKey::ed25519(&hex::decode(pk).unwrap().try_into().unwrap());
        for Signature { id, comment, msg, sig, result } in tests {
            let signature = BASE64.encode(hex::decode(sig).unwrap());
            let is_sound = result == "valid";
            assert_eq!(
                key.signed(&hex::decode(msg).unwrap(), &signature),
                is_sound,
                "{id}: {comment}"
            );
            *(if is_sound { &mut believed } else { &mut refused }) += 1;
        }
    }
    assert!(believed > 50 && refused > 50, "{believed} and {refused}");
}

/// The name that the header of `jws` has for its key, or one that none has.
fn kid_of(jws: &str) -> String {
    let header = jws.split('.').next().and_then(|header| BASE64.decode(header).ok());
    let header: Option<Value> = header.and_then(|header| serde_json::from_slice(&header).ok());
    header.and_then(|header| Some(header.get("kid")?.as_str()?.to_owned())).unwrap_or_default()
}

fn vectors() -> Vectors {
    serde_json::from_str(include_str!("wycheproof.json")).unwrap()
}

/// Vectors that are called invalid for their padding, of which nothing is left: byte for byte they are
/// vector 357, which is valid.
const MISPRINTED: [u32; 2] = [367, 370];

/// Vectors that are called valid although a character in them belongs to no alphabet of base64: who
/// skips it gives a token a second spelling.
const LENIENT: [u32; 2] = [372, 373];
