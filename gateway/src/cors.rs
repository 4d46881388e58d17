//! Which web pages may ask, and read our answers.

use http::{
    HeaderValue, Method,
    header::{ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};

use crate::{config::CorsPolicy, names::Names, rejection::Rejection, request::Request};

/// The origins whose pages may call us.
pub(crate) struct Cors {
    policy: CorsPolicy,
    names: Names,
}

/// The origin of a page that may read the answer. [`Cors::allow`] is its only maker.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AllowedOrigin {
    origin: HeaderValue,
    with_credentials: bool,
}

/// What a page may ask, now that its browser has asked for it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Preflight {
    /// The methods that are understood there.
    pub(crate) methods: String,
}

impl Cors {
    /// The origins that `policy` lists, and our own by our `names`.
    pub(crate) fn new(policy: CorsPolicy, names: Names) -> Self {
        Self { policy, names }
    }

    /// The origin of the page that sent `request`, if it is on the list.
    pub(crate) fn allow(&self, request: &Request<'_>) -> Option<AllowedOrigin> {
        let origin = request.headers().get(ORIGIN)?;
        self.policy.origins.contains(origin).then(|| AllowedOrigin {
            origin: origin.clone(),
            with_credentials: self.policy.allow_credentials,
        })
    }

    /// Answers a browser that wonders whether a page may ask for one of `methods`.
    pub(crate) fn preflight(
        &self,
        request: &Request<'_>,
        methods: &[&'static str],
    ) -> Result<Preflight, Rejection> {
        if self.allow(request).is_none() {
            return Err(Rejection::PreflightRefused("Pages of this origin may not ask"));
        }
        let wanted = request.headers().get(ACCESS_CONTROL_REQUEST_METHOD);
        if !wanted.is_some_and(|wanted| methods.iter().any(|method| *method == wanted)) {
            return Err(Rejection::PreflightRefused("Pages may not ask by this method"));
        }
        let mut fields = request.headers().get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
        if !fields.all(|fields| fields.as_bytes().split(|byte| *byte == b',').all(is_askable)) {
            return Err(Rejection::PreflightRefused("Pages may not send this header"));
        }
        Ok(Preflight { methods: methods.join(", ") })
    }

    /// Rejects a change that a page asks for which may not ask.
    ///
    /// A browser says where a page comes from whenever it sends such a request, so what has no
    /// `Origin` comes from no page. `null` is the origin of every sandbox, and so of nobody.
    pub(crate) fn ensure_allowed(&self, request: &Request<'_>) -> Result<(), Rejection> {
        let Some(origin) = request.headers().get(ORIGIN) else { return Ok(()) };
        let is_safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method());
        if is_safe || self.policy.origins.contains(origin) || self.is_own(origin, request) {
            return Ok(());
        }
        Err(Rejection::ForeignOrigin)
    }

    /// Whether the page was served by the very authority that it asks, and that is us.
    fn is_own(&self, origin: &HeaderValue, request: &Request<'_>) -> bool {
        let scheme: &[u8] = if request.over_tls { b"https://" } else { b"http://" };
        let authority = origin.as_bytes().strip_prefix(scheme).zip(request.authority());
        authority.is_some_and(|(page, asked)| page.eq_ignore_ascii_case(asked))
            && self.names.are_of(request)
    }
}

impl AllowedOrigin {
    pub(crate) fn value(&self) -> &HeaderValue {
        &self.origin
    }

    /// Whether its pages may send cookies and client certificates along.
    pub(crate) fn with_credentials(&self) -> bool {
        self.with_credentials
    }
}

/// Whether a browser is asking on a page's behalf before it really asks.
///
/// It does so without credentials, so this is answered before we want any.
pub(crate) fn is_preflight(request: &Request<'_>) -> bool {
    request.method() == Method::OPTIONS
        && request.headers().contains_key(ORIGIN)
        && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

fn is_askable(field: &[u8]) -> bool {
    let field = field.trim_ascii();
    field.is_empty() || ASKABLE.iter().any(|name| field.eq_ignore_ascii_case(name.as_bytes()))
}

/// The headers that a page may set, the ones that browsers always let it set included.
const ASKABLE: [&str; 6] =
    ["accept", "accept-language", "authorization", "content-language", "content-type", "x-api-key"];

/// The same for a browser to read.
pub(crate) const ALLOWED_HEADERS: &str = "Authorization, Content-Type, X-API-Key";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::tests::Parsed;

    #[test]
    fn only_the_very_origin_on_the_list_is_allowed() {
        assert!(allowed("https://app.example.com"));
        for stranger in [
            "https://app.example.com.evil",
            "https://evil-app.example.com",
            "http://app.example.com",
            "https://app.example.com:444",
            "https://APP.example.com",
            "https://app.example.com/",
            "null",
            "*",
            "",
        ] {
            assert!(!allowed(stranger), "{stranger}");
        }
    }

    #[test]
    fn a_preflight_is_told_what_may_be_asked() {
        let answer =
            preflight("https://app.example.com", "POST", "authorization, Content-Type,x-api-key");
        assert_eq!(answer, Ok(Preflight { methods: "GET, POST".to_owned() }));
    }

    #[test]
    fn a_preflight_is_refused_by_origin_method_and_header() {
        assert!(preflight("https://evil.example", "POST", "").is_err());
        assert!(preflight("null", "POST", "").is_err());
        assert!(preflight("https://app.example.com", "DELETE", "").is_err());
        assert!(preflight("https://app.example.com", "POST", "x-user-id").is_err());
    }

    #[test]
    fn a_strangers_page_changes_nothing() {
        let ask = |method: &str, origin: &str| {
            let head =
                format!("{method} /memories HTTP/1.1\r\nHost: memoric.example\r\n{origin}\r\n");
            cors().ensure_allowed(&Parsed::new(&head).request())
        };
        assert_eq!(ask("POST", ""), Ok(()), "from no page");
        assert_eq!(ask("POST", "Origin: https://app.example.com\r\n"), Ok(()), "on the list");
        assert_eq!(ask("POST", "Origin: https://memoric.example\r\n"), Ok(()), "our own");
        assert_eq!(ask("GET", "Origin: https://evil.example\r\n"), Ok(()), "may ask, not read");
        for stranger in [
            "https://evil.example",
            "http://memoric.example",
            "https://memoric.example:8443",
            "null",
        ] {
            let refused = ask("POST", &format!("Origin: {stranger}\r\n"));
            assert_eq!(refused, Err(Rejection::ForeignOrigin), "{stranger}");
        }
    }

    fn allowed(origin: &str) -> bool {
        let head = format!("GET /memories HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\n\r\n");
        cors().allow(&Parsed::new(&head).request()).is_some()
    }

    fn preflight(origin: &str, method: &str, headers: &str) -> Result<Preflight, Rejection> {
        let head = format!(
            "OPTIONS /memories HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nAccess-Control-Request-Method: {method}\r\nAccess-Control-Request-Headers: {headers}\r\n\r\n"
        );
        let parsed = Parsed::new(&head);
        assert!(is_preflight(&parsed.request()));
        cors().preflight(&parsed.request(), &["GET", "POST"])
    }

    fn cors() -> Cors {
        let origins = vec![HeaderValue::from_static("https://app.example.com")];
        Cors::new(CorsPolicy { origins, allow_credentials: false }, Names::default())
    }
}
