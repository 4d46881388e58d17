//! Nobody speaks as someone else, however they spell it.

mod clients;
mod requests;
mod services;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use harness::{Answer, Edge, Received, assertion_key, now, token, until};
use memoric_config::schema::TrustedHeader;
use memoric_contract::{
    ASSERTION_HEADER, AssertionKey, Caller, Operation, Role, VerifiedAssertion, spool::Delivery,
};
use reqwest::{Client, Method, StatusCode};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use self::{
    clients::{over_http1, over_http2},
    requests::{Made, Maker},
};

#[tokio::test]
async fn no_identity_of_a_clients_own_making_reaches_the_backend() {
    let edge = Arc::new(gateway().await);
    let judge = Judge::at(&edge);

    let mut clients = JoinSet::new();
    for series in 0..4 {
        let (edge, judge) = (Arc::clone(&edge), Arc::clone(&judge));
        clients.spawn(async move {
            let maker = Maker::new(series);
            over_http1(edge.http, 20_000, maker, |made, head| judge.hear_answer(made, head)).await;
        });
    }
    for series in 4..6 {
        let (edge, judge) = (Arc::clone(&edge), Arc::clone(&judge));
        clients.spawn(async move {
            let maker = Maker::new(series);
            over_http2(&edge, 10_000, maker, |made, head| judge.hear_answer(made, head)).await;
        });
    }
    let forgetting = tokio::spawn({
        let edge = Arc::clone(&edge);
        async move { Judge::forget_what_was_judged(&edge).await }
    });
    clients.join_all().await;
    forgetting.abort();

    let judged = judge.lock();
    assert_eq!(judged.faults, [""; 0]);
    assert_eq!(edge.origin.take_faults(), [""; 0]);
    assert_eq!(judged.answers, 100_000);
    assert!(judged.arrivals > 30_000, "{} arrived", judged.arrivals);
    assert!(judged.repeated > 20, "{} were tried again", judged.repeated);
}

#[tokio::test]
async fn a_connection_never_becomes_a_tunnel_to_the_backend() {
    let edge = gateway().await;
    edge.origin.answer_with(|_| SWITCHING.to_vec());
    let mut client = TcpStream::connect(edge.http).await.unwrap();
    let asked = format!(
        "GET /memories HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        token(1, &[Role::User])
    );
    client.write_all(asked.as_bytes()).await.unwrap();
    edge.origin.wait_for(1).await;

    let tunnelled = "GET /memories HTTP/1.1\r\nHost: backend\r\nX-Memoric-Assertion: planted\r\n\
         Connection: close\r\n\r\n";
    let _ = client.write_all(tunnelled.as_bytes()).await;
    let mut told = Vec::new();
    let heard = timeout(Duration::from_secs(60), client.read_to_end(&mut told)).await;
    // Who hangs up with something unread resets the connection.
    let _ = heard.expect("it ends");

    let told = String::from_utf8_lossy(&told);
    let reached = edge.origin.bytes().concat();
    assert!(!String::from_utf8_lossy(&reached).contains("planted"), "{told}");
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
}

#[tokio::test]
async fn the_address_that_counts_is_told_by_a_trusted_proxy_alone() {
    let trusting = Edge::with(|settings| {
        settings.gateway.trusted_proxies = vec!["127.0.0.0/8".to_owned()];
    })
    .await;
    let wary = Edge::start().await;
    let told = "203.0.113.9, ::ffff:198.51.100.7, 127.0.0.2";

    for (edge, client) in [(&trusting, "198.51.100.7"), (&wary, "127.0.0.1")] {
        let ask = |path| edge.ask(Method::GET, path).header("x-forwarded-for", told);

        let known = ask("/memories").bearer_auth(token(1, &[Role::User])).send().await.unwrap();
        let refused = ask("/memories").send().await.unwrap();

        assert_eq!((known.status(), refused.status()), (StatusCode::OK, StatusCode::UNAUTHORIZED));
        let [request] = &edge.origin.requests()[..] else { panic!("one of them arrives") };
        assert_eq!(client_of(request).to_string(), client, "in the assertion");
        for address in recorded(edge, 2).await {
            assert_eq!(address.to_string(), client, "in the record");
        }
    }
}

#[tokio::test]
async fn each_client_of_a_proxy_has_a_budget_of_its_own() {
    let edge = Edge::with(|settings| {
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
        settings.gateway.trusted_header = TrustedHeader::Forwarded;
        settings.gateway.limits.health.per_second = 0.001;
        settings.gateway.limits.health.burst = 2;
        settings.gateway.connections.per_address = 1;
    })
    .await;
    let _held = TcpStream::connect(edge.https).await.unwrap();
    let status = |told: &'static str| {
        let asked = edge.ask(Method::GET, "/health").header("forwarded", told);
        async { asked.send().await.unwrap().status() }
    };

    for own_story in ["for=192.0.2.1, for=198.51.100.7", "for=192.0.2.2, for=198.51.100.7"] {
        assert_eq!(status(own_story).await, StatusCode::OK);
    }
    let third = status("for=192.0.2.3, for=198.51.100.7;proto=https").await;
    assert_eq!(third, StatusCode::TOO_MANY_REQUESTS, "whatever it says that it was before");
    assert_eq!(status("for=198.51.100.8").await, StatusCode::OK, "another client");
    let proxy = ["for=198.51.100.7, for=unknown", "for=\"198.51.100.7", ""];
    let statuses = [status(proxy[0]).await, status(proxy[1]).await, status(proxy[2]).await];
    let spent = [StatusCode::OK, StatusCode::OK, StatusCode::TOO_MANY_REQUESTS];
    assert_eq!(statuses, spent, "what names nobody is the proxy's own");
}

#[tokio::test]
async fn only_a_trusted_proxy_says_that_a_client_speaks_tls() {
    let trusting = Edge::with(|settings| {
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
        settings.gateway.tls.hsts = Some(true);
    })
    .await;
    let wary = Edge::with(|settings| settings.gateway.tls.hsts = Some(true)).await;
    let is_strict = |address: SocketAddr, scheme: &'static str| async move {
        let asked = Client::new().get(format!("http://{address}/health"));
        let answer = asked.header("x-forwarded-proto", scheme).send().await.unwrap();
        answer.headers().contains_key("strict-transport-security")
    };

    assert!(is_strict(trusting.http, "https").await);
    assert!(!is_strict(trusting.http, "http").await);
    assert!(!is_strict(trusting.http, "http, https").await);
    assert!(!is_strict(wary.http, "https").await);
}

#[tokio::test]
async fn a_client_whom_a_trusted_proxy_introduces_is_the_one_that_counts() {
    let introduced = |networks: &[&str]| {
        let networks: Vec<_> = networks.iter().map(|network| (*network).to_owned()).collect();
        Edge::with(|settings| {
            settings.gateway.trusted_proxies = networks;
            settings.gateway.proxy_protocol = true;
            settings.gateway.connections.per_address = 2;
        })
    };
    let (trusting, wary) = (introduced(&["127.0.0.1"]).await, introduced(&["192.0.2.1"]).await);
    let asked = format!(
        "GET /memories HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        token(1, &[Role::User])
    );
    let line = "PROXY TCP4 198.51.100.7 198.51.100.1 4711 443\r\n";

    let mut kept = Vec::new();
    for _ in 0..2 {
        let (stream, answer) = say(&trusting, &format!("{line}{asked}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        kept.push(stream);
    }
    assert_eq!(client_of(&trusting.origin.requests()[0]).to_string(), "198.51.100.7");
    let (_, crowded) = say(&trusting, &format!("{line}{asked}")).await;
    assert_eq!(crowded, "", "a client is counted wherever it comes from");
    let (_, silent) = say(&trusting, &asked).await;
    assert_eq!(silent, "", "every connection of a proxy is introduced");
    let (_, forged) = say(&wary, &format!("{line}{asked}")).await;
    assert!(!forged.starts_with("HTTP/1.1 200 "), "{forged}");
    assert_eq!(wary.origin.requests().len(), 0, "a stranger introduces nobody");
}

/// A health check of the proxy's, or a client of which it cannot tell: what such a connection says
/// of where it comes from, no proxy has written.
#[tokio::test]
async fn whom_a_proxy_does_not_introduce_is_not_believed_either() {
    let edge = Edge::with(|settings| {
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
        settings.gateway.proxy_protocol = true;
        settings.gateway.tls.hsts = Some(true);
    })
    .await;
    let asked = format!(
        "GET /memories HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\
         X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\n\r\n",
        token(1, &[Role::User])
    );
    let block = |command: &str, family: &str| format!("\r\n\r\n\0\r\nQUIT\n{command}{family}\0\0");
    let line = |words: &str| format!("PROXY {words}\r\n");

    for introduction in [line("UNKNOWN"), block(" ", "\0"), block("!", "\0"), block("!", "1")] {
        let (_, answer) = say(&edge, &format!("{introduction}{asked}")).await;

        assert!(answer.starts_with("HTTP/1.1 200 "), "{introduction:?}: {answer}");
        assert!(!answer.to_lowercase().contains("strict-transport"), "{introduction:?}: {answer}");
        let [request] = &edge.origin.requests()[..] else { panic!("one arrives") };
        assert_eq!(client_of(request).to_string(), "127.0.0.1", "{introduction:?}");
        edge.origin.forget();
    }
    let told = line("TCP4 127.0.0.1 198.51.100.1 4711 443");
    let _answered = say(&edge, &format!("{told}{asked}")).await;
    assert_eq!(client_of(&edge.origin.requests()[0]).to_string(), "198.51.100.7", "a second proxy");
}

/// Says something in clear, and hears the beginning of what is answered.
async fn say(edge: &Edge, what: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(edge.http).await.expect("the gateway listens");
    stream.write_all(what.as_bytes()).await.expect("it takes what is said");
    let mut answer = Vec::new();
    let heard = timeout(Duration::from_secs(20), stream.read_buf(&mut answer)).await;
    // Who hangs up with something unread resets the connection.
    let _ = heard.expect("an answer, or the end");
    (stream, String::from_utf8_lossy(&answer).into_owned())
}

/// The addresses in the first `count` records that `edge` hands over.
async fn recorded(edge: &Edge, count: usize) -> Vec<IpAddr> {
    let address = |delivery: Delivery| match delivery {
        Delivery::Report(report) => report.address().expect("everyone has one"),
        Delivery::Poisoned(_) => panic!("a record of ours is well"),
    };
    let have_come = async || edge.origin.deliveries().len() >= count;
    until(&format!("{count} records are there"), have_come).await;
    edge.origin.deliveries().into_iter().map(address).collect()
}

/// Who looks at everything that comes out at either end.
struct Judge {
    key: AssertionKey,
    judged: Mutex<Judged>,
}

#[derive(Default)]
struct Judged {
    arrivals: usize,
    answers: usize,
    /// How many requests came a second time.
    repeated: usize,
    /// Requests that were not answered the first time.
    failed: HashSet<String>,
    /// Connections by which something has been answered.
    used: HashSet<usize>,
    faults: Vec<String>,
}

impl Judge {
    /// Judges all that reaches the origin of `edge`.
    fn at(edge: &Edge) -> Arc<Self> {
        let judge = Arc::new(Self { key: assertion_key(), judged: Mutex::default() });
        let script = Arc::clone(&judge);
        edge.origin.answer_with(move |received| script.hear_request(received));
        judge
    }

    /// Lets the origin forget what has been judged, for as long as it is polled.
    async fn forget_what_was_judged(edge: &Edge) {
        loop {
            sleep(Duration::from_millis(200)).await;
            edge.origin.forget();
        }
    }

    /// Judges a request that arrived, and answers it, unless it is one that is to fail.
    fn hear_request(&self, received: &Received) -> Vec<u8> {
        let fault = self.fault(received);
        let mut judged = self.lock();
        judged.arrivals += 1;
        judged.faults.extend(fault.map(|fault| format!("{fault}: {received:?}")));
        let request = received.values("x-request-id").concat();
        if judged.failed.contains(&request) {
            judged.repeated += 1;
        } else if received.target.ends_with("fails=once")
            && judged.used.contains(&received.connection)
        {
            judged.failed.insert(request);
            return Vec::new();
        }
        judged.used.insert(received.connection);
        Answer::ok("application/json", b"{}")
    }

    /// Judges the head of an answer.
    fn hear_answer(&self, made: &Made, (status, head): (u16, &str)) {
        let head = head.to_ascii_lowercase();
        let mut judged = self.lock();
        judged.answers += 1;
        if head.contains("planted") || head.contains("x-memoric") {
            judged.faults.push(format!("answered with {head}"));
        }
        if made.target.starts_with("/internal") && status < 300 {
            judged.faults.push(format!("{} was answered with {head}", made.target));
        }
    }

    /// What is wrong with a request, if anything is.
    fn fault(&self, received: &Received) -> Option<&'static str> {
        if String::from_utf8_lossy(&received.raw).contains("planted") {
            return Some("a client's word came through");
        }
        if !received.trailers.is_empty() {
            return Some("a trailer came through");
        }
        let mut names: Vec<_> = received.fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let is_judged = self.is_credential_judged(received);
        let is_known = |name: &str| {
            KNOWN.contains(&name.to_ascii_lowercase().as_str())
                || is_judged && name.eq_ignore_ascii_case("authorization")
        };
        if !names.iter().all(|name| is_known(name)) {
            return Some("a name came through that is not ours");
        }
        let once = |name: &str| received.values(name).len() == 1;
        if ![ASSERTION_HEADER, "x-request-id", "host"].into_iter().all(once) {
            return Some("what we say is not there exactly once");
        }
        (!self.believes(received)).then_some("the assertion does not say who it was")
    }

    /// Whether the backend judges the client's own credential, since the gateway's word is not enough:
    /// of a refresh, of what is verified again, and of who may ask for what is another's.
    fn is_credential_judged(&self, received: &Received) -> bool {
        let Some(operation) = Operation::at(&received.method, received.path()) else {
            return false;
        };
        let may_cross = |caller: &Caller| match (caller, operation.needs_for_another()) {
            (Caller::Known(identity), Some(needed)) => identity.may(needed),
            _ => false,
        };
        operation == Operation::Refresh
            || operation.is_verified_again()
            || said(&self.key, received).is_some_and(|said| may_cross(said.caller()))
    }

    /// Whether the assertion is ours, for this very request, and names who the client proved to be.
    fn believes(&self, received: &Received) -> bool {
        let Some(said) = said(&self.key, received) else { return false };
        let who = match said.caller() {
            Caller::Known(identity) => identity.user.0,
            Caller::Anonymous => 0,
        };
        let query = received.target.split_once("who=").map(|(_, query)| query);
        let expected = query.and_then(|query| query.split('&').next()?.parse().ok());
        expected == Some(who)
            && said.client().is_loopback()
            && said.request().to_string() == received.values("x-request-id").concat()
    }

    fn lock(&self) -> MutexGuard<'_, Judged> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the gateway says that a request comes from.
fn client_of(received: &Received) -> IpAddr {
    said(&assertion_key(), received).expect("it is ours").client()
}

/// What the gateway says of a request, where it is to be believed.
fn said(key: &AssertionKey, received: &Received) -> Option<VerifiedAssertion> {
    let asked = (received.method.as_str(), received.target.as_str());
    let operation = Operation::at(asked.0, received.path())?;
    key.verify(&received.values(ASSERTION_HEADER).concat(), asked, operation.name(), now()).ok()
}

async fn gateway() -> Edge {
    Edge::with(|settings| settings.cors.origins = vec!["https://app.example".to_owned()]).await
}

/// What a server says that is done with HTTP.
const SWITCHING: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

/// All that the backend is told, apart from a refresh token by whoever has one.
const KNOWN: [&str; 7] = [
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-memoric-assertion",
    "x-request-id",
];
