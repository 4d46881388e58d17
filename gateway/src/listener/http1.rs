//! What goes by on an HTTP/1 connection, followed beside the engine's parser, which forgives.

/// Follows the messages of a client through the bytes of a connection.
///
/// The engine's parser mends request lines, takes an empty size of a chunk for the last one and
/// lets an extension or a trailer be anything. Whoever read the same bytes before us may have mended
/// them differently, and then the rest of a body is a request to one of us. So this finds where each
/// message ends by the letter of RFC 9112, and what is not by the letter goes no further.
///
/// Heads are judged elsewhere, once the engine has one: from a head whose end is unclear this is
/// blind, because the connection ends with its refusal.
#[derive(Debug)]
pub(super) struct Messages {
    place: Place,
    /// What has come of the line that is awaited.
    line: Vec<u8>,
}

/// Where in a message a connection stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Between two messages.
    Between,
    /// In a head that has announced this body so far.
    Head(Body),
    /// In a body or the data of a chunk of which so many bytes are to come, and then this.
    Bytes(u64, Next),
    /// Before the size of a chunk.
    Size,
    /// Behind the data of a chunk.
    DataEnd,
    /// Behind the last chunk, and so many bytes of trailers.
    Trailers(usize),
    /// Where nobody can tell.
    Lost,
}

/// What a head announces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Body {
    None,
    Length(u64),
    Chunked,
}

/// What follows bytes that are counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Message,
    DataEnd,
}

/// A line that cannot be what stands there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Flaw {
    /// Of the next request.
    Request,
    /// Of the body that is being read.
    Body,
}

impl Messages {
    pub(super) fn new() -> Self {
        Self { place: Place::Between, line: Vec::new() }
    }

    /// Whether a head has begun and not ended.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.place, Place::Head(_))
            || self.place == Place::Between && !self.line.is_empty()
    }

    /// Goes on by `bytes`, or up to the first line that is flawed: how many are good, and the flaw.
    pub(super) fn follow(&mut self, bytes: &[u8]) -> Result<(), (usize, Flaw)> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let good = bytes.len() - rest.len();
            rest = match self.place {
                Place::Lost => return Ok(()),
                Place::Bytes(left, next) => self.skip(rest, left, next),
                _ => self.read_line(rest).map_err(|flaw| (good, flaw))?,
            };
        }
        Ok(())
    }

    fn skip<'a>(&mut self, bytes: &'a [u8], left: u64, next: Next) -> &'a [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left.saturating_sub(here as u64);
        self.place = match next {
            _ if left > 0 => Place::Bytes(left, next),
            Next::Message => Place::Between,
            Next::DataEnd => Place::DataEnd,
        };
        bytes.get(here..).unwrap_or_default()
    }

    /// Reads as much of a line as there is, and judges it when it is whole.
    fn read_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Flaw> {
        let end = bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1);
        let (part, rest) = bytes.split_at_checked(end.unwrap_or(bytes.len())).unwrap_or_default();
        if self.line.len() + part.len() > self.place.longest_line() {
            return self.place.flaw().map_or_else(|| Ok(self.lose()), Err);
        }
        if end.is_none() {
            self.line.extend_from_slice(part);
            return Ok(rest);
        }
        if self.line.is_empty() {
            self.place = self.place.behind(part)?;
        } else {
            self.line.extend_from_slice(part);
            self.place = self.place.behind(&self.line)?;
            self.line = Vec::new();
        }
        Ok(rest)
    }

    fn lose(&mut self) -> &'static [u8] {
        *self = Self { place: Place::Lost, line: Vec::new() };
        &[]
    }
}

impl Place {
    /// The place behind `line`, which ends in LF.
    fn behind(self, line: &[u8]) -> Result<Self, Flaw> {
        let Some(text) = line.strip_suffix(b"\r\n") else {
            return self.flaw().map_or(Ok(Self::Lost), Err);
        };
        match self {
            Self::Between if text.is_empty() => Ok(Self::Between),
            Self::Between if is_request_line(text) => Ok(Self::Head(Body::None)),
            Self::Between => Err(Flaw::Request),
            Self::Head(body) if text.is_empty() => Ok(Self::behind_head(body)),
            Self::Head(body) => Ok(body.with(text).map_or(Self::Lost, Self::Head)),
            Self::Size => match chunk_size(text).ok_or(Flaw::Body)? {
                0 => Ok(Self::Trailers(0)),
                size => Ok(Self::Bytes(size, Next::DataEnd)),
            },
            Self::DataEnd if text.is_empty() => Ok(Self::Size),
            Self::Trailers(_) if text.is_empty() => Ok(Self::Between),
            Self::Trailers(before) if is_field(text) => Ok(Self::Trailers(before + line.len())),
            Self::DataEnd | Self::Trailers(_) => Err(Flaw::Body),
            Self::Bytes(..) | Self::Lost => Ok(Self::Lost),
        }
    }

    const fn behind_head(body: Body) -> Self {
        match body {
            Body::None | Body::Length(0) => Self::Between,
            Body::Length(length) => Self::Bytes(length, Next::Message),
            Body::Chunked => Self::Size,
        }
    }

    /// What a line is that does not end, or ends in LF alone. Those of heads are the engine's to
    /// bound and the checks' to refuse.
    const fn flaw(self) -> Option<Flaw> {
        match self {
            Self::Between | Self::Head(_) | Self::Bytes(..) | Self::Lost => None,
            Self::Size | Self::DataEnd | Self::Trailers(_) => Some(Flaw::Body),
        }
    }

    const fn longest_line(self) -> usize {
        match self {
            Self::DataEnd => b"\r\n".len(),
            Self::Size => LONGEST_SIZE,
            Self::Trailers(before) => LONGEST_TRAILERS.saturating_sub(before),
            Self::Between | Self::Head(_) | Self::Bytes(..) | Self::Lost => LONGEST_HEAD_LINE,
        }
    }
}

impl Body {
    /// What is announced with one more field. `None`: two things, or nothing that can be understood.
    fn with(self, field: &[u8]) -> Option<Self> {
        let Some(colon) = field.iter().position(|byte| *byte == b':') else { return Some(self) };
        let (name, value) = field.split_at_checked(colon)?;
        let value = value.strip_prefix(b":")?.trim_ascii();
        let is_length = name.eq_ignore_ascii_case(b"content-length");
        if !is_length && !name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Some(self);
        }
        let is_digits = || value.iter().all(u8::is_ascii_digit);
        match self {
            Self::Length(_) | Self::Chunked => None,
            Self::None if is_length && is_digits() => {
                str::from_utf8(value).ok()?.parse().ok().map(Self::Length)
            }
            Self::None if !is_length && value.eq_ignore_ascii_case(b"chunked") => {
                Some(Self::Chunked)
            }
            Self::None => None,
        }
    }
}

/// Three words with one space between each, the last of them a version that is spoken here.
fn is_request_line(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    let is_word = |word: &[u8]| !word.is_empty() && word.iter().all(|byte| !is_blank(*byte));
    method.is_some_and(is_token)
        && target.is_some_and(is_word)
        && matches!(version, Some(b"HTTP/1.1" | b"HTTP/1.0"))
        && words.next().is_none()
}

/// The size of a chunk (RFC 9112, section 7.1). An extension means nothing to us, but it is text.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let mut parts = line.splitn(2, |byte| *byte == b';');
    let digits = parts.next()?;
    if parts.next().is_some_and(|extension| !is_text(extension)) {
        return None;
    }
    let is_size = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = str::from_utf8(digits).ok().filter(|_| is_size)?;
    u64::from_str_radix(digits, 16).ok()
}

/// A name, a colon and text.
fn is_field(line: &[u8]) -> bool {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    parts.next().is_some_and(is_token) && parts.next().is_some_and(is_text)
}

fn is_token(word: &[u8]) -> bool {
    let is_sign = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(is_sign)
}

fn is_text(text: &[u8]) -> bool {
    text.iter().all(|byte| *byte == b'\t' || *byte == b' ' || !is_blank(*byte))
}

/// A space or a control character.
const fn is_blank(byte: u8) -> bool {
    byte <= b' ' || byte == 0x7f
}

/// Bytes of the line that tells the size of a chunk, its extensions with it.
const LONGEST_SIZE: usize = 256;

/// Bytes of all trailers.
const LONGEST_TRAILERS: usize = 16 * 1024;

/// Bytes of one line of a head; no head that is read may have more.
const LONGEST_HEAD_LINE: usize = 512 * 1024;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_ends_where_it_says() {
        for message in [
            "GET / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-LENGTH: 5 \r\nX: y\r\n\r\nhello",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "P / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n005;a=\"b\"\r\nhello\r\n1\r\n\n\r\n00;c\r\nX: y\r\nZ:\r\n\r\n",
            "\r\nGET /\u{e9}?a={b} HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(place_behind(message), Ok(Place::Between), "{message:?}");
            assert_eq!(place_behind(&message.repeat(3)), Ok(Place::Between), "{message:?}");
            let short = message.get(..message.len() - 1).unwrap();
            assert_ne!(place_behind(short), Ok(Place::Between), "{message:?}");
        }
    }

    #[test]
    fn a_request_line_is_three_words() {
        for line in [
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET  / HTTP/1.1",
            "GET\t/ HTTP/1.1",
            "GET / HTTP/1.1 HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET /\0 HTTP/1.1",
            "GET /\r HTTP/1.1",
            "GET / HTTP/2.0",
            "GET / HTTP/1.2",
            "GET / http/1.1",
            "GET /",
            "G(T / HTTP/1.1",
        ] {
            assert_eq!(place_behind(&format!("{line}\r\n")), Err((0, Flaw::Request)), "{line:?}");
        }
    }

    #[test]
    fn a_chunk_is_what_it_says() {
        for chunks in [
            "\r\n",
            ";a\r\n",
            " 5\r\n",
            "5 \r\n",
            "+5\r\n",
            "-5\r\n",
            "0x5\r\n",
            "5_0\r\n",
            "5\n",
            "5;a\nb\r\n",
            "5;a\rb\r\n",
            "5;\0\r\n",
            "10000000000000005\r\n",
            "5\r\nhelloXYZ",
            "5\r\nhello\n",
            "5\r\nhello\r\n\r\n",
            "0\r\nX\r\n",
            "0\r\nX : y\r\n",
            "0\r\n X: y\r\n",
            "0\r\nX: y\n",
            "0\r\n\n",
        ] {
            let refused = place_behind(&format!("{CHUNKED}{chunks}"));
            assert!(matches!(refused, Err((_, Flaw::Body))), "{chunks:?}: {refused:?}");
        }
    }

    #[test]
    fn what_nobody_counts_is_bounded() {
        let extension = format!("{CHUNKED}5;{}", "a".repeat(LONGEST_SIZE));
        assert!(place_behind(&extension).is_err(), "before its line has ended");
        let trailers = format!("{CHUNKED}0\r\n{}", "X: y\r\n".repeat(LONGEST_TRAILERS / 6 + 1));
        assert!(place_behind(&trailers).is_err());
        let head = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(LONGEST_HEAD_LINE));
        assert_eq!(place_behind(&head), Ok(Place::Lost), "which the engine never takes");
    }

    #[test]
    fn where_a_head_is_unclear_nothing_is_known() {
        for fields in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +5\r\n",
            "Content-Length:\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "X: y\n",
        ] {
            let head = format!("POST / HTTP/1.1\r\n{fields}\r\n5\nhello");
            assert_eq!(place_behind(&head), Ok(Place::Lost), "{fields:?}");
        }
    }

    #[test]
    fn what_stands_before_a_flaw_is_good() {
        let good = format!("GET / HTTP/1.1\r\n\r\n{CHUNKED}5\r\nhello\r\n");
        let mut messages = Messages::new();
        assert_eq!(
            messages.follow(format!("{good}nonsense\r\n").as_bytes()),
            Err((good.len(), Flaw::Body))
        );
        let mut messages = Messages::new();
        assert!(!messages.is_in_head());
        assert_eq!(messages.follow(b"GET / HTTP/1.1\r\n\r\nGET"), Ok(()));
        assert!(messages.is_in_head());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            pieces in prop::collection::vec(prop_oneof![
                Just("GET / HTTP/1.1\r\n\r\n"),
                Just("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"),
                Just(CHUNKED),
                Just("5\r\nhello\r\n"),
                Just("a;b\r\n0123456789\r\n"),
                Just("0\r\n\r\n"),
                Just("0\r\nX: y\r\n\r\n"),
                Just("\n"),
                Just("\r\n"),
                Just("G"),
            ], 0..12),
            cuts in prop::collection::vec(1..30usize, 1..20),
        ) {
            let bytes = pieces.concat().into_bytes();
            let mut whole = Messages::new();
            let at_once = whole.follow(&bytes);

            let (mut cut, mut done, mut in_pieces) = (Messages::new(), 0, Ok(()));
            for length in cuts.iter().cycle() {
                let end = (done + length).min(bytes.len());
                in_pieces = cut.follow(&bytes[done..end]);
                done = end;
                if in_pieces.is_err() || done == bytes.len() {
                    break;
                }
            }

            let flaw = |result: Result<(), (usize, Flaw)>| result.map_err(|(_, flaw)| flaw);
            prop_assert_eq!(flaw(at_once), flaw(in_pieces));
            if at_once.is_ok() {
                prop_assert_eq!((whole.place, whole.line), (cut.place, cut.line));
            }
        }
    }

    fn place_behind(bytes: &str) -> Result<Place, (usize, Flaw)> {
        let mut messages = Messages::new();
        messages.follow(bytes.as_bytes())?;
        Ok(if messages.line.is_empty() { messages.place } else { Place::Head(Body::None) })
    }

    const CHUNKED: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
}
