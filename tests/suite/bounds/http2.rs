//! What one client can make us do and hold over one HTTP/2 connection.

use std::time::{Duration, Instant};

use harness::{
    Answer, Edge,
    http2::{Frame, Http2, Outcome, PREFACE, block},
    token, until,
};
use memoric_contract::Role;
use tokio::time::sleep;

#[tokio::test]
async fn a_connection_is_offered_so_much_and_no_more() {
    let edge = Edge::start().await;
    let mut client = Http2::connect(&edge).await;

    let Some(Frame { kind: Frame::SETTINGS, payload, .. }) = client.hear().await else {
        panic!("no settings")
    };

    let offered = |id: u16| {
        let is_it = |setting: &&[u8]| setting[..2] == id.to_be_bytes();
        let setting = payload.chunks(6).find(is_it).unwrap_or_else(|| panic!("no setting {id}"));
        u32::from_be_bytes(*setting[2..].first_chunk().unwrap())
    };
    assert_eq!(offered(3), 64, "streams at once");
    assert_eq!(offered(6), 16 * 1024, "bytes of a list of fields");
    assert_eq!(offered(4), 64 * 1024 - 1, "bytes of a body, before they are read");
}

#[tokio::test]
async fn requests_at_once_are_bounded() {
    let edge = Edge::start().await;
    let mut client = Http2::connect(&edge).await;
    let (token, mut last) = (bearer(), 0);

    for stream in (1..=2 * 65).step_by(2) {
        client.send(&head(stream, &unfinished(&token), 0)).await;
        last = stream;
    }

    assert_eq!(client.outcome(last).await, Outcome::Reset(REFUSED_STREAM));
    assert_eq!(unparsed(&edge, "too_many_streams").await, 1.0);
    assert!(edge.counted("memoric_gateway_requests_in_flight").await <= 64.0);
}

/// One at a time, so that the engine has begun with each before it is taken back; of those that it
/// has not begun with, it bears twenty.
#[tokio::test]
async fn who_takes_back_every_request_is_cut() {
    let edge = Edge::start().await;
    let mut client = Http2::connect(&edge).await;
    let (token, mut taken_back) = (bearer(), 0);

    for stream in (1..1001).step_by(2) {
        client.send(&head(stream, &unfinished(&token), 0)).await;
        if !client.is_heard().await {
            break;
        }
        client.send(&Frame::new(Frame::RST_STREAM, 0, stream, &[0, 0, 0, 8]).bytes()).await;
        taken_back += 1;
    }

    assert!((100..300).contains(&taken_back), "{taken_back} were taken back");
    until_flooded(&edge).await;
    until("it is closed", async || edge.counted(CONNECTIONS).await == 0.0).await;
}

#[tokio::test]
async fn who_makes_us_take_back_every_request_is_cut() {
    let too_much = [0x7f, 0xff, 0xff, 0xff];
    for (case, reason, kind, flags, payload) in [
        ("data beyond a length", "malformed", Frame::DATA, END, &b"hello"[..]),
        ("a window", "flow_control", Frame::WINDOW_UPDATE, 0, &too_much),
    ] {
        let edge = Edge::start().await;
        let mut client = Http2::connect(&edge).await;
        let (token, mut reset) = (bearer(), 0);

        for stream in (1..1001).step_by(2) {
            let mut fields = unfinished(&token);
            fields.push(("content-length", "4"));
            client.send(&head(stream, &fields, 0)).await;
            if !client.is_heard().await {
                break;
            }
            client.send(&Frame::new(kind, flags, stream, payload).bytes()).await;
            if !matches!(client.outcome(stream).await, Outcome::Reset(_)) {
                break;
            }
            reset += 1;
        }

        assert!((1..200).contains(&reset), "{case}: {reset} were reset");
        assert!(unparsed(&edge, reason).await >= f64::from(reset), "{case}");
    }
}

#[tokio::test]
async fn fields_without_end_are_cut() {
    for (case, piece) in [("of nothing", &[][..]), ("of something", &block(&[("x", "y")])[..])] {
        let edge = Edge::start().await;
        let mut client = Http2::connect(&edge).await;
        let mut sent = 0;

        client.send(&head_flagged(1, &fields(&bearer()), 0)).await;
        let more = Frame::new(Frame::CONTINUATION, 0, 1, piece).bytes().repeat(100);
        while sent < 100_000 && client.send(&more).await {
            sent += 100;
        }

        assert_eq!(client.outcome(1).await, Outcome::WentAway(CALM), "{case}, after {sent}");
        assert_eq!(unparsed(&edge, "flooded").await, 1.0, "{case}");
        assert!(edge.origin.requests().is_empty());
    }
}

#[tokio::test]
async fn frames_that_ask_for_nothing_are_cut() {
    let data = Frame::new(Frame::DATA, 0, 1, b"");
    let ping = Frame::new(Frame::PING, 0, 0, &[0; 8]);
    let settings = Frame::new(Frame::SETTINGS, 0, 0, &[]);
    let window = Frame::new(Frame::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let unknown = Frame::new(0xbe, 0, 0, b"");
    for (case, idle) in [
        ("data", data),
        ("pings", ping),
        ("settings", settings),
        ("windows", window),
        ("unknown", unknown),
    ] {
        let edge = Edge::start().await;
        let mut client = Http2::connect(&edge).await;
        let mut sent = 0;

        client.send(&head(1, &unfinished(&bearer()), 0)).await;
        let many = idle.bytes().repeat(50);
        while sent < 50_000 && client.send(&many).await {
            sent += 50;
        }

        let outcome = client.outcome(1).await;
        assert!(matches!(outcome, Outcome::WentAway(CALM) | Outcome::Cut), "{case}: {outcome:?}");
        until_flooded(&edge).await;
    }
}

#[tokio::test]
async fn a_small_list_that_unfolds_to_a_large_one_is_refused() {
    let edge = Edge::start().await;
    let mut client = Http2::connect(&edge).await;
    let token = bearer();
    // Remembered once (RFC 7541, section 6.2.1), and then named by its number in one byte each.
    let large = "y".repeat(120);
    let mut bomb = block(&fields(&token));
    bomb.extend([&[0x40, 1, b'x', 120][..], large.as_bytes()].concat());
    bomb.extend([0x80 | 62].repeat(5000));
    let end = Frame::END_HEADERS | Frame::END_STREAM;

    client.send(&Frame::new(Frame::HEADERS, end, 1, &bomb).bytes()).await;

    let outcome = client.outcome(1).await;
    assert!(matches!(outcome, Outcome::Answered(431) | Outcome::WentAway(_)), "{outcome:?}");
    assert!(edge.origin.requests().is_empty());
}

#[tokio::test]
async fn a_list_of_fields_is_bounded() {
    let edge = Edge::start().await;
    let mut client = Http2::connect(&edge).await;
    let (token, large) = (bearer(), "y".repeat(15_000));

    let in_two = [
        head_flagged(1, &fields(&token), END),
        Frame::new(Frame::CONTINUATION, 0, 1, &block(&[("x", &large)])).bytes(),
        Frame::new(Frame::CONTINUATION, Frame::END_HEADERS, 1, &block(&[("z", &large)])).bytes(),
    ];
    client.send(&in_two.concat()).await;
    assert_eq!(client.outcome(1).await, Outcome::Answered(431));
    assert_eq!(unparsed(&edge, "oversized").await, 1.0, "the engine's own answer");

    let names: Vec<_> = (0..100).map(|n| format!("x-{n}")).collect();
    let mut too_many = fields(&token);
    too_many.extend(names.iter().map(|name| (name.as_str(), "1")));
    client.ask(3, &too_many).await;
    assert_eq!(client.outcome(3).await, Outcome::Answered(431));
    assert_eq!(unparsed(&edge, "oversized").await, 1.0, "ours");

    client.ask(5, &fields(&token)).await;
    assert_eq!(client.outcome(5).await, Outcome::Answered(200), "and the connection lives");
}

#[tokio::test]
async fn fields_that_drip_in_are_cut() {
    let edge = brisk().await;
    let token = bearer();
    let first = head_flagged(1, &fields(&token), END);
    let continued = || Frame::new(Frame::CONTINUATION, 0, 1, &block(&[("x", "y")])).bytes();
    let bytes = head(1, &fields(&token), END).into_iter().map(|byte| vec![byte]);
    let drips: [(_, Vec<u8>, Drip); 3] = [
        ("frame by frame", first, Box::new(std::iter::repeat_with(continued))),
        ("byte by byte", Vec::new(), Box::new(bytes)),
        ("in the head of a frame", vec![0], Box::new(std::iter::repeat(Vec::new()))),
    ];
    for (at, (case, first, drip)) in drips.into_iter().enumerate() {
        let mut client = Http2::connect(&edge).await;
        let began = Instant::now();

        client.send(&first).await;
        for drop in drip {
            if !client.send(&drop).await || edge.counted(CONNECTIONS).await == 0.0 {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{case}: still open");
            // No faster: the engine itself ends a head of more than a few frames.
            sleep(Duration::from_millis(500)).await;
        }

        assert_eq!(client.outcome(1).await, Outcome::Cut, "{case}");
        assert_eq!(unparsed(&edge, "late").await, (at + 1) as f64, "{case}");
    }
}

#[tokio::test]
async fn a_hello_that_drips_in_is_cut() {
    let edge = brisk().await;
    let mut client = Http2::connect_silently(&edge).await;
    let began = Instant::now();

    for byte in PREFACE {
        if !client.send(&[*byte]).await || edge.counted(CONNECTIONS).await == 0.0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "still open");
        sleep(Duration::from_millis(250)).await;
    }

    assert_eq!(client.outcome(1).await, Outcome::Cut);
    assert_eq!(unparsed(&edge, "late").await, 1.0);
}

#[tokio::test]
async fn a_client_without_a_window_is_cut() {
    let edge = brisk().await;
    edge.origin.answer_with(|_| Answer::ok("application/json", &vec![b'x'; 1 << 20]));
    let mut client = Http2::connect(&edge).await;
    let no_window = [0, 4, 0, 0, 0, 0];

    client.send(&Frame::new(Frame::SETTINGS, 0, 0, &no_window).bytes()).await;
    client.ask(1, &fields(&bearer())).await;
    assert_eq!(client.outcome(1).await, Outcome::Answered(200));
    let outcome = client.outcome(1).await;

    assert!(matches!(outcome, Outcome::Reset(_) | Outcome::Cut), "{outcome:?}");
    let in_flight = async || edge.counted("memoric_gateway_requests_in_flight").await;
    until("it has ended", async || in_flight().await == 0.0).await;
}

#[tokio::test]
async fn a_body_that_drips_in_is_cut() {
    let edge = brisk().await;
    let mut client = Http2::connect(&edge).await;
    let began = Instant::now();

    let in_flight = async || edge.counted("memoric_gateway_requests_in_flight").await;
    client.send(&head(1, &unfinished(&bearer()), 0)).await;
    until("it is under way", async || in_flight().await == 1.0).await;
    let mut dripped = 0;
    while in_flight().await > 0.0 {
        client.part(1, b"x", false).await;
        dripped += 1;
        assert!(began.elapsed() < Duration::from_secs(60), "still open");
        sleep(Duration::from_millis(100)).await;
    }

    assert!(dripped > 1, "it ended with something coming");
    let outcome = client.outcome(1).await;
    assert!(!matches!(outcome, Outcome::Answered(200)), "{outcome:?}");
    assert!(edge.origin.requests().is_empty(), "never a whole request");
}

/// An edge at which nothing may take long, though long enough for a client on a busy machine.
async fn brisk() -> Edge {
    Edge::with(|settings| {
        settings.gateway.timeouts.head = Duration::from_secs(2).into();
        settings.gateway.timeouts.exchange = Duration::from_secs(4).into();
    })
    .await
}

fn bearer() -> String {
    format!("Bearer {}", token(7, &[Role::User]))
}

fn fields(token: &str) -> Vec<(&str, &str)> {
    vec![
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/memories"),
        ("authorization", token),
    ]
}

/// Those of a request whose body does not come.
fn unfinished(token: &str) -> Vec<(&str, &str)> {
    let mut fields = fields(token);
    fields[0].1 = "POST";
    fields.push(("content-type", "application/json"));
    fields
}

fn head(stream: u32, fields: &[(&str, &str)], end: u8) -> Vec<u8> {
    head_flagged(stream, fields, Frame::END_HEADERS | end)
}

fn head_flagged(stream: u32, fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
    Frame::new(Frame::HEADERS, flags, stream, &block(fields)).bytes()
}

/// How often something never became a request for this reason.
async fn unparsed(edge: &Edge, reason: &str) -> f64 {
    let labels = format!(r#"{{protocol="http2",reason="{reason}"}}"#);
    edge.counted(&format!("memoric_gateway_unparsed_total{labels}")).await
}

/// Waits until something was given up because there was too much of it.
async fn until_flooded(edge: &Edge) {
    until("it is a flood", async || unparsed(edge, "flooded").await > 0.0).await;
}

/// What comes next, and next.
type Drip = Box<dyn Iterator<Item = Vec<u8>> + Send>;

const END: u8 = Frame::END_STREAM;
const REFUSED_STREAM: u32 = 7;
const CALM: u32 = 11;
const CONNECTIONS: &str = r#"memoric_gateway_connections{listener="https"}"#;
