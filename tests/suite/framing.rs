//! Where a message ends: at one place, for us and for whoever reads it after us.

mod http2;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use harness::{Edge, Received, assertion_key, checkout, now, token, until_some};
use memoric_contract::{ASSERTION_HEADER, Caller, Operation, Role, UserId, audit::Record, spool};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// Each case stands before a victim's request on one connection, as if a proxy before us had put
/// two of its clients' there. Either the case is refused, or the origin sees it once and as it was
/// meant; and the victim's request arrives as its own, or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_reaches_into_the_next_one() {
    let edge = Arc::new(edge().await);
    let cases = cases();
    assert!(cases.len() >= 150, "{} cases", cases.len());

    let mut failed = Vec::new();
    for case in cases {
        for delivery in [Sent::AtOnce, Sent::InPieces] {
            let (edge, case) = (Arc::clone(&edge), case.clone());
            let name = format!("{} {delivery:?}", case.name);
            if tokio::spawn(async move { case.judge(&edge, delivery).await }).await.is_err() {
                failed.push(name);
            }
        }
    }

    assert!(failed.is_empty(), "{} failed, see above: {failed:#?}", failed.len());
}

#[tokio::test]
async fn what_never_becomes_a_request_is_refused_in_our_words_and_on_the_record() {
    let edge = edge().await;
    for bytes in [&b"not http at all\r\n\r\n"[..], b"GET / HTTP/1.1\r\nX Y: 1\r\n\r\n"] {
        let heard = converse(&edge, bytes, Sent::AtOnce).await;
        let [answer] = &heard[..] else { panic!("{heard:#?}") };
        assert_eq!(answer.status, 400);
        answer.ensure_ours("said in clear");
        let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(problem["code"], "bad_request");
        let record = recorded(&edge, problem["request_id"].as_str().unwrap()).await;
        assert_eq!(record.metadata.as_ref().unwrap()["code"], "malformed");
        assert_eq!(record.subject, None);
    }

    let series = r#"memoric_gateway_unparsed_total{protocol="http1",reason="malformed"}"#;
    assert_eq!(edge.counted(series).await, 2.0);
}

#[tokio::test]
async fn what_comes_before_nonsense_is_answered_first() {
    let edge = edge().await;
    let good = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

    for nonsense in
        ["GET /a b HTTP/1.1\r\n\r\n", "X\0Y\r\n\r\n", "GET / HTTP/1.1\r\nX Y: 1\r\n\r\n"]
    {
        let heard = converse(&edge, format!("{good}{nonsense}").as_bytes(), Sent::AtOnce).await;
        let statuses: Vec<_> = heard.iter().map(|answer| answer.status).collect();
        assert_eq!(statuses, [200, 400], "{nonsense:?}");
        heard[1].ensure_ours(nonsense);
    }
}

#[tokio::test]
async fn a_head_that_begins_behind_another_request_must_end_as_soon() {
    let edge = Edge::with(|settings| {
        settings.gateway.timeouts.head = Duration::from_secs(2).into();
        settings.gateway.timeouts.idle = Duration::from_secs(60).into();
    })
    .await;
    let began = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHo";

    let heard = converse(&edge, began.as_bytes(), Sent::AtOnce).await;

    assert_eq!(heard.len(), 1, "{heard:#?}");
    let series = r#"memoric_gateway_unparsed_total{protocol="http1",reason="late"}"#;
    assert_eq!(edge.counted(series).await, 1.0);
}

/// A request that somebody made to confuse, and what is to become of it.
#[derive(Clone)]
struct Case {
    name: String,
    expected: Expected,
    victim_is_served: bool,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Expected {
    /// It is refused with this status.
    Refused(u16),
    /// It arrives, with this method, target and body.
    Forwarded { method: String, target: String, body: String },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sent {
    /// Everything in one segment, as far as there is room.
    AtOnce,
    /// Everything in many small ones.
    InPieces,
}

/// One answer that came back.
struct Heard {
    status: u16,
    head: String,
    body: String,
}

impl Case {
    fn read(path: PathBuf) -> Self {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(path).unwrap();
        let (about, bytes) =
            text.split_once("\n\n").unwrap_or_else(|| panic!("{name}: no request"));
        let said = |key: &str| {
            let line = about.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("{name}: nothing behind {key}"))
        };
        let words: Vec<_> = said("expect: ").splitn(3, ' ').map(str::to_owned).collect();
        let expected = match &words[..] {
            [status] => Expected::Refused(status.parse().unwrap()),
            [method, target, body @ ..] => Expected::Forwarded {
                method: method.clone(),
                target: target.clone(),
                body: body.first().cloned().unwrap_or_default(),
            },
            [] => panic!("{name}: nothing is expected"),
        };
        let victim_is_served = match said("then: ") {
            "victim" => true,
            "closed" => false,
            other => panic!("{name}: {other}"),
        };
        Self { bytes: expand(bytes), name, expected, victim_is_served }
    }

    async fn judge(&self, edge: &Edge, delivery: Sent) {
        edge.origin.forget();
        let victim = format!(
            "GET {VICTIMS_TARGET} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            token(VICTIM, &[Role::User])
        );

        let heard = converse(edge, &[&self.bytes, victim.as_bytes()].concat(), delivery).await;

        let told = format!("{} {delivery:?}: {heard:#?} {:#?}", self.name, edge.origin.requests());
        assert_eq!(edge.origin.take_faults(), [""; 0], "{told}");
        let [first, rest @ ..] = &heard[..] else { panic!("no answer: {told}") };
        let arrived = edge.origin.requests();
        let rest_arrived = match &self.expected {
            Expected::Refused(status) => {
                assert_eq!(first.status, *status, "{told}");
                first.ensure_ours(&told);
                &arrived[..]
            }
            Expected::Forwarded { method, target, body } => {
                assert_eq!(first.status, 200, "{told}");
                let [request, rest @ ..] = &arrived[..] else { panic!("nothing came: {told}") };
                let seen = (&request.method, &request.target, &request.body[..]);
                assert_eq!(seen, (method, target, body.as_bytes()), "{told}");
                assert_eq!(caller(request), UserId(ATTACKER), "{told}");
                assert!(request.trailers.is_empty(), "{told}");
                rest
            }
        };
        match (self.victim_is_served, rest, rest_arrived) {
            (false, [], []) => {}
            (true, [answer], [request]) => {
                assert!(answer.body.contains(VICTIMS_TARGET), "somebody else's answer: {told}");
                assert_eq!(
                    (request.method.as_str(), request.target.as_str()),
                    ("GET", VICTIMS_TARGET)
                );
                assert_eq!(caller(request), UserId(VICTIM), "{told}");
                assert!(request.body.is_empty(), "{told}");
            }
            _ => panic!("the victim is served: {}, but {told}", self.victim_is_served),
        }
    }
}

impl Heard {
    /// A refusal is in our words, under an id of ours, and says nothing of what we run on.
    fn ensure_ours(&self, told: &str) {
        let head = self.head.to_ascii_lowercase();
        assert!(head.contains("\r\ncontent-type: application/problem+json\r\n"), "{told}");
        assert!(head.contains("\r\nx-content-type-options: nosniff\r\n"), "{told}");
        assert!(!head.contains("\r\nserver:"), "{told}");
        let id = head.split("\r\nx-request-id: ").nth(1).and_then(|rest| rest.get(..36));
        let id = id.unwrap_or_else(|| panic!("no id: {told}"));
        assert!(self.body.contains(id) || self.body.is_empty(), "{told}");
    }
}

impl fmt::Debug for Heard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.head, self.body)
    }
}

/// An edge at which nothing takes long.
async fn edge() -> Edge {
    Edge::with(|settings| {
        settings.gateway.timeouts.head = Duration::from_secs(4).into();
        settings.gateway.timeouts.exchange = Duration::from_secs(8).into();
        settings.gateway.connections.per_address = 10_000;
    })
    .await
}

/// The record of `request`, once it has been handed over.
async fn recorded(edge: &Edge, request: &str) -> Record {
    until_some(&format!("{request} is recorded"), async || {
        edge.origin.deliveries().into_iter().find_map(|delivery| {
            let spool::Delivery::Report(report) = delivery else { panic!("{delivery:?}") };
            let record = report.record();
            (record.request.to_string() == request).then(|| record.clone())
        })
    })
    .await
}

fn cases() -> Vec<Case> {
    let folder = checkout().join("tests/corpus/framing");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(Case::read).collect()
}

/// Reads the bytes of a case: lines end where they say so, and in braces stand a token, the length
/// of the body, or many of one letter.
fn expand(text: &str) -> Vec<u8> {
    let text = text.lines().collect::<String>();
    let text = text.replace("{token}", &token(ATTACKER, &[Role::User]));
    let mut bytes = Vec::new();
    let mut rest = text.chars();
    while let Some(sign) = rest.next() {
        match sign {
            '\\' => bytes.push(match rest.next().unwrap() {
                'r' => b'\r',
                'n' => b'\n',
                't' => b'\t',
                '0' => 0,
                'x' => u8::from_str_radix(&rest.by_ref().take(2).collect::<String>(), 16).unwrap(),
                other => panic!("\\{other}"),
            }),
            '{' if rest.as_str().starts_with("a*") => {
                let count: String = rest.by_ref().skip(2).take_while(|sign| *sign != '}').collect();
                bytes.extend(vec![b'a'; count.parse().unwrap()]);
            }
            sign => bytes.extend_from_slice(sign.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    let (at, behind) = (position(&bytes, b"{length}"), position(&bytes, b"\r\n\r\n"));
    if let (Some(at), Some(behind)) = (at, behind) {
        let length = bytes.len() - behind - 4;
        bytes.splice(at..at + 8, length.to_string().into_bytes());
    }
    bytes
}

/// Says `bytes` to the gateway, and hears until it closes.
async fn converse(edge: &Edge, bytes: &[u8], delivery: Sent) -> Vec<Heard> {
    let (mut reader, mut writer) = TcpStream::connect(edge.http).await.unwrap().into_split();
    let (bytes, is_head) = (bytes.to_vec(), bytes.starts_with(b"HEAD "));
    let speaking = tokio::spawn(async move {
        let piece = match delivery {
            Sent::AtOnce => bytes.len(),
            Sent::InPieces => (bytes.len() / 16).max(7),
        };
        for piece in bytes.chunks(piece) {
            if writer.write_all(piece).await.is_err() {
                break;
            }
            if delivery == Sent::InPieces {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        writer
    });
    let mut heard = Vec::new();
    // A reset behind the last answer is an end, too.
    let hearing = async { while matches!(reader.read_buf(&mut heard).await, Ok(1..)) {} };
    let ended = timeout(Duration::from_secs(30), hearing).await.is_ok();
    assert!(ended, "still open: {:?}", String::from_utf8_lossy(&heard));
    drop(speaking.await.unwrap());
    answers(&heard, is_head)
}

/// The answers in what was heard, without those that only invite. The first one has no body if it
/// answers a HEAD.
fn answers(mut bytes: &[u8], mut is_head: bool) -> Vec<Heard> {
    let mut answers = Vec::new();
    while let Some(end) = position(bytes, b"\r\n\r\n") {
        let (head, rest) = (String::from_utf8_lossy(&bytes[..end + 2]), &bytes[end + 4..]);
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
        });
        let length = length.filter(|_| !std::mem::take(&mut is_head)).unwrap_or(0);
        assert!(length <= rest.len(), "cut off: {head}");
        if status >= 200 {
            let body = String::from_utf8_lossy(&rest[..length]).into_owned();
            answers.push(Heard { status, head: head.into_owned(), body });
        }
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "behind the answers: {:?}", String::from_utf8_lossy(bytes));
    answers
}

/// Whom the gateway vouches for.
fn caller(request: &Received) -> UserId {
    let [assertion] = request.values(ASSERTION_HEADER)[..] else { panic!("{request:?}") };
    let asked = (request.method.as_str(), request.target.as_str());
    let operation = Operation::at(&request.method, request.path()).unwrap().name();
    let verified = assertion_key().verify(assertion, asked, operation, now()).unwrap();
    let Caller::Known(identity) = verified.caller() else { panic!("{request:?}") };
    identity.user
}

fn position(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

const ATTACKER: i64 = 666;
const VICTIM: i64 = 7;
const VICTIMS_TARGET: &str = "/memories?top_k=7";
