//! Clients that send whatever they are given, as fast as it is answered.

use std::{collections::VecDeque, convert::Infallible, future::ready, net::SocketAddr};

use bytes::Bytes;
use harness::{Edge, http2::trusting};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header::CONTENT_LENGTH};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

use super::requests::{Made, Maker};

/// Reads answers off one connection, in order.
struct Reader {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// Sends `count` requests of `maker` over HTTP/1.1, many before the first is answered, and gives
/// each to `judge`, with the status and the head of its answer.
pub(super) async fn over_http1(
    address: SocketAddr,
    count: usize,
    mut maker: Maker,
    judge: impl Fn(&Made, (u16, &str)),
) {
    let mut unanswered: VecDeque<Made> = VecDeque::new();
    let (mut answered, mut connections) = (0, 0);
    while answered < count {
        connections += 1;
        assert!(connections <= 1 + count / 10, "connections end all the time: {answered} answers");
        let stream = TcpStream::connect(address).await.expect("the gateway listens");
        let mut reader = Reader { stream, unread: Vec::new() };
        while answered < count {
            while unanswered.len() < MANY {
                unanswered.push_back(maker.make());
            }
            let written: Vec<u8> = unanswered.iter().flat_map(http1).collect();
            if reader.stream.write_all(&written).await.is_err() {
                break;
            }
            while answered < count
                && let Some(made) = unanswered.front()
                && let Some(head) = reader.answer(made.method == "HEAD").await
            {
                let status = head.get(9..12).and_then(|digits| digits.parse().ok());
                judge(made, (status.expect("a status"), &head));
                answered += 1;
                unanswered.pop_front();
            }
            if !unanswered.is_empty() {
                break;
            }
        }
    }
}

/// The same over HTTP/2 and TLS.
pub(super) async fn over_http2(
    edge: &Edge,
    count: usize,
    mut maker: Maker,
    judge: impl Fn(&Made, (u16, &str)),
) {
    let stream = TcpStream::connect(edge.https).await.expect("the gateway listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = trusting(&edge.certificate).connect(name, stream).await.expect("a handshake");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let mut streams: JoinSet<(Made, u16, String)> = JoinSet::new();
    for _ in 0..count {
        if streams.len() >= MANY {
            let ended = streams.join_next().await.expect("one of many");
            let (made, status, head) = ended.expect("it does not panic");
            judge(&made, (status, &head));
        }
        let made = maker.make();
        let (mut sender, request) = (sender.clone(), http2(&made));
        streams.spawn(async move {
            sender.ready().await.expect("the connection lives");
            let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
            body.collect().await.expect("all of it");
            (made, head.status.as_u16(), format!("{:?} {:?}", head.status, head.headers))
        });
    }
    while let Some(ended) = streams.join_next().await {
        let (made, status, head) = ended.expect("it does not panic");
        judge(&made, (status, &head));
    }
    connection.abort();
}

impl Reader {
    /// The head of the next answer, once its body is here too. `None` where the connection ended.
    async fn answer(&mut self, is_for_head: bool) -> Option<String> {
        let end = loop {
            match self.unread.windows(4).position(|window| window == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => self.read().await?,
            }
        };
        let head = String::from_utf8(self.unread[..end].to_vec()).expect("text");
        let length = head.to_ascii_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length: ").map(|length| length.parse().expect("a number"))
        });
        let whole = end + if is_for_head { 0 } else { length.unwrap_or(0) };
        while self.unread.len() < whole {
            self.read().await?;
        }
        self.unread.drain(..whole);
        Some(head)
    }

    async fn read(&mut self) -> Option<()> {
        matches!(self.stream.read_buf(&mut self.unread).await, Ok(1..)).then_some(())
    }
}

fn http1(made: &Made) -> Vec<u8> {
    let Made { method, target, fields, body, trailers } = made;
    let lines = |fields: &[(String, String)]| -> String {
        fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect()
    };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{}", lines(fields));
    let rest = match body {
        None => "\r\n".to_owned(),
        Some(body) if trailers.is_empty() => {
            format!("Content-Length: {}\r\n\r\n{body}", body.len())
        }
        Some(body) => format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n{}\r\n",
            body.len(),
            lines(trailers)
        ),
    };
    (head + &rest).into_bytes()
}

/// The same request, without what HTTP/2 has no word for.
fn http2(made: &Made) -> Request<BoxBody<Bytes, Infallible>> {
    let mut request = Request::new(());
    *request.method_mut() = made.method.parse().expect("a method");
    *request.uri_mut() = format!("https://localhost{}", made.target).parse().expect("a target");
    *request.headers_mut() = map(&made.fields);
    request.headers_mut().remove("connection");
    request.headers_mut().remove("upgrade");
    let trailers = (!made.trailers.is_empty()).then(|| map(&made.trailers));
    let body = match made.body {
        None => Full::default().boxed(),
        Some(body) => {
            request.headers_mut().insert(CONTENT_LENGTH, body.len().into());
            Full::from(body).with_trailers(ready(trailers.map(Ok))).boxed()
        }
    };
    request.map(|()| body)
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    let field = |(name, value): &(String, String)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    let mut map = HeaderMap::new();
    for (name, value) in fields.iter().map(field) {
        map.append(name, value);
    }
    map
}

/// How many requests are under way on one connection.
const MANY: usize = 16;
