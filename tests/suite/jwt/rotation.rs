//! Keys that come and go while clients are served.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use harness::{Deployment, Person, Recipe, Started, until};
use rustix::process::Signal;
use tokio::{task::JoinHandle, time::sleep};

use super::*;

/// Somebody who is logged in at a deployment, in clear.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    at: SocketAddr,
    pub(super) person: Person,
}

/// The same, asking without a pause and counting what is not well.
struct Asking {
    done: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

#[tokio::test]
async fn a_key_is_added_promoted_and_retired_and_nobody_is_logged_out() {
    let pair = Pair::new();
    let memoric = deployment("").await;
    let alice = Client::register(memoric.http, "alice").await;
    assert_eq!(header_of(&alice.person.token)["alg"], "HS256");
    let asking = alice.clone().keep_asking();

    set_keys(&memoric, "true", &pair.yaml(false), &[&pair.kid()]).await;
    let added = alice.log_in_again().await;
    assert_eq!(
        header_of(&added.person.token)["alg"],
        "HS256",
        "it verifies, and does not sign yet"
    );
    set_keys(&memoric, "true", &pair.yaml(true), &[]).await;
    let promoted = alice.log_in_again().await;
    assert_eq!(header_of(&promoted.person.token)["kid"], pair.kid());
    let (asked, refused) = asking.end().await;
    assert_eq!(refused, 0, "of {asked} requests");

    let asking = promoted.clone().keep_asking();
    set_keys(&memoric, "false", &pair.yaml(true), &[]).await;
    assert_eq!(alice.ask().await, StatusCode::UNAUTHORIZED, "what the retired key signed is over");
    assert_eq!(added.ask().await, StatusCode::UNAUTHORIZED);
    let (asked, refused) = asking.end().await;
    assert_eq!(refused, 0, "of {asked} requests");
}

#[tokio::test]
async fn settings_that_are_refused_are_refused_whole_and_those_in_force_stay() {
    let (pair, other) = (Pair::new(), Pair::new());
    let memoric = deployment(&pair.yaml(true)).await;
    let alice = Client::register(memoric.http, "alice").await;
    std::fs::write(other.folder.path().join("jwt.pem"), "no key").unwrap();
    let bad = [
        ("unknown setting", format!("auth:\n  jwt:\n    key: []\n    keys:\n{}", pair.yaml(true))),
        ("not YAML", "auth: [\n".to_owned()),
        ("two that sign", keys("true", &(pair.yaml(true) + &pair.yaml(true)))),
        ("the same twice", keys("true", &(pair.yaml(true) + &pair.yaml(false)))),
        ("none that signs", keys("false", &pair.yaml(false))),
        ("no file", keys("true", &pair.yaml(false).replace("jwt.pub", "nowhere.pub"))),
        ("another setting besides", keys("false", &pair.yaml(true)) + "  access_token_ttl: 5\n"),
    ];

    for (why, file) in bad {
        for process in [&memoric.gateway, &memoric.backend] {
            let before = count(process, REFUSED);
            std::fs::write(memoric.value("MEMORIC_CONFIG"), &file).unwrap();
            process.signal(Signal::HUP);
            until(why, async || count(process, REFUSED) > before).await;
        }
        assert_eq!(alice.ask().await, StatusCode::OK, "{why}");
        let again = alice.log_in_again().await;
        assert_eq!(header_of(&again.person.token)["kid"], pair.kid(), "{why}");
    }
    let halves = keys("true", &(pair.yaml(true) + &other.yaml(false)));
    std::fs::write(memoric.value("MEMORIC_CONFIG"), halves).unwrap();
    let before = count(&memoric.backend, REFUSED);
    memoric.backend.signal(Signal::HUP);
    until("a private key that is none", async || count(&memoric.backend, REFUSED) > before).await;
    set_keys(&memoric, "true", &pair.yaml(true), &[]).await;
    assert_eq!(alice.log_in_again().await.ask().await, StatusCode::OK, "and good ones are taken");
}

impl Client {
    pub(super) async fn register(at: SocketAddr, name: &str) -> Self {
        let person = Person::register(at, name).await;
        Self { http: reqwest::Client::new(), at, person }
    }

    pub(super) async fn ask(&self) -> StatusCode {
        let url = format!("http://{}/memories", self.at);
        self.http.get(url).bearer_auth(&self.person.token).send().await.unwrap().status()
    }

    async fn log_in_again(&self) -> Self {
        Self { person: Person::log_in(self.at, &self.person.name).await, ..self.clone() }
    }

    fn keep_asking(self) -> Asking {
        let done = Arc::new(AtomicBool::new(false));
        let [asked, refused] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (stop, all, not_well) = (Arc::clone(&done), Arc::clone(&asked), Arc::clone(&refused));
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if self.ask().await != StatusCode::OK {
                    not_well.fetch_add(1, Ordering::Relaxed);
                }
                all.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(10)).await;
            }
        });
        Asking { done, asked, refused, task }
    }
}

impl Asking {
    /// How often was asked, a few times more from now on, and how often refused.
    async fn end(self) -> (usize, usize) {
        let asked = || self.asked.load(Ordering::Relaxed);
        let before = asked();
        until("more is answered", async || asked() > before + 5).await;
        self.done.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        (self.asked.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

/// Both programs, with these keys beside the secret in a file that can be changed.
async fn deployment(yaml: &str) -> Deployment {
    let recipe = Recipe::new().await;
    let file = settings_file(recipe.folder(), yaml);
    let recipe = recipe.set("MEMORIC_CONFIG", &file).set("MEMORIC_AUTH__REGISTRATION", "open");
    recipe.set("MEMORIC_GATEWAY__LIMITS__ADDRESS__BURST", "10000").start().await
}

fn keys(environment_key: &str, yaml: &str) -> String {
    format!("auth:\n  jwt:\n    environment_key: {environment_key}\n    keys:\n{yaml}")
}

/// Changes the file, tells the gateway and then the backend, and waits until both have heard.
async fn set_keys(memoric: &Deployment, environment_key: &str, yaml: &str, kids: &[&str]) {
    std::fs::write(memoric.value("MEMORIC_CONFIG"), keys(environment_key, yaml)).unwrap();
    for process in [&memoric.gateway, &memoric.backend] {
        let before = count(process, TAKEN);
        process.signal(Signal::HUP);
        until("new keys", async || count(process, TAKEN) > before).await;
        let said = process.stdout() + &process.stderr();
        assert!(kids.iter().all(|kid| said.contains(kid)), "{said}");
    }
}

fn count(process: &Started, words: &str) -> usize {
    (process.stdout() + &process.stderr()).matches(words).count()
}

const TAKEN: &str = "the keys of access tokens are in force";
const REFUSED: &str = "the settings were refused: those in force stay";
