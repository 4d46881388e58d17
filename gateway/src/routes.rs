//! From a path to what it asks for.

use std::{collections::HashMap, sync::Arc};

use http::Method;
use memoric_contract::{AnsweredBy, Operation};

use crate::{asked::Asked, config::Route, rejection::Rejection, target::Target};

/// Knows what is where.
pub(crate) struct Routes {
    /// Operations at paths without a segment that varies, which is nearly all of them.
    literal: HashMap<(&'static str, &'static str), Operation>,
    /// What other services answer, the longest path first. None of them is above or below an operation.
    configured: Vec<Arc<Route>>,
    has_backend: bool,
}

impl Routes {
    pub(crate) fn new(configured: &[Arc<Route>], has_backend: bool) -> Self {
        let literal =
            Operation::ALL.into_iter().filter(|operation| !operation.path().contains('{'));
        let mut configured = configured.to_vec();
        configured.sort_by_key(|route| std::cmp::Reverse(route.path.len()));
        Self {
            literal: literal.map(|each| ((each.method(), each.path()), each)).collect(),
            configured,
            has_backend,
        }
    }

    /// What `method` asks for at `target`. There may be nothing.
    pub(crate) fn find(&self, method: &Method, target: &Target) -> Result<Asked, Rejection> {
        if let Some(operation) = self.at(method.as_str(), target.path()) {
            return Ok(operation.into());
        }
        if method == Method::HEAD
            && let Some(operation) = self.at("GET", target.path()).filter(is_ours)
        {
            return Ok(operation.into());
        }
        if let Some(route) = self.route(target)
            && route.methods.contains(&method.as_str())
        {
            return Ok(Asked::Route(Arc::clone(route)));
        }
        let allow = self.methods(target)?.join(", ");
        Err(Rejection::MethodNotAllowed { allow })
    }

    /// The methods that are understood at `target`. Nothing is there if there are none.
    pub(crate) fn methods(&self, target: &Target) -> Result<Vec<&'static str>, Rejection> {
        let mut methods = Operation::methods_at(target.path());
        methods.retain(|method| self.at(method, target.path()).is_some());
        if methods.is_empty() {
            let route = self.route(target).ok_or(Rejection::NotFound)?;
            return Ok(route.methods.clone());
        }
        if self.at("GET", target.path()).as_ref().is_some_and(is_ours) {
            methods.push("HEAD");
        }
        Ok(methods)
    }

    fn at(&self, method: &str, path: &str) -> Option<Operation> {
        let literal = self.literal.get(&(method, path)).copied();
        let operation = literal.or_else(|| Operation::at(method, path));
        operation.filter(|operation| is_served(*operation, self.has_backend))
    }

    fn route(&self, target: &Target) -> Option<&Arc<Route>> {
        self.configured.iter().find(|route| is_within(target.path(), &route.path))
    }
}

/// Whether `path` is `above` or lies below it, in whole segments, of which one in braces stands for any.
pub(crate) fn is_within(path: &str, above: &str) -> bool {
    let mut segments = path.split('/');
    above.split('/').all(|wanted| match segments.next() {
        Some(segment) => {
            segment == wanted || [segment, wanted].iter().any(|each| each.starts_with('{'))
        }
        None => false,
    })
}

/// Whether `operation` is there at all: without a backend there is only what the gateway answers.
pub(crate) fn is_served(operation: Operation, has_backend: bool) -> bool {
    has_backend || is_ours(&operation)
}

/// What the gateway answers itself is answered to HEAD too.
fn is_ours(operation: &Operation) -> bool {
    operation.answered_by() == AnsweredBy::Gateway
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{route, written};

    #[test]
    fn a_route_is_found_by_whole_segments_and_the_longest_wins() {
        let routes = Routes::new(&["/tools", "/tools/new"].map(|path| route(written(path))), true);
        let find = |method: Method, path: &str| {
            let asked = routes.find(&method, &Target::parse(path.as_bytes())?)?;
            Ok(asked.name().to_owned())
        };

        for (path, name) in [
            ("/tools", "route:/tools"),
            ("/tools/", "route:/tools"),
            ("/tools?new", "route:/tools"),
            ("/%74ools/x", "route:/tools"),
            ("/tools/newer", "route:/tools"),
            ("/tools/new", "route:/tools/new"),
            ("/tools/new/x/y", "route:/tools/new"),
            ("/memories", "recall_memories"),
        ] {
            assert_eq!(find(Method::GET, path), Ok(name.to_owned()), "{path}");
        }
        for path in ["/tool", "/toolsmith", "/Tools", "/tools;x", "/x/tools", "/memories/tools"] {
            assert_eq!(find(Method::GET, path), Err(Rejection::NotFound), "{path}");
        }
        let allow = "GET, POST".to_owned();
        let refused = find(Method::DELETE, "/tools/x");
        assert_eq!(refused, Err(Rejection::MethodNotAllowed { allow }), "HEAD is on no list");
    }

    #[test]
    fn without_a_backend_there_is_what_the_gateway_answers_and_no_more() {
        let routes = Routes::new(&[], false);
        for operation in Operation::ALL {
            let path = operation.path().replace(['{', '}'], "x");
            let target = Target::parse(path.as_bytes()).unwrap();
            let found = routes.find(&operation.method().parse().unwrap(), &target);
            match is_ours(&operation) {
                true => assert_eq!(found.unwrap().operation(), Some(operation)),
                false => assert_eq!(found.err(), Some(Rejection::NotFound), "{operation:?}"),
            }
        }
    }

    #[test]
    fn every_operation_is_found_where_it_is_declared() {
        for operation in Operation::ALL {
            let path = operation.path().replace(['{', '}'], "x");
            assert_eq!(find(operation.method(), &path), Ok(operation));
        }
    }

    #[test]
    fn a_trailing_slash_asks_for_the_same() {
        assert_eq!(find("GET", "/memories/"), Ok(Operation::RecallMemories));
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_asked_wrongly() {
        assert_eq!(find("GET", "/nothing"), Err(Rejection::NotFound));
        assert_eq!(find("GET", "/Memories"), Err(Rejection::NotFound), "case matters");
        let allow = |allow: &str| Err(Rejection::MethodNotAllowed { allow: allow.to_owned() });
        assert_eq!(find("DELETE", "/memories"), allow("GET, POST"), "all of them");
        assert_eq!(find("POST", "/health"), allow("GET, HEAD"));
    }

    #[test]
    fn internal_operations_are_not_there() {
        for path in ["/internal/health", "/internal/live", "/internal/revocations", "/metrics"] {
            assert_eq!(find("GET", path), Err(Rejection::NotFound));
        }
    }

    #[test]
    fn head_is_answered_where_the_gateway_answers() {
        assert_eq!(find("HEAD", "/health"), Ok(Operation::ShowHealth));
        assert!(find("HEAD", "/memories").is_err());
    }

    fn find(method: &str, path: &str) -> Result<Operation, Rejection> {
        let target = Target::parse(path.as_bytes())?;
        let asked =
            Routes::new(&[], true).find(&Method::from_bytes(method.as_bytes()).unwrap(), &target);
        asked.map(|asked| asked.operation().unwrap())
    }
}
