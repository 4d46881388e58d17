//! Who else is believed about who somebody is, and where their keys are.

use std::{net::IpAddr, path::Path, sync::Arc};

use http::Uri;
use memoric_config::{Invalid, pem, schema};
use memoric_contract::token::foreign::IssuerAlgorithm;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;

/// Somebody else who mints tokens.
#[derive(Clone)]
pub(crate) struct Issuer {
    /// Its name, as its tokens have it.
    pub(crate) name: String,
    /// Whom its tokens must be for.
    pub(crate) audience: String,
    /// What it may sign with.
    pub(crate) algorithms: Vec<IssuerAlgorithm>,
    /// Whether the roles in its tokens count.
    pub(crate) may_grant_roles: bool,
    /// Where its keys are.
    pub(crate) place: Place,
}

/// Where keys are: asked there, and nowhere else.
#[derive(Clone)]
pub(crate) struct Place {
    /// The host, as TCP finds it.
    pub(crate) host: String,
    /// The port.
    pub(crate) port: u16,
    /// The host and port, as they are asked for.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) path: String,
    /// How it proves to be the host. `None`: in clear, which is for this machine alone.
    pub(crate) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// The issuers that the settings name.
pub(super) fn checked(issuers: &[schema::Issuer]) -> Result<Vec<Issuer>, Invalid> {
    let field = |place: usize, name: &str| format!("auth.issuers[{place}].{name}");
    let one = |(place, issuer): (usize, &schema::Issuer)| {
        let algorithms = issuer.algorithms.iter().map(|name| algorithm(name));
        let algorithms = algorithms
            .collect::<Option<_>>()
            .ok_or_else(|| Invalid::new(field(place, "algorithms"), "has one that is none"))?;
        let place = Place::read(&issuer.jwks_url, issuer.ca.as_deref())
            .map_err(|(name, reason)| Invalid::new(field(place, name), reason))?;
        Ok(Issuer {
            name: issuer.issuer.clone(),
            audience: issuer.audience.clone(),
            algorithms,
            may_grant_roles: issuer.may_grant_roles,
            place,
        })
    };
    issuers.iter().enumerate().map(one).collect()
}

impl Place {
    fn read(url: &str, ca: Option<&Path>) -> Result<Self, (&'static str, String)> {
        let refuse = |reason: &str| ("jwks_url", reason.to_owned());
        let uri: Uri = url.parse().map_err(|_| refuse("is no URL"))?;
        let authority = uri.authority().ok_or_else(|| refuse("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("must name nobody in front of the host"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let (port, tls) = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|_| refuse("names a host that can have no certificate"))?;
                let config = client_config(ca).map_err(|reason| ("ca", reason))?;
                (443, Some((config, name)))
            }
            Some("http") if host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback()) => {
                (80, None)
            }
            _ => return Err(refuse("must be https, or http on a loopback address")),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = authority.port_u16().unwrap_or(port);
        Ok(Self { host, port, authority: authority.to_string(), path, tls })
    }
}

fn algorithm(name: &str) -> Option<IssuerAlgorithm> {
    match name {
        "RS256" => Some(IssuerAlgorithm::Rs256),
        "ES256" => Some(IssuerAlgorithm::Es256),
        "EdDSA" => Some(IssuerAlgorithm::EdDsa),
        _ => None,
    }
}

fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            for certificate in pem::certificates(file).map_err(|error| error.to_string())? {
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_had_by_tls_or_from_this_machine() {
        let place = |url: &str| Place::read(url, None).map_err(|(_, reason)| reason);

        let there = place("https://id.example.com/keys?v=2").unwrap();
        assert_eq!((there.host.as_str(), there.port), ("id.example.com", 443));
        assert_eq!((there.path.as_str(), there.tls.is_some()), ("/keys?v=2", true));
        let here = place("http://127.0.0.1:8088/jwks").unwrap();
        assert_eq!((here.port, here.tls.is_none()), (8088, true));
        assert!(place("http://[::1]:8088/").is_ok());
        for refused in [
            "http://id.example.com/keys",
            "http://127.0.0.1.example.com/keys",
            "http://192.168.0.1/keys",
            "http://localhost/keys",
            "https://user@id.example.com/",
            "ftp://id.example.com/",
            "/keys",
            "https://",
        ] {
            assert!(place(refused).is_err(), "{refused}");
        }
    }
}
