//! What a request is aimed at.

use std::borrow::Cow;

use http::Uri;
use pingora::http::authority::{RawTargetAuthority, is_http_family_scheme, raw_target_authority};

use crate::rejection::Rejection;

/// The path and query that are judged, matched and forwarded: one spelling of each target.
///
/// [`parse`](Self::parse) is its only maker. It decodes once, refuses what another server could
/// decode to something else, and spells the rest in one way.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Target {
    uri: Uri,
    user_id: Option<String>,
}

impl Target {
    /// Reads the target of a request in origin-form or absolute-form.
    pub(crate) fn parse(target: &[u8]) -> Result<Self, Rejection> {
        if target.contains(&b'#') {
            return Err(Rejection::Ambiguous("The target has a fragment"));
        }
        let target = origin_form(target)?;
        let (path, query) = match target.iter().position(|byte| *byte == b'?') {
            Some(mark) => target.split_at(mark),
            None => (target, [].as_slice()),
        };
        let mut canonical = canonical_path(path)?;
        let query = query.strip_prefix(b"?").unwrap_or_default();
        let user_id = check_query(query)?;
        if !query.is_empty() {
            canonical.push('?');
            canonical.push_str(str::from_utf8(query).map_err(|_| NOT_A_QUERY)?);
        }
        if canonical.len() > LONGEST {
            return Err(Rejection::HeadTooLarge);
        }
        let uri = Uri::try_from(canonical).map_err(|_| NOT_A_QUERY)?;
        Ok(Self { uri, user_id })
    }

    /// The path alone, on which operations are matched.
    pub(crate) fn path(&self) -> &str {
        self.uri.path()
    }

    /// The path and query, as they are forwarded.
    pub(crate) fn as_str(&self) -> &str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// The same, as a head carries it.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The `user_id` that the query names. An empty one names nobody.
    pub(crate) fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref().filter(|user| !user.is_empty())
    }
}

/// Drops scheme and authority of an absolute-form; framing has compared them with `Host`.
fn origin_form(target: &[u8]) -> Result<&[u8], Rejection> {
    if target.starts_with(b"/") {
        return Ok(target);
    }
    match raw_target_authority(target) {
        RawTargetAuthority::Absolute { scheme, path_and_query, .. }
            if is_http_family_scheme(scheme) =>
        {
            Ok(if path_and_query.starts_with(b"/") { path_and_query } else { b"/" })
        }
        _ => Err(Rejection::Ambiguous("The target is not a path")),
    }
}

fn canonical_path(path: &[u8]) -> Result<String, Rejection> {
    if path.windows(3).any(|escape| escape.eq_ignore_ascii_case(b"%2f")) {
        return Err(Rejection::Ambiguous("The path has an encoded slash"));
    }
    let decoded = decode(path)?;
    let text =
        str::from_utf8(&decoded).map_err(|_| Rejection::Ambiguous("The path is not UTF-8"))?;
    if text.contains('\\') {
        return Err(Rejection::Ambiguous("The path has a backslash"));
    }
    if text.contains(char::is_control) {
        return Err(Rejection::Ambiguous("The path has a control character"));
    }
    if has_escape(&decoded) {
        return Err(Rejection::Ambiguous("The path is encoded twice"));
    }
    let segments = text.strip_prefix('/').unwrap_or_default();
    let segments = segments.strip_suffix('/').unwrap_or(segments);
    if !segments.is_empty() || text.len() > 1 {
        segments.split('/').try_for_each(check_segment)?;
    }
    Ok(encode(segments))
}

fn check_segment(segment: &str) -> Result<(), Rejection> {
    // What stands behind a semicolon some servers drop before they look (RFC 3986, section 3.3).
    match segment.split(';').next().unwrap_or_default() {
        "" if segment.is_empty() => Err(Rejection::Ambiguous("The path has an empty segment")),
        "." | ".." => Err(Rejection::Ambiguous("The path has a dot segment")),
        _ => Ok(()),
    }
}

/// Checks a query, which is passed on as it was sent, and finds the one `user_id` in it.
fn check_query(query: &[u8]) -> Result<Option<String>, Rejection> {
    if !query.iter().all(u8::is_ascii_graphic) {
        return Err(NOT_A_QUERY);
    }
    let mut user_id = None;
    for pair in query.split(|byte| *byte == b'&') {
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(mark) => (pair.get(..mark), pair.get(mark + 1..)),
            None => (Some(pair), None),
        };
        let (name, value) = (text(name.unwrap_or_default())?, text(value.unwrap_or_default())?);
        // One in a value is for the backend to refuse, by the name of the field.
        if name.contains('\0') {
            return Err(Rejection::Ambiguous("The query has a name with a NUL in it"));
        }
        if name == "user_id" && user_id.replace(value).is_some() {
            return Err(Rejection::Ambiguous("The query has more than one user_id"));
        }
    }
    Ok(user_id)
}

/// Decodes a part of a query as every form decoder does.
fn text(part: &[u8]) -> Result<String, Rejection> {
    let spaced: Vec<u8> =
        part.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
    String::from_utf8(decode(&spaced)?.into_owned())
        .map_err(|_| Rejection::Ambiguous("The query is not UTF-8"))
}

/// Decodes once, and only what is well encoded.
fn decode(encoded: &[u8]) -> Result<Cow<'_, [u8]>, Rejection> {
    if !encoded.contains(&b'%') {
        return Ok(encoded.into());
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let [byte, after @ ..] = rest {
        rest = after;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(HALF_ENCODED) };
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(HALF_ENCODED) };
        decoded.push(high << 4 | low);
        rest = after;
    }
    Ok(decoded.into())
}

/// Whether there is something left to decode.
fn has_escape(decoded: &[u8]) -> bool {
    decoded.windows(3).any(|window| match window {
        [b'%', high, low] => digit(*high).is_some() && digit(*low).is_some(),
        _ => false,
    })
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Spells decoded segments in the one way that we forward: upper-case escapes, and only of what
/// a segment cannot hold (RFC 3986, section 3.3).
fn encode(segments: &str) -> String {
    let mut path = String::with_capacity(segments.len() + 1);
    path.push('/');
    for byte in segments.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// Bytes of a target at most: as many as `Uri` takes.
const LONGEST: usize = u16::MAX as usize - 1;

const HALF_ENCODED: Rejection = Rejection::Ambiguous("The target has half an escape");
const NOT_A_QUERY: Rejection =
    Rejection::Ambiguous("The query has a character that it cannot have");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_spelling() {
        for (sent, canonical) in [
            ("/", "/"),
            ("/memories", "/memories"),
            ("/memories/", "/memories"),
            ("/%6demories", "/memories"),
            ("/%6Demories?", "/memories"),
            ("/auth/users/a%20b", "/auth/users/a%20b"),
            ("/auth/users/%c3%a9", "/auth/users/%C3%A9"),
            ("/auth/users/a\u{e9}", "/auth/users/a%C3%A9"),
            ("/auth/users/a:b@c", "/auth/users/a:b@c"),
            ("/auth/users/a..;b", "/auth/users/a..;b"),
            ("/auth/users/...;b", "/auth/users/...;b"),
            ("/auth/users/100%25", "/auth/users/100%25"),
            ("/memories?thread_id=a%2Fb&x", "/memories?thread_id=a%2Fb&x"),
            ("http://a.example/memories?top_k=3", "/memories?top_k=3"),
            ("https://a.example", "/"),
        ] {
            let target = Target::parse(sent.as_bytes()).unwrap();
            assert_eq!(target.as_str(), canonical, "{sent}");
            assert_eq!(
                Target::parse(target.as_str().as_bytes()).unwrap(),
                target,
                "not idempotent: {sent}"
            );
        }
    }

    #[test]
    fn what_could_be_two_paths_is_refused() {
        let refused = [
            "/memories%00",
            "/memories%2f",
            "/memories%2F..",
            "/a%5cb",
            "/a\\b",
            "/a%0d%0a",
            "/a%7f",
            "/a%c2%85",
            "/a%ff",
            "/a%c0%af",
            "/./memories",
            "/a/../memories",
            "/a/%2e%2e/memories",
            "/%2e",
            "/a/..;/memories",
            "/a/..;x=1/memories",
            "/a/.%3b/memories",
            "/a/%2e%2e%3bx",
            "//memories",
            "/memories//",
            "/a//b",
            "//",
            "/memories#x",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%252f",
            "/a%25%32%66",
            "",
            "*",
            "memories",
            "http:/memories",
            "ftp://a/b",
            "?a=b",
        ];
        for target in refused {
            assert!(Target::parse(target.as_bytes()).is_err(), "{target}");
        }
        assert!(Target::parse(b"/a\xff").is_err());
    }

    #[test]
    fn a_query_is_passed_on_or_refused() {
        for query in
            ["a=%", "a=%0", "a=%xx", "a=b c", "a=\u{e9}", "a=%ff", "a%00=b", "a=\x01", "a=\"b\""]
        {
            assert!(Target::parse(format!("/memories?{query}").as_bytes()).is_err(), "{query}");
        }
        for query in ["a=b%20c+d", "a=%0A", "a=%00", "?", "a=b?c=/d", "&&", "=", "a[]=1"] {
            let sent = format!("/memories?{query}");
            assert_eq!(Target::parse(sent.as_bytes()).unwrap().as_str(), sent);
        }
    }

    #[test]
    fn a_target_that_is_too_long_is_called_so() {
        let parse = |bytes: usize| {
            Target::parse(format!("/memories?{}", "a".repeat(bytes - 10)).as_bytes())
        };
        assert!(parse(LONGEST).is_ok());
        assert_eq!(parse(LONGEST + 1), Err(Rejection::HeadTooLarge));
        assert_eq!(parse(100_000), Err(Rejection::HeadTooLarge));
    }

    #[test]
    fn one_user_is_named_in_whatever_spelling() {
        let named = |query: &str| {
            let target = Target::parse(format!("/memories?{query}").as_bytes());
            target.map(|target| target.user_id().map(str::to_owned))
        };
        assert_eq!(named("top_k=3"), Ok(None));
        assert_eq!(named("user_id="), Ok(None), "empty is oneself");
        assert_eq!(named("user_id"), Ok(None));
        assert_eq!(named("a=1&user%5Fid=%33"), Ok(Some("3".to_owned())));
        assert_eq!(named("user_id=+3"), Ok(Some(" 3".to_owned())));
        for twice in ["user_id=3&user_id=3", "user_id=3&user%5fid=4", "user_id&user_id=4"] {
            assert!(named(twice).is_err(), "{twice}");
        }
    }
}
