//! Whether the time that a failed login takes tells who has an account: Welch's t over many of them.

use std::{
    fmt,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use harness::World;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

/// How long each of some logins took, in seconds.
#[derive(Default)]
struct Times(Vec<f64>);

/// How far apart two sets of times are.
struct Comparison {
    t: f64,
    means: [f64; 2],
    counts: [usize; 2],
}

/// Asks for people who are there, with a wrong password, and for people who are not, in random order.
/// Whether nothing tells them apart.
///
/// Every login comes from another site, as a patient attacker's would, and each name is asked for
/// seldom enough. People whose hash is of an older kind are the control: they must be told apart, or
/// the measurement is worth nothing.
pub async fn attack() -> bool {
    let world = World::with(|settings| {
        settings.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
    })
    .start()
    .await;
    for name in names("person").iter().chain(&names("veteran")) {
        world.register(name).await;
    }
    let age = format!(
        "UPDATE memoric.users SET password_hash = '{BCRYPT}' WHERE username LIKE 'veteran%'"
    );
    world.superuser().await.batch_execute(&age).await.expect("the table is there");
    println!("timing: {LOGINS} failed logins of people who are there and of others, at random");

    let mut asked = 0;
    let (there, nobody) = compare(&world, ["person", "nobody"], LOGINS, &mut asked).await;
    let (old, control) = compare(&world, ["veteran", "nobody"], LOGINS / 10, &mut asked).await;

    let (all, most) = (there.against(&nobody), there.typical().against(&nobody.typical()));
    let control = old.typical().against(&control.typical());
    println!("  all                    {all}");
    println!("  without the slowest    {most}");
    println!("  control (older hash)   {control}");
    let is_enough = there.0.len() + nobody.0.len() >= LEAST;
    let withstood = is_enough && !all.tells() && !most.tells() && control.is_told_apart();
    println!("  {}", verdict(withstood, is_enough, &control));
    withstood
}

/// Times `logins` for names of two kinds in random order, until it is too late.
async fn compare(
    world: &World,
    kinds: [&str; 2],
    logins: usize,
    asked: &mut u32,
) -> (Times, Times) {
    let names = kinds.map(names);
    let mut times = [Times::default(), Times::default()];
    let began = Instant::now();
    while times[0].0.len() + times[1].0.len() < logins && began.elapsed() < PATIENCE {
        let kind = usize::from(Uuid::new_v4().as_bytes()[0] & 1 == 1);
        let taken = times[kind].0.len();
        *asked += 1;
        let name = &names[kind][taken % names[kind].len()];
        // Who is put off comes back when told, and has a turn.
        for _ in 0..3 {
            if let Some(took) = time_login(world, name, *asked).await {
                times[kind].0.push(took);
                break;
            }
        }
    }
    let [one, other] = times;
    (one, other)
}

/// How long a failed login took; nothing, where it was put off.
async fn time_login(world: &World, name: &str, from: u32) -> Option<f64> {
    // Each from a site of its own, since networks of one are counted together.
    let network = Ipv4Addr::from_bits(FIRST_NETWORK.to_bits() + (from << 16));
    let asked = world
        .ask(Method::POST, "/auth/login")
        .header("x-forwarded-for", network.to_string())
        .json(&json!({"username": name, "password": "not the password"}));
    let began = Instant::now();
    let answer = asked.send().await.expect("an answer");
    let status = answer.status();
    let retry_after = answer.headers().get("retry-after").cloned();
    answer.bytes().await.expect("all of it");
    let took = began.elapsed();
    if status == StatusCode::UNAUTHORIZED {
        return Some(took.as_secs_f64());
    }
    let wait = retry_after.and_then(|wait| wait.to_str().ok()?.parse().ok());
    sleep(Duration::from_secs(wait.unwrap_or_else(|| panic!("{status}")))).await;
    None
}

impl Times {
    /// Without what the machine did meanwhile.
    fn typical(&self) -> Self {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.truncate(sorted.len() * 9 / 10);
        Self(sorted)
    }

    /// Welch's t.
    fn against(&self, other: &Self) -> Comparison {
        let (own, others) = (self.moments(), other.moments());
        let spread = own.1 / self.0.len() as f64 + others.1 / other.0.len() as f64;
        Comparison {
            t: (own.0 - others.0) / spread.sqrt(),
            means: [own.0, others.0],
            counts: [self.0.len(), other.0.len()],
        }
    }

    /// Mean and variance.
    fn moments(&self) -> (f64, f64) {
        let count = self.0.len() as f64;
        let mean = self.0.iter().sum::<f64>() / count;
        let variance = self.0.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / (count - 1.0);
        (mean, variance)
    }
}

impl Comparison {
    /// Whether they differ beyond what is put down to chance (once in 100 000, and no noise of ours).
    fn tells(&self) -> bool {
        // What is no number says nothing in our favour.
        self.t.is_nan() || self.t.abs() >= THRESHOLD
    }

    /// The same of a control: what is no number, or comes of times that do not vary, shows nothing.
    fn is_told_apart(&self) -> bool {
        self.t.is_finite() && self.tells()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { t, means: [one, other], counts: [these, those] } = self;
        let [one, other] = [one, other].map(|mean| mean * 1000.0);
        write!(f, "t = {t:+6.2}   {one:.3} ms of {these}, {other:.3} ms of {those}")
    }
}

fn verdict(withstood: bool, is_enough: bool, control: &Comparison) -> &'static str {
    match (withstood, is_enough, control.is_told_apart()) {
        (true, ..) => "withstood: |t| < 4.5, so time does not tell who has an account",
        (_, false, _) => "nothing is known: there was not enough time",
        (_, _, false) => "nothing is known: the control was not told apart",
        _ => "TOLD: |t| >= 4.5, time tells who has an account",
    }
}

/// Names of one length.
fn names(kind: &str) -> Vec<String> {
    (0..NAMES).map(|number| format!("{kind:-<8}{number:03}")).collect()
}

/// Each name is asked for so seldom that nobody has to wait.
const NAMES: usize = 60;

/// How many logins are timed; of so many the result counts.
const LOGINS: usize = 2_400;
const LEAST: usize = 2_000;

/// As side channels are judged (ISO/IEC 17825).
const THRESHOLD: f64 = 4.5;

/// For each comparison.
const PATIENCE: Duration = Duration::from_secs(300);

const FIRST_NETWORK: Ipv4Addr = Ipv4Addr::new(16, 0, 0, 1);

/// Somebody's password, hashed at a cost that takes less time than ours.
const BCRYPT: &str = "$2b$06$abcdefghijklmnopqrstuufeGTF6yox6LbWT5TYYPoFw0Q7GRuXLC";
