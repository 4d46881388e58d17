//! A raw socket in the backend's place, which keeps every byte that it is sent.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use memoric_contract::spool::{self, Delivery};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

/// A server that believes nobody and repairs nothing.
///
/// What the gateway asks on its own behalf is answered as a healthy backend would, so that the
/// gateway is ready; whatever else comes is answered by the script. What is no request, or more than
/// the script can bear, is a fault: when this is dropped, there must be none that nobody took.
pub struct Origin {
    state: Arc<State>,
    serving: JoinHandle<()>,
    socket: PathBuf,
}

/// A request that arrived, exactly as it was sent.
#[derive(Clone, Eq, PartialEq)]
pub struct Received {
    /// Which connection it came by, counted from 0.
    pub connection: usize,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// Its fields, in order.
    pub fields: Vec<(String, String)>,
    /// Its body, without what frames it.
    pub body: Vec<u8>,
    /// The fields behind a chunked body.
    pub trailers: Vec<(String, String)>,
    /// All of it as it came.
    pub raw: Vec<u8>,
}

/// What a [`Received`] is answered with, byte for byte. Nothing at all is the end of the connection.
type Script = Arc<dyn Fn(&Received) -> Vec<u8> + Send + Sync>;

struct State {
    heard: Mutex<Heard>,
    script: Mutex<Script>,
    takes_records: AtomicBool,
    news: watch::Sender<()>,
}

#[derive(Default)]
struct Heard {
    connections: Vec<Vec<u8>>,
    requests: Vec<Received>,
    deliveries: Vec<Delivery>,
    faults: Vec<String>,
}

/// What bytes are the beginning of.
enum Reading {
    /// Of a request that has not ended yet.
    Unfinished,
    /// Of a request, which is this long.
    Whole(Received, usize),
    /// Of nothing that HTTP/1.1 allows.
    Nonsense(&'static str),
}

impl Origin {
    /// Listens at `socket`.
    pub fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).expect("the socket's path is free");
        let state = Arc::new(State {
            heard: Mutex::default(),
            script: Mutex::new(Arc::new(echo)),
            takes_records: AtomicBool::new(true),
            news: watch::Sender::new(()),
        });
        let serving = tokio::spawn(Arc::clone(&state).serve(listener));
        Self { state, serving, socket: socket.to_owned() }
    }

    /// Goes away, and takes its connections and its socket along.
    pub fn stop(&self) {
        self.serving.abort();
        let _ = std::fs::remove_file(&self.socket);
    }

    /// Answers requests of clients with what `script` makes of them.
    pub fn answer_with(&self, script: impl Fn(&Received) -> Vec<u8> + Send + Sync + 'static) {
        *lock(&self.state.script) = Arc::new(script);
    }

    /// Takes audit records, as it does at first, or hangs up on whoever brings them.
    pub fn take_records(&self, whether: bool) {
        self.state.takes_records.store(whether, SeqCst);
    }

    /// The requests of clients that arrived whole.
    pub fn requests(&self) -> Vec<Received> {
        let heard = lock(&self.state.heard);
        heard.requests.iter().filter(|request| !request.is_internal()).cloned().collect()
    }

    /// Waits until at least `count` requests of clients have arrived, and returns all of them.
    pub async fn wait_for(&self, count: usize) -> Vec<Received> {
        let mut news = self.state.news.subscribe();
        let arrival = async {
            while self.requests().len() < count {
                news.changed().await.expect("the origin is there");
            }
        };
        let arrived = timeout(PATIENCE, arrival).await.is_ok();
        assert!(arrived, "{count} requests were awaited, these came: {:#?}", self.requests());
        self.requests()
    }

    /// Everything that every connection brought, what the gateway asked for itself included.
    pub fn bytes(&self) -> Vec<Vec<u8>> {
        lock(&self.state.heard).connections.clone()
    }

    /// The audit records that the gateway has handed over.
    pub fn deliveries(&self) -> Vec<Delivery> {
        lock(&self.state.heard).deliveries.clone()
    }

    /// What was wrong so far, each with the reason: from now on it counts for nothing.
    pub fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state.heard).faults)
    }

    /// Forgets what it has heard so far, faults apart.
    pub fn forget(&self) {
        let mut heard = lock(&self.state.heard);
        heard.connections.iter_mut().for_each(Vec::clear);
        heard.requests.clear();
        heard.deliveries.clear();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.serving.abort();
        // Who panics already has something to say.
        if !std::thread::panicking() {
            assert_eq!(self.take_faults(), [""; 0], "faults at the origin");
        }
    }
}

impl State {
    async fn serve(self: Arc<Self>, listener: UnixListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (stream, _) = accepted.expect("the socket is ours");
                    connections.spawn(Arc::clone(&self).attend(stream, self.count_connection()));
                }
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        self.complain(format!("a connection was not attended to: {error}"));
                    }
                }
            }
        }
    }

    /// The number of one more connection.
    fn count_connection(&self) -> usize {
        let mut heard = lock(&self.heard);
        heard.connections.push(Vec::new());
        heard.connections.len() - 1
    }

    fn complain(&self, fault: String) {
        lock(&self.heard).faults.push(fault);
        self.news.send_replace(());
    }

    async fn attend(self: Arc<Self>, mut stream: UnixStream, number: usize) {
        let mut unread = Vec::new();
        loop {
            match read(&unread, number) {
                Reading::Whole(request, length) => {
                    unread.drain(..length);
                    let answer = self.answer(request).await;
                    if answer.is_empty() || stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
                Reading::Nonsense(reason) => {
                    let seen = String::from_utf8_lossy(&unread);
                    self.complain(format!("{reason}: {seen:?}"));
                    return;
                }
                Reading::Unfinished => {
                    let before = unread.len();
                    if !matches!(stream.read_buf(&mut unread).await, Ok(1..)) {
                        return;
                    }
                    lock(&self.heard).connections[number].extend_from_slice(&unread[before..]);
                }
            }
        }
    }

    async fn answer(&self, request: Received) -> Vec<u8> {
        let answer = match request.path() {
            "/internal/health" => Answer::json(&json!({"database": true})),
            "/internal/live" => Answer::json(&json!({"live": true})),
            "/internal/revocations" => {
                sleep(NO_NEWS).await;
                Answer::json(&json!({"cursor": "", "revocations": [], "more": false}))
            }
            spool::BATCH_PATH if !self.takes_records.load(SeqCst) => Vec::new(),
            spool::BATCH_PATH => self.acknowledge(&request.body),
            _ => self.follow_script(&request),
        };
        lock(&self.heard).requests.push(request);
        self.news.send_replace(());
        answer
    }

    /// What the script makes of a request. A claim of a test's that fails in it must not go unheard.
    fn follow_script(&self, request: &Received) -> Vec<u8> {
        let script = Arc::clone(&lock(&self.script));
        catch_unwind(AssertUnwindSafe(|| script(request))).unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            self.complain(format!("{said}: {request:?}"));
            Vec::new()
        })
    }

    /// Takes every record of a batch.
    fn acknowledge(&self, batch: &[u8]) -> Vec<u8> {
        let whole = |batch: Vec<Option<Delivery>>| batch.into_iter().collect::<Option<Vec<_>>>();
        let Some(deliveries) = spool::read_batch(batch).and_then(whole) else {
            self.complain("a batch is not ours".to_owned());
            return Vec::new();
        };
        let acknowledged = deliveries.iter().map(Delivery::id).collect();
        lock(&self.heard).deliveries.extend(deliveries);
        let answer = spool::Answer { acknowledged, refused: Vec::new() };
        Answer::ok("application/octet-stream", &answer.to_bytes())
    }
}

impl Received {
    /// Its path alone.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Every value of the field `name`, in order.
    pub fn values(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(field, _)| field.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether the gateway asks on its own behalf.
    pub fn is_internal(&self) -> bool {
        self.path().starts_with("/internal/")
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.connection, String::from_utf8_lossy(&self.raw))
    }
}

/// Whole answers, byte for byte.
#[derive(Clone, Copy, Debug)]
pub struct Answer;

impl Answer {
    /// A good one of any kind.
    pub fn ok(content_type: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    /// A good one in JSON.
    pub fn json(value: &serde_json::Value) -> Vec<u8> {
        Self::ok("application/json", value.to_string().as_bytes())
    }
}

/// Says what was asked, so that everyone can tell their own answer.
fn echo(request: &Received) -> Vec<u8> {
    let body = String::from_utf8_lossy(&request.body);
    Answer::json(&json!({"method": request.method, "target": request.target, "body": body}))
}

fn read(bytes: &[u8], connection: usize) -> Reading {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Reading::Unfinished;
    };
    let Ok(head) = str::from_utf8(&bytes[..end]) else {
        return Reading::Nonsense("the head is not UTF-8");
    };
    let mut lines = head.split("\r\n");
    let words: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Reading::Nonsense("the request line is none");
    };
    let Some(fields) = lines.map(field).collect::<Option<Vec<_>>>() else {
        return Reading::Nonsense("a line is no field");
    };
    let mut request = Received {
        connection,
        method: method.to_owned(),
        target: target.to_owned(),
        fields,
        body: Vec::new(),
        trailers: Vec::new(),
        raw: Vec::new(),
    };
    let behind = &bytes[end + 4..];
    match read_body(&mut request, behind) {
        Ok(Some(length)) => {
            let length = end + 4 + length;
            request.raw = bytes[..length].to_vec();
            Reading::Whole(request, length)
        }
        Ok(None) => Reading::Unfinished,
        Err(reason) => Reading::Nonsense(reason),
    }
}

/// Takes the body from the beginning of `bytes`, and tells how many it takes.
fn read_body(request: &mut Received, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    match (&request.values("content-length")[..], &request.values("transfer-encoding")[..]) {
        ([], []) => Ok(Some(0)),
        ([length], []) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
            let length = length.parse().map_err(|_| "the length is none")?;
            let Some(body) = bytes.get(..length) else { return Ok(None) };
            request.body = body.to_vec();
            Ok(Some(length))
        }
        ([], ["chunked"]) => read_chunks(request, bytes),
        _ => Err("where the body ends can be read in two ways"),
    }
}

fn read_chunks(request: &mut Received, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    loop {
        let Some(size) = line(&bytes[at..]) else { return Ok(None) };
        let digits = str::from_utf8(size).map_err(|_| "the size of a chunk is none")?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("the size of a chunk is none");
        }
        let length =
            usize::from_str_radix(digits, 16).map_err(|_| "the size of a chunk is none")?;
        at += size.len() + 2;
        if length == 0 {
            return Ok(read_trailers(request, &bytes[at..])?.map(|trailers| at + trailers));
        }
        let Some(chunk) = bytes.get(at..at + length + 2) else { return Ok(None) };
        let (data, end) = chunk.split_at(length);
        if end != b"\r\n" {
            return Err("a chunk is longer than it says");
        }
        request.body.extend_from_slice(data);
        at += length + 2;
    }
}

fn read_trailers(request: &mut Received, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut at = 0;
    loop {
        let Some(text) = line(&bytes[at..]) else { return Ok(None) };
        at += text.len() + 2;
        if text.is_empty() {
            return Ok(Some(at));
        }
        let text = str::from_utf8(text).map_err(|_| "a trailer is not UTF-8")?;
        request.trailers.push(field(text).ok_or("a trailer is no field")?);
    }
}

/// What stands before the first CR LF.
fn line(bytes: &[u8]) -> Option<&[u8]> {
    bytes.windows(2).position(|window| window == b"\r\n").map(|end| &bytes[..end])
}

/// A name and a value, spelt as RFC 9112 wants them and not otherwise.
fn field(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_name = !name.is_empty() && name.bytes().all(is_token);
    let is_value = !value.chars().any(|sign| sign.is_control() && sign != '\t');
    (is_name && is_value).then(|| (name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a test waits for requests.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long the feed of revocations waits for news that never come.
const NO_NEWS: Duration = Duration::from_millis(100);
