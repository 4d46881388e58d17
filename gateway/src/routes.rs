//! From a path to the operation it asks for.

use std::collections::HashMap;

use http::Method;
use memoric_contract::{AnsweredBy, Operation};

use crate::{rejection::Rejection, target::Target};

/// Knows what is where.
pub(crate) struct Routes {
    /// Operations at paths without a segment that varies, which is nearly all of them.
    literal: HashMap<(&'static str, &'static str), Operation>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        let literal =
            Operation::ALL.into_iter().filter(|operation| !operation.path().contains('{'));
        Self { literal: literal.map(|each| ((each.method(), each.path()), each)).collect() }
    }

    /// The operation that `method` asks for at `target`. There may be none.
    pub(crate) fn find(&self, method: &Method, target: &Target) -> Result<Operation, Rejection> {
        if let Some(operation) = self.at(method.as_str(), target.path()) {
            return Ok(operation);
        }
        if method == Method::HEAD
            && let Some(operation) = self.at("GET", target.path()).filter(is_ours)
        {
            return Ok(operation);
        }
        let allow = methods(target)?.join(", ");
        Err(Rejection::MethodNotAllowed { allow })
    }

    fn at(&self, method: &str, path: &str) -> Option<Operation> {
        let literal = self.literal.get(&(method, path)).copied();
        literal.or_else(|| Operation::at(method, path))
    }
}

/// The methods that are understood at `target`. Nothing is there if there are none.
pub(crate) fn methods(target: &Target) -> Result<Vec<&'static str>, Rejection> {
    let mut methods = Operation::methods_at(target.path());
    if methods.is_empty() {
        return Err(Rejection::NotFound);
    }
    if Operation::at("GET", target.path()).as_ref().is_some_and(is_ours) {
        methods.push("HEAD");
    }
    Ok(methods)
}

/// What the gateway answers itself is answered to HEAD too.
fn is_ours(operation: &Operation) -> bool {
    operation.answered_by() == AnsweredBy::Gateway
}

#[cfg(test)]
mod tests {
    use super::*;

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
        Routes::new().find(&Method::from_bytes(method.as_bytes()).unwrap(), &target)
    }
}
