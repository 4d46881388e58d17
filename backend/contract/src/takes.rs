//! What an operation takes as its body: of which kind, and how much of it.

/// What an operation takes as its body.
///
/// The gateway turns away what does not fit before it reads it, and the backend reads no more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Takes {
    /// Nothing. A body that comes all the same would be read by some servers and not by others.
    Nothing,
    /// JSON that is called so, of at most this many bytes.
    Json(usize),
    /// JSON of at most this many bytes, called so, not called anything, or called what `curl -d`
    /// says: the guide logs in like that. A browser may send it from any page without asking us,
    /// so that it is for what needs no credential of the browser's own.
    UnlabelledJson(usize),
}

impl Takes {
    /// The bytes that a body may have at most.
    pub const fn most(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Json(bytes) | Self::UnlabelledJson(bytes) => bytes,
        }
    }

    /// Whether a body may call itself `content_type`. `None`: it does not say what it is.
    pub fn allows(self, content_type: Option<&[u8]>) -> bool {
        let Some(claimed) = content_type else { return matches!(self, Self::UnlabelledJson(_)) };
        let essence = claimed.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        match self {
            Self::Nothing => false,
            Self::Json(_) => is_json(essence),
            Self::UnlabelledJson(_) => is_json(essence) || essence.eq_ignore_ascii_case(CURL),
        }
    }
}

/// `application/json`, or anything of `application/` that ends in `+json`, as it always was.
fn is_json(essence: &[u8]) -> bool {
    let essence = essence.to_ascii_lowercase();
    let Some(name) = essence.strip_prefix(b"application/") else { return false };
    name == b"json" || name.ends_with(b"+json")
}

/// What `curl -d` calls whatever it sends.
const CURL: &[u8] = b"application/x-www-form-urlencoded";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_is_read_except_where_the_guide_says_nothing() {
        let claiming = |name: Option<&str>| {
            [Takes::Json(1), Takes::UnlabelledJson(1), Takes::Nothing]
                .map(|takes| takes.allows(name.map(str::as_bytes)))
        };
        assert_eq!(claiming(Some("application/json")), [true, true, false]);
        assert_eq!(claiming(Some("Application/JSON; charset=utf-8")), [true, true, false]);
        assert_eq!(claiming(Some("application/merge-patch+json")), [true, true, false]);
        assert_eq!(claiming(None), [false, true, false]);
        assert_eq!(claiming(Some("application/x-www-form-urlencoded")), [false, true, false]);
        for other in
            ["text/plain", "text/json+json", "", "application/json2", "multipart/form-data"]
        {
            assert_eq!(claiming(Some(other)), [false; 3], "{other}");
        }
    }
}
