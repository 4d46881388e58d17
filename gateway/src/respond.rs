//! Answers that we write ourselves, and what every answer carries.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Method, StatusCode, Version,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH,
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, DATE, EXPECT, REFERRER_POLICY, RETRY_AFTER, SERVER,
        STRICT_TRANSPORT_SECURITY, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    },
};
use memoric_contract::{Operation, Problem, RequestId, problem::PROBLEM_JSON};
use pingora::{
    Result, http::ResponseHeader, protocols::http::date::get_cached_date, proxy::Session,
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    cors::{ALLOWED_HEADERS, AllowedOrigin, Preflight},
    exchange::{Exchange, Outcome},
    forward::{INTERNAL_PREFIX, REQUEST_ID},
    limits::Budget,
    rejection::Rejection,
};

/// Tells the client no. The connection goes on only where the next request cannot be taken for
/// the rest of this one.
pub(crate) async fn reject(
    session: &mut Session,
    exchange: &mut Exchange,
    rejection: &Rejection,
) -> Result<()> {
    exchange.outcome = Outcome::Rejected;
    exchange.code = Some(rejection.code());
    tracing::debug!(request = %exchange.id, code = rejection.code(), reason = %rejection, "rejected");
    match rejection {
        // A page that may not ask is told nothing that its browser would let it read.
        Rejection::PreflightRefused(_) => exchange.page = None,
        Rejection::TooMany { budget, .. } => exchange.budget = Some(*budget),
        _ => {}
    }
    if rejection.ends_connection() {
        session.set_keepalive(None);
    }
    let (head, body) = refusal(rejection, exchange.id)?;
    write(session, exchange, head, body).await
}

/// The bytes that tell a client no whose request was never one, and that the connection ends.
pub(crate) fn unparsed(rejection: &Rejection, request: RequestId) -> Result<Bytes> {
    let (mut head, body) = refusal(rejection, request)?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(DATE, get_cached_date())?;
    head.insert_header(CONNECTION, "close")?;
    protect(&mut head, request, false)?;
    let status = rejection.status();
    let mut bytes = format!("HTTP/1.1 {} {}\r\n", status.as_str(), title(status)).into_bytes();
    for (name, value) in &head.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            bytes.extend_from_slice(part);
        }
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    Ok(bytes.into())
}

/// Says no in the one form that our refusals have.
fn refusal(rejection: &Rejection, request: RequestId) -> Result<(ResponseHeader, Bytes)> {
    let (status, code) = (rejection.status(), rejection.code());
    let problem = Problem::new(status.as_u16(), title(status), code, rejection.detail(), request);
    let mut head = ResponseHeader::build(status, None)?;
    head.insert_header(CONTENT_TYPE, PROBLEM_JSON)?;
    if let Some(allow) = rejection.allow() {
        head.insert_header(ALLOW, allow)?;
    }
    if let Some(challenge) = rejection.challenge() {
        head.insert_header(WWW_AUTHENTICATE, challenge)?;
    }
    if let Some(seconds) = rejection.retry_after() {
        head.insert_header(RETRY_AFTER, seconds)?;
    }
    Ok((head, problem.to_json().into()))
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or_default()
}

/// Answers from what the gateway knows.
pub(crate) async fn answer(
    session: &mut Session,
    exchange: &mut Exchange,
    status: StatusCode,
    body: &Value,
) -> Result<()> {
    exchange.outcome = Outcome::Answered;
    let mut head = ResponseHeader::build(status, None)?;
    head.insert_header(CONTENT_TYPE, "application/json")?;
    if exchange.operation == Some(Operation::ShowSigningKeys) {
        head.insert_header(CACHE_CONTROL, KEYS_LIFE)?;
    }
    write(session, exchange, head, body.to_string().into()).await
}

/// Tells a browser what its page may ask.
pub(crate) async fn preflight(
    session: &mut Session,
    exchange: &mut Exchange,
    preflight: &Preflight,
) -> Result<()> {
    exchange.outcome = Outcome::Preflight;
    let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, None)?;
    head.insert_header(ACCESS_CONTROL_ALLOW_METHODS, &preflight.methods)?;
    head.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS)?;
    head.insert_header(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_LIFE)?;
    head.insert_header(VARY, "Access-Control-Request-Method, Access-Control-Request-Headers")?;
    write(session, exchange, head, Bytes::new()).await
}

/// Takes out of the backend's answer what is for us alone, what only we tell pages, and what
/// runs where.
pub(crate) fn take_out(head: &mut ResponseHeader) {
    let is_internal = |name: &&HeaderName| {
        let name = name.as_str();
        name.starts_with(INTERNAL_PREFIX) || name.starts_with("access-control-")
    };
    let internal: Vec<_> = head.headers.keys().filter(is_internal).cloned().collect();
    for name in internal.iter().chain([&SERVER]) {
        head.remove_header(name);
    }
}

/// Adds what every answer carries, whoever wrote it.
pub(crate) fn sign_off(head: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    protect(head, exchange.id, exchange.is_tls_only)?;
    if let Some(page) = &exchange.page {
        share(head, page)?;
    }
    exchange.tightest_budget().map_or(Ok(()), |budget| tell_budget(head, budget))
}

/// Names the request, and keeps browsers and caches from doing more with an answer than show it.
fn protect(head: &mut ResponseHeader, request: RequestId, is_tls_only: bool) -> Result<()> {
    head.insert_header(REQUEST_ID, request.to_string())?;
    head.append_header(VARY, "Origin")?;
    head.insert_header(X_CONTENT_TYPE_OPTIONS, "nosniff")?;
    head.insert_header(REFERRER_POLICY, "no-referrer")?;
    head.insert_header(CONTENT_SECURITY_POLICY, NOTHING_ACTIVE)?;
    if !head.headers.contains_key(CACHE_CONTROL) {
        head.insert_header(CACHE_CONTROL, "no-store")?;
    }
    if is_tls_only {
        head.insert_header(STRICT_TRANSPORT_SECURITY, "max-age=31536000")?;
    }
    Ok(())
}

async fn write(
    session: &mut Session,
    exchange: &mut Exchange,
    mut head: ResponseHeader,
    body: Bytes,
) -> Result<()> {
    if head.status != StatusCode::NO_CONTENT {
        head.insert_header(CONTENT_LENGTH, body.len())?;
    }
    sign_off(&mut head, exchange)?;
    if !is_read_whole(session).await {
        session.set_keepalive(None);
    }
    exchange.answered(head.status);
    let is_silent = body.is_empty() || session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(head), is_silent).await?;
    if !is_silent {
        session.write_response_body(Some(body), true).await?;
    }
    if !session.is_body_done() {
        let _ = timeout(DRAIN_TIME, linger(session)).await;
    }
    Ok(())
}

/// Lets a client that is still sending read its answer: going away from unread bytes resets the
/// connection (or the stream), and with it what the client has not read yet.
async fn linger(session: &mut Session) {
    while let Ok(Some(_)) = session.read_request_body().await {}
}

/// Whether all of the request was read, what little is left of it included. Bytes that were not
/// read must never be parsed as the next request.
async fn is_read_whole(session: &mut Session) -> bool {
    if session.req_header().version == Version::HTTP_2 || session.is_body_empty() {
        return true;
    }
    // Who expects 100-continue has sent nothing yet, and may or may not send it after our answer.
    if session.req_header().headers.contains_key(EXPECT) {
        return false;
    }
    timeout(DRAIN_TIME, drain(session)).await.unwrap_or(false)
}

async fn drain(session: &mut Session) -> bool {
    let mut left = DRAIN_BYTES;
    loop {
        match session.read_request_body().await {
            Ok(None) => return true,
            Ok(Some(bytes)) if bytes.len() <= left => left -= bytes.len(),
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

fn share(head: &mut ResponseHeader, page: &AllowedOrigin) -> Result<()> {
    head.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, page.value())?;
    head.insert_header(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)?;
    if page.with_credentials() {
        head.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")?;
    }
    Ok(())
}

/// Tells what is left (draft-ietf-httpapi-ratelimit-headers-10).
fn tell_budget(head: &mut ResponseHeader, budget: Budget) -> Result<()> {
    let Budget { name, burst, left, window } = budget;
    let policy = HeaderValue::try_from(format!(r#""{name}";q={burst};w={window}"#));
    let current = HeaderValue::try_from(format!(r#""{name}";r={left}"#));
    if let (Ok(policy), Ok(current)) = (policy, current) {
        head.insert_header("ratelimit-policy", policy)?;
        head.insert_header("ratelimit", current)?;
    }
    Ok(())
}

/// We serve data, and nothing that a browser should run or frame.
const NOTHING_ACTIVE: &str = "default-src 'none'; frame-ancestors 'none'";

/// What a page may read of an answer besides its body.
const EXPOSED: &str = "X-Request-Id, Retry-After, RateLimit, RateLimit-Policy";

/// Seconds that a browser may remember what it was told; Chromium keeps to two hours at most.
const PREFLIGHT_LIFE: &str = "600";

/// How long our public keys may be kept. A new one signs after it is everywhere.
const KEYS_LIFE: &str = "public, max-age=300";

/// How much of a body nobody wants is read, so that its connection can be used again.
const DRAIN_BYTES: usize = 64 * 1024;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_backend_tells_us_alone_goes_no_further() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in [
            ("server", "origin"),
            ("x-memoric-owner", "3"),
            ("access-control-allow-origin", "*"),
            ("vary", "Accept"),
            ("content-type", "application/json"),
        ] {
            head.append_header(name, value).unwrap();
        }

        take_out(&mut head);

        let mut left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "vary"]);
    }
}
