//! The same of services that are no backend of ours, which have nothing but headers to go by.

use std::sync::{Arc, Mutex};

use harness::{Answer, Edge, Origin, Received};
use memoric_config::schema::Route;
use tokio::task::JoinSet;

use super::{
    clients::{over_http1, over_http2},
    requests::{Made, Maker},
};

#[tokio::test]
async fn no_identity_of_a_clients_own_making_reaches_a_service() {
    let folder = tempfile::Builder::new().prefix("service-").tempdir_in("/tmp").unwrap();
    let socket = folder.path().join("service.sock");
    let service = Origin::start(&socket);
    let edge = Edge::with(|settings| {
        settings.gateway.routes = vec![Route {
            path: "/tools".to_owned(),
            upstream: format!("unix:{}", socket.display()),
            methods: ["GET", "HEAD", "POST", "DELETE"].map(str::to_owned).into(),
            roles: Vec::new(),
            body_bytes: 1000,
            ca: None,
        }];
    })
    .await;
    let (edge, faults) = (Arc::new(edge), Arc::new(Mutex::new(Vec::new())));
    let found = Arc::clone(&faults);
    service.answer_with(move |received| {
        let fault = fault(received).map(|fault| format!("{fault}: {received:?}"));
        found.lock().unwrap().extend(fault);
        Answer::ok("application/json", b"{}")
    });

    let mut clients = JoinSet::new();
    for series in 100..104 {
        let (edge, faults) = (Arc::clone(&edge), Arc::clone(&faults));
        clients.spawn(async move {
            let maker = Maker::at_service("/tools/x", series);
            let judge = |made: &Made, answer: (u16, &str)| {
                faults.lock().unwrap().extend(fault_of_answer(made, answer));
            };
            match series {
                103 => over_http2(&edge, 2_000, maker, judge).await,
                _ => over_http1(edge.http, 2_000, maker, judge).await,
            }
        });
    }
    clients.join_all().await;

    assert_eq!(*faults.lock().unwrap(), [""; 0]);
    let arrivals = service.requests().len();
    assert!(arrivals > 3_000, "{arrivals} arrived");
    assert_eq!(edge.origin.requests(), [], "none of it is the backend's");
}

/// What is wrong with a request that arrived, if anything is.
fn fault(received: &Received) -> Option<&'static str> {
    if String::from_utf8_lossy(&received.raw).contains("planted") {
        return Some("a client's word came through");
    }
    if !received.trailers.is_empty() {
        return Some("a trailer came through");
    }
    let is_known = |name: &str| KNOWN.contains(&name.to_ascii_lowercase().as_str());
    if !received.fields.iter().all(|(name, _)| is_known(name)) {
        return Some("a name came through that is not ours");
    }
    let who = received.target.split_once("who=").and_then(|(_, who)| who.split('&').next());
    let roles = match who {
        Some("1" | "2") => "user",
        Some("3") => "readonly",
        Some("4") => "admin",
        _ => return Some("it is nobody's who may ask"),
    };
    let told = [received.values("x-user-id"), received.values("x-user-roles")];
    (told != [vec![who.unwrap_or_default()], vec![roles]]).then_some("it is said to be another's")
}

/// What is wrong with the head of an answer, if anything is.
fn fault_of_answer(made: &Made, (_, head): (u16, &str)) -> Option<String> {
    let head = head.to_ascii_lowercase();
    let is_wrong = head.contains("planted") || head.contains("x-memoric");
    is_wrong.then(|| format!("{} was answered with {head}", made.target))
}

/// All that a service is told of such requests.
const KNOWN: [&str; 10] = [
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
    "x-user-id",
    "x-user-roles",
];
