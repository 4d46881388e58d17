//! What is refused of `auth.issuers` and `auth.legacy_tokens`.

use time::{Date, format_description::BorrowedFormatItem, macros::format_description};

use crate::{
    error::Invalid,
    schema::{Auth, Issuer},
};

/// Until when tokens of the Python server are taken, in epoch seconds: the beginning of the day that
/// the settings name, UTC. `None`: never.
pub fn legacy_until(auth: &Auth) -> Result<Option<u64>, Invalid> {
    let Some(day) = &auth.legacy_tokens else { return Ok(None) };
    let refuse = || Invalid::new("auth.legacy_tokens", "must be a day, such as 2027-01-31");
    let day = Date::parse(day, DAY).map_err(|_| refuse())?;
    let seconds = day.midnight().assume_utc().unix_timestamp();
    u64::try_from(seconds).map(Some).map_err(|_| refuse())
}

/// Refuses issuers of which one could be taken for another, or for us.
pub(crate) fn ensure_possible(auth: &Auth) -> Result<(), Invalid> {
    legacy_until(auth)?;
    if auth.issuers.len() > MOST_ISSUERS {
        return Err(Invalid::new("auth.issuers", format!("has more than {MOST_ISSUERS} issuers")));
    }
    for (place, issuer) in auth.issuers.iter().enumerate() {
        ensure_whole(place, issuer)?;
        if auth.issuers.iter().take(place).any(|other| other.issuer == issuer.issuer) {
            let field = format!("auth.issuers[{place}].issuer");
            return Err(Invalid::new(field, "is that of another one, too"));
        }
    }
    Ok(())
}

fn ensure_whole(place: usize, issuer: &Issuer) -> Result<(), Invalid> {
    let refuse = |name: &str, reason: &str| {
        Err(Invalid::new(format!("auth.issuers[{place}].{name}"), reason))
    };
    let is_name = |text: &str| (1..=255).contains(&text.len()) && !text.contains(char::is_control);
    if !is_name(&issuer.issuer) || issuer.issuer == OURS {
        return refuse("issuer", "must be 1 to 255 bytes, and not our own");
    }
    if !is_name(&issuer.audience) {
        return refuse("audience", "must be 1 to 255 bytes");
    }
    if !issuer.jwks_url.starts_with("https://") && !issuer.jwks_url.starts_with("http://") {
        return refuse("jwks_url", "must begin with https://, or with http:// on loopback");
    }
    let is_known = |name: &String| ALGORITHMS.contains(&name.as_str());
    if issuer.algorithms.is_empty() || !issuer.algorithms.iter().all(is_known) {
        return refuse("algorithms", "must be some of RS256, ES256 and EdDSA");
    }
    Ok(())
}

const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

const ALGORITHMS: [&str; 3] = ["RS256", "ES256", "EdDSA"];

/// Who mints our own tokens.
const OURS: &str = "memoric";

/// More than anybody trusts.
const MOST_ISSUERS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_and_is_one() {
        let until = |day: &str| {
            legacy_until(&Auth { legacy_tokens: Some(day.to_owned()), ..Auth::default() })
        };

        assert_eq!(until("2027-01-31"), Ok(Some(1_801_353_600)));
        assert_eq!(legacy_until(&Auth::default()), Ok(None));
        for none in ["", "soon", "2027-02-30", "2027-1-1", "31.01.2027", "1969-12-31"] {
            assert!(until(none).is_err(), "{none}");
        }
    }

    #[test]
    fn an_issuer_is_whole_and_nobody_elses() {
        let good = || Issuer {
            issuer: "https://issuer.example".to_owned(),
            audience: "memoric".to_owned(),
            jwks_url: "https://issuer.example/keys".to_owned(),
            algorithms: vec!["ES256".to_owned()],
            may_grant_roles: false,
            ca: None,
        };
        let refused = |issuers: Vec<Issuer>| {
            ensure_possible(&Auth { issuers, ..Auth::default() }).err().map(|error| error.field)
        };

        assert_eq!(refused(vec![good()]), None);
        assert!(refused(vec![good(), good()]).is_some_and(|field| field.ends_with("[1].issuer")));
        for (name, bad) in [
            ("issuer", Issuer { issuer: OURS.to_owned(), ..good() }),
            ("issuer", Issuer { issuer: String::new(), ..good() }),
            ("audience", Issuer { audience: String::new(), ..good() }),
            ("jwks_url", Issuer { jwks_url: "file:///etc/passwd".to_owned(), ..good() }),
            ("algorithms", Issuer { algorithms: Vec::new(), ..good() }),
            ("algorithms", Issuer { algorithms: vec!["HS256".to_owned()], ..good() }),
            ("algorithms", Issuer { algorithms: vec!["none".to_owned()], ..good() }),
        ] {
            assert_eq!(refused(vec![bad]), Some(format!("auth.issuers[0].{name}")));
        }
    }
}
