//! Where a database is, as people write it, without the password.

use crate::error::Invalid;

/// Refuses a DSN that is none, or that has a password in it.
///
/// A password is never a setting: settings are printed, and a role's password is derived from
/// `MEMORIC_DB_PASSWORD`. This errs on the side of seeing one where there is none.
pub(super) fn ensure_usable(path: &str, dsn: &str) -> Result<(), Invalid> {
    let Some(("postgresql" | "postgres", rest)) = dsn.split_once("://") else {
        return Err(Invalid::new(path, "must begin with postgresql://"));
    };
    if is_password_in(rest) {
        let secret = if path == "database.admin" {
            "MEMORIC_DB_ADMIN_PASSWORD"
        } else {
            "MEMORIC_DB_PASSWORD"
        };
        let reason = format!("must have no password in it: that is what {secret} is for");
        return Err(Invalid::new(path, reason));
    }
    Ok(())
}

fn is_password_in(rest: &str) -> bool {
    let in_authority = rest.split_once('@').is_some_and(|(user, _)| user.contains(':'));
    let in_query = rest.split_once('?').is_some_and(|(_, query)| {
        let mut names = query.split('&').filter_map(|pair| pair.split('=').next());
        names.any(|name| name.eq_ignore_ascii_case("password") || name.contains('%'))
    });
    in_authority || in_query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dsn_without_a_password_is_taken() {
        for dsn in [
            "postgresql:///memoric",
            "postgres://db.example:5433/memoric?sslmode=verify-full",
            "postgresql://somebody@db.example/memoric",
        ] {
            assert_eq!(ensure_usable("database.url", dsn), Ok(()), "{dsn}");
        }
    }

    #[test]
    fn a_dsn_with_a_password_is_refused_without_repeating_it() {
        for dsn in [
            "postgresql://somebody:hunter2@db.example/memoric",
            "postgresql://somebody:hun/ter2@db.example/memoric",
            "postgresql://db.example/memoric?password=hunter2",
            "postgresql://db.example/memoric?user=x&%70assword=hunter2",
        ] {
            let refusal = ensure_usable("database.url", dsn).unwrap_err().to_string();

            assert!(refusal.contains("MEMORIC_DB_PASSWORD"), "{dsn}: {refusal}");
            assert!(!refusal.contains("hun"), "{refusal}");
        }
    }

    #[test]
    fn what_is_no_dsn_is_refused() {
        for dsn in [
            "",
            "memoric",
            "mysql://db.example/memoric",
            "sqlite:///memoric.db",
            "host=/run user=x",
        ] {
            assert!(ensure_usable("database.admin", dsn).is_err(), "{dsn}");
        }
    }
}
