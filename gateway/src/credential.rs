//! What a client offers as proof of who it is.

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use memoric_contract::{Demands, api_key, refresh};

use crate::rejection::Rejection;

/// A secret that a client presented. Not yet believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Credential<'a> {
    /// Nothing that the operation wants to see.
    Nothing,
    /// An access token.
    AccessToken(&'a str),
    /// An API key.
    ApiKey(&'a str),
    /// A refresh token, which only the backend can judge.
    RefreshToken,
}

enum Presented<'a> {
    AccessToken(&'a str),
    ApiKey(&'a str),
    RefreshToken,
}

impl<'a> Credential<'a> {
    /// Reads the one credential that an operation demands. Two are an attack, not a choice.
    pub(crate) fn read(
        headers: &'a HeaderMap<HeaderValue>,
        demands: Demands,
    ) -> Result<Self, Rejection> {
        if demands == Demands::Nothing {
            return Ok(Self::Nothing);
        }
        match (Presented::by(headers)?, demands) {
            (_, Demands::Nothing) | (None, Demands::Refresh) => Ok(Self::Nothing),
            (None, Demands::Access) => Err(Rejection::NoCredential),
            (Some(Presented::AccessToken(token)), Demands::Access) => Ok(Self::AccessToken(token)),
            (Some(Presented::ApiKey(key)), Demands::Access) => Ok(Self::ApiKey(key)),
            (Some(Presented::RefreshToken), Demands::Refresh) => Ok(Self::RefreshToken),
            (Some(_), Demands::Access | Demands::Refresh) => {
                Err(Rejection::BadCredential("it is of another kind"))
            }
        }
    }
}

impl<'a> Presented<'a> {
    fn by(headers: &'a HeaderMap<HeaderValue>) -> Result<Option<Self>, Rejection> {
        let api_key = headers.get(HeaderName::from_static("x-api-key"));
        match (headers.get(AUTHORIZATION), api_key) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Rejection::SeveralCredentials),
            (None, Some(key)) => match key.to_str() {
                Ok(key) => Ok(Some(Self::ApiKey(key))),
                Err(_) => Err(Rejection::BadCredential("it is not ASCII")),
            },
            (Some(authorization), None) => Self::behind(authorization).map(Some),
        }
    }

    /// Reads `scheme credential`, the scheme in any case (RFC 9110, section 11.1).
    fn behind(authorization: &'a HeaderValue) -> Result<Self, Rejection> {
        let text =
            authorization.to_str().map_err(|_| Rejection::BadCredential("it is not ASCII"))?;
        let (scheme, secret) = text.split_once(' ').unwrap_or((text, ""));
        if secret.is_empty() || secret.contains([' ', '\t', ',']) {
            return Err(Rejection::BadCredential("it is not one word behind a scheme"));
        }
        if scheme.eq_ignore_ascii_case("apikey") {
            return Ok(Self::ApiKey(secret));
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Rejection::BadCredential("its scheme is unknown"));
        }
        Ok(match secret {
            _ if secret.starts_with(api_key::PREFIX) => Self::ApiKey(secret),
            _ if secret.starts_with(refresh::PREFIX) => Self::RefreshToken,
            _ => Self::AccessToken(secret),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_is_read_in_any_case() {
        for scheme in ["Bearer", "bearer", "BEARER"] {
            let read = read(&[("authorization", &format!("{scheme} a.b.c"))], Demands::Access);
            assert_eq!(read, Ok("a.b.c".to_owned()));
        }
    }

    #[test]
    fn one_credential_is_enough() {
        let both = [("authorization", "Bearer a.b.c"), ("x-api-key", "mk_x")];
        assert_eq!(read(&both, Demands::Access), Err(Rejection::SeveralCredentials));
        assert_eq!(read(&both, Demands::Refresh), Err(Rejection::SeveralCredentials));
        assert_eq!(read(&both, Demands::Nothing), Ok("nothing".to_owned()), "not looked at");
    }

    #[test]
    fn what_is_no_bearer_is_refused() {
        assert_eq!(read(&[], Demands::Access), Err(Rejection::NoCredential));
        for hostile in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer  a",
            "Bearer a b",
            "Bearer\ta",
            "Basic YTpi",
            "a.b.c",
            "Bearer a,b",
        ] {
            let refused = read(&[("authorization", hostile)], Demands::Access);
            assert!(matches!(refused, Err(Rejection::BadCredential(_))), "{hostile}: {refused:?}");
        }
    }

    #[test]
    fn an_api_key_is_presented_in_any_of_three_ways() {
        for key in [
            ("x-api-key", "mk_a"),
            ("authorization", "ApiKey mk_a"),
            ("authorization", "Bearer mk_a"),
        ] {
            assert_eq!(read(&[key], Demands::Access), Ok("mk_a".to_owned()), "{key:?}");
            let refused = read(&[key], Demands::Refresh);
            assert!(matches!(refused, Err(Rejection::BadCredential(_))), "{key:?}");
        }
    }

    #[test]
    fn a_refresh_token_is_for_refreshing_alone() {
        let refresh = [("authorization", "Bearer mrt_a")];
        assert_eq!(read(&refresh, Demands::Refresh), Ok("refresh".to_owned()));
        assert!(matches!(read(&refresh, Demands::Access), Err(Rejection::BadCredential(_))));
        let access = [("authorization", "Bearer a.b.c")];
        assert!(matches!(read(&access, Demands::Refresh), Err(Rejection::BadCredential(_))));
        assert_eq!(read(&[], Demands::Refresh), Ok("nothing".to_owned()), "it may be in the body");
    }

    fn read(headers: &[(&'static str, &str)], demands: Demands) -> Result<String, Rejection> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect();
        Credential::read(&headers, demands).map(|credential| match credential {
            Credential::Nothing => "nothing".to_owned(),
            Credential::AccessToken(secret) | Credential::ApiKey(secret) => secret.to_owned(),
            Credential::RefreshToken => "refresh".to_owned(),
        })
    }
}
