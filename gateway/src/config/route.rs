//! Which services are behind which paths, and who may ask them.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use memoric_config::{Invalid, pem, schema};
use memoric_contract::{Operation, Role};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;

use super::channel;
use crate::{routes::is_within, target::Target};

/// Paths that a service answers, and who may ask it by which methods.
#[derive(Debug)]
pub(crate) struct Route {
    /// Its place in the settings, from 0.
    pub(crate) number: usize,
    /// Where it begins, spelt as targets are.
    pub(crate) path: String,
    /// The name in metrics.
    pub(crate) name: String,
    /// Who answers.
    pub(crate) service: Service,
    /// By which methods it may be asked.
    pub(crate) methods: Vec<&'static str>,
    /// Of which roles who asks must have one. None: any will do.
    pub(crate) roles: Vec<Role>,
    /// Bytes of a body at most.
    pub(crate) body_bytes: usize,
}

/// Where a service listens.
#[derive(Debug)]
pub(crate) enum Service {
    /// A socket file.
    Unix(PathBuf),
    /// A port of this machine alone.
    Loopback(SocketAddr),
    /// A host and a port anywhere, the host proven by its certificate.
    Tls {
        authority: String,
        /// The host as its certificate has it.
        name: String,
        /// Who may have signed that. `None`: whoever the system trusts.
        authorities: Option<Vec<CertificateDer<'static>>>,
    },
}

/// A setting of a route that is not as it should be, and why.
type Fault = (&'static str, String);

/// The routes that the settings name, beside the operations that `is_served` here.
pub(super) fn checked(
    gateway: &schema::Gateway,
    is_served: impl Fn(Operation) -> bool,
) -> Result<Vec<Arc<Route>>, Invalid> {
    let mut routes: Vec<Arc<Route>> = Vec::new();
    if gateway.routes.len() > MOST {
        return Err(Invalid::new("gateway.routes", format!("has more than {MOST} routes")));
    }
    for (number, written) in gateway.routes.iter().enumerate() {
        let refuse = |(field, reason): Fault| {
            Invalid::new(format!("gateway.routes[{number}].{field}"), reason)
        };
        let route = Route::read(number, written, gateway.bounds.body_bytes).map_err(refuse)?;
        let taken = taken_by(&route.path, &is_served);
        let twin = routes.iter().any(|other| other.path == route.path);
        if let Some(other) = taken.or_else(|| twin.then_some("another route")) {
            return Err(refuse(("path", format!("is taken: {other} is there, above it or below"))));
        }
        routes.push(Arc::new(route));
    }
    Ok(routes)
}

/// What of ours is at `path`, above it or below. The root has only itself.
fn taken_by(path: &str, is_served: impl Fn(Operation) -> bool) -> Option<&'static str> {
    let ours = Operation::ALL.into_iter().filter(|operation| is_served(*operation));
    let ours = ours.map(Operation::path).filter(|ours| *ours != "/");
    let overlap = |ours: &&str| is_within(path, ours) || is_within(ours, path);
    ours.chain(["/internal"]).find(overlap)
}

impl Route {
    /// The name of all of them in the access log.
    pub(crate) const NAME: &'static str = "route";

    fn read(number: usize, written: &schema::Route, most: usize) -> Result<Self, Fault> {
        let path = written.path.as_str();
        let is_canonical = Target::parse(path.as_bytes()).is_ok_and(|target| target.path() == path);
        if !is_canonical || path == "/" {
            let reason = "must be a path such as /tools, spelt without need of decoding and without a / at its end";
            return Err(("path", reason.to_owned()));
        }
        if written.body_bytes > most {
            return Err(("body_bytes", "is more than gateway.bounds.body_bytes".to_owned()));
        }
        Ok(Self {
            number,
            path: path.to_owned(),
            name: format!("{}:{path}", Self::NAME),
            service: Service::read(written)?,
            methods: each(&written.methods, method)
                .filter(|methods| !methods.is_empty())
                .ok_or_else(|| ("methods", format!("must be some of {}", METHODS.join(", "))))?,
            roles: each(&written.roles, Role::named)
                .ok_or_else(|| ("roles", "must be some of admin, user, readonly".to_owned()))?,
            body_bytes: written.body_bytes,
        })
    }
}

impl Service {
    /// In clear nothing leaves this machine: whoever listened would read every answer.
    fn read(written: &schema::Route) -> Result<Self, Fault> {
        let refuse = |reason: &str| ("upstream", reason.to_owned());
        let upstream = written.upstream.as_str();
        if let Some(authority) = upstream.strip_prefix("https://") {
            let name = channel::host(authority);
            let name =
                name.ok_or_else(|| refuse("must be https://host:port, and nothing behind it"))?;
            let (authority, name) = (authority.to_owned(), name.to_owned());
            let authorities = written.ca.as_deref().map(authorities).transpose();
            let authorities = authorities.map_err(|reason| ("ca", reason))?;
            return Ok(Self::Tls { authority, name, authorities });
        }
        if written.ca.is_some() {
            return Err(("ca", "is set, and is for https:// alone".to_owned()));
        }
        if let Some(path) = upstream.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            return channel::ensure_socket(&path).map(|()| Self::Unix(path)).map_err(refuse);
        }
        match upstream.strip_prefix("http://").map(str::parse::<SocketAddr>) {
            Some(Ok(addr)) if addr.ip().is_loopback() && addr.port() != 0 => {
                Ok(Self::Loopback(addr))
            }
            Some(Ok(_)) => Err(refuse("must not leave this machine in clear")),
            _ => Err(refuse(
                "must be unix:/path, https://host:port, or http:// with a loopback address and a port",
            )),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "a Unix socket, {}", path.display()),
            Self::Loopback(addr) => write!(f, "{addr}, in clear within this machine"),
            Self::Tls { authority, name, .. } => write!(f, "{authority}, TLS with {name}"),
        }
    }
}

/// The certificates in `file`, every one of which can sign others.
fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let authorities = pem::certificates(file).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for authority in &authorities {
        let added = roots.add(authority.clone());
        added
            .map_err(|error| format!("{}: holds no usable certificate: {error}", file.display()))?;
    }
    Ok(authorities)
}

/// What `read` makes of each of the `words`, if it knows them all.
fn each<T>(words: &[String], read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    words.iter().map(|word| read(word)).collect()
}

fn method(name: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|method| *method == name)
}

/// By what a service may be asked. What a browser asks beforehand is answered by us.
const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// Each is a label of every metric about requests.
const MOST: usize = 64;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A route at `path`, to a service that nobody has.
    pub(crate) fn written(path: &str) -> schema::Route {
        schema::Route {
            path: path.to_owned(),
            upstream: "http://127.0.0.1:9".to_owned(),
            methods: vec!["GET".to_owned(), "POST".to_owned()],
            roles: Vec::new(),
            body_bytes: 1024,
            ca: None,
        }
    }

    /// The checked form of it.
    pub(crate) fn route(written: schema::Route) -> Arc<Route> {
        let gateway = schema::Gateway { routes: vec![written], ..Default::default() };
        routes(&gateway).remove(0)
    }

    /// The checked form of all that are in `gateway`.
    pub(crate) fn routes(gateway: &schema::Gateway) -> Vec<Arc<Route>> {
        checked(gateway, |_| true).unwrap()
    }

    fn refused(routes: Vec<schema::Route>) -> String {
        let gateway = schema::Gateway { routes, ..Default::default() };
        checked(&gateway, |_| true).err().map_or("accepted".to_owned(), |error| error.field)
    }

    #[test]
    fn a_route_takes_nothing_that_is_ours() {
        for ours in [
            "/memories",
            "/memories/mine",
            "/auth",
            "/auth/users",
            "/auth/users/alice",
            "/auth/users/alice/keys",
            "/health/of/tools",
            "/.well-known",
            "/internal",
            "/internal/tools",
        ] {
            assert_eq!(refused(vec![written(ours)]), "gateway.routes[0].path", "{ours}");
        }
        for free in ["/tools", "/memory", "/memories-2", "/authors", "/internals", "/v1/memories"] {
            assert_eq!(refused(vec![written(free)]), "accepted", "{free}");
        }
        let twins = vec![written("/tools"), written("/tools/new"), written("/tools")];
        assert_eq!(refused(twins), "gateway.routes[2].path");
    }

    #[test]
    fn a_route_takes_what_an_operation_leaves_that_is_not_served() {
        let gateway = schema::Gateway { routes: vec![written("/memories")], ..Default::default() };
        assert!(checked(&gateway, |operation| operation != Operation::RecallMemories).is_err());
        let is_served = |operation: Operation| operation.path() != "/memories";
        assert!(checked(&gateway, is_served).is_ok());
    }

    #[test]
    fn what_is_wrong_with_a_route_is_named() {
        let wrong = |change: fn(&mut schema::Route)| {
            let mut route = written("/tools");
            change(&mut route);
            refused(vec![route])
        };
        for path in ["", "/", "tools", "/tools/", "/a//b", "/%74ools", "/a/../b", "/a?b", "/a#b"] {
            assert_eq!(refused(vec![written(path)]), "gateway.routes[0].path", "{path}");
        }
        for methods in [&[][..], &["get"], &["TRACE"], &["OPTIONS"], &["GET", "*"]] {
            let methods = methods.iter().map(|name| (*name).to_owned()).collect();
            let route = schema::Route { methods, ..written("/tools") };
            assert_eq!(refused(vec![route]), "gateway.routes[0].methods");
        }
        for upstream in [
            "http://10.0.0.1:80",
            "http://localhost:80",
            "http://127.0.0.1:0",
            "https://a.example",
            "https://a.example:1/x",
            "https://a@b:1",
            "unix:tools.sock",
            "tools.example:80",
            "",
        ] {
            let route = schema::Route { upstream: upstream.to_owned(), ..written("/tools") };
            assert_eq!(refused(vec![route]), "gateway.routes[0].upstream", "{upstream}");
        }
        let field = |name: &str| format!("gateway.routes[0].{name}");
        assert_eq!(wrong(|route| route.roles = vec!["root".to_owned()]), field("roles"));
        assert_eq!(wrong(|route| route.body_bytes = usize::MAX), field("body_bytes"));
        assert_eq!(wrong(|route| route.ca = Some("/some.pem".into())), field("ca"));
        let unreadable = wrong(|route| {
            route.upstream = "https://tools.example:443".to_owned();
            route.ca = Some("/nowhere.pem".into());
        });
        assert_eq!(unreadable, field("ca"));
        let many = (0..=MOST).map(|number| written(&format!("/tools-{number}"))).collect();
        assert_eq!(refused(many), "gateway.routes");
    }
}
