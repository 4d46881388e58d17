//! Who asks: `wrk` of an HTTP server, `pgbench` of PostgreSQL.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use harness::postgres_program;

use crate::cpu::cores;

/// What came of asking for a while.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// How many requests or transactions there were.
    pub count: f64,
    /// How many in a second, by the watch of who asked.
    pub per_second: f64,
}

/// What `wrk` asks for, over and over.
#[derive(Clone, Debug)]
pub struct Requests {
    /// Where to.
    pub url: String,
    /// The bearer token that goes along.
    pub token: Option<String>,
    /// What is posted; `None` is a GET.
    pub body: Option<String>,
    /// How many ask at once.
    pub clients: usize,
}

/// What `pgbench` has done, over and over.
#[derive(Clone, Debug)]
pub struct Transactions {
    /// The script.
    pub script: PathBuf,
    /// The folder of the server's socket.
    pub server: PathBuf,
    /// The database.
    pub database: String,
    /// As whom.
    pub role: String,
    /// And with which password.
    pub password: String,
    /// How many ask at once.
    pub clients: usize,
}

impl Requests {
    /// Asks for so many seconds. The answers have to be good, or refusals, to the last of them: a
    /// benchmark of errors would look splendid.
    pub fn run(&self, seconds: u64, are_good: bool) -> Done {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = folder.path().join("request.lua");
        fs::write(&script, self.script()).expect("just made");
        let mut command = on_the_last_core("wrk");
        command
            .args(["-t1", "--latency"])
            .arg(format!("-c{}", self.clients))
            .arg(format!("-d{seconds}s"))
            .arg("-s")
            .args([script.as_os_str(), self.url.as_ref()]);
        let said = said(command.output(), "wrk");

        assert!(!said.contains("Socket errors"), "{}: {said}", self.url);
        let count = number_before(&said, " requests in ").expect("wrk counts them");
        let refused = number_after(&said, "Non-2xx or 3xx responses: ").unwrap_or(0.0);
        let expected = if are_good { 0.0 } else { count };
        assert_eq!(refused, expected, "{}: refusals of {count} requests", self.url);
        let per_second = number_after(&said, "Requests/sec: ").expect("wrk has a watch");
        Done { count, per_second }
    }

    fn script(&self) -> String {
        let mut script = String::new();
        if let Some(token) = &self.token {
            script += &format!("wrk.headers['Authorization'] = 'Bearer {token}'\n");
        }
        if let Some(body) = &self.body {
            script += "wrk.method = 'POST'\nwrk.headers['Content-Type'] = 'application/json'\n";
            script += &format!("wrk.body = [==[{body}]==]\n");
        }
        script
    }
}

impl Transactions {
    /// Works for so many seconds.
    pub fn run(&self, seconds: u64) -> Done {
        self.work(&format!("--time={seconds}"))
    }

    /// Connects, and has every client do it once.
    pub fn begin(&self) -> Done {
        self.work("--transactions=1")
    }

    fn work(&self, amount: &str) -> Done {
        let mut command = on_the_last_core(&postgres_program("pgbench"));
        command
            .env("PGPASSWORD", &self.password)
            .args(["--no-vacuum", "--protocol=prepared", "--jobs=1", "--define=signed=0"])
            .arg(format!("--client={}", self.clients))
            .arg(amount)
            .arg(format!("--file={}", self.script.display()))
            .arg(format!("--host={}", self.server.display()))
            .arg(format!("--username={}", self.role))
            .arg(&self.database);
        let said = said(command.output(), "pgbench");
        let count = number_after(&said, "transactions actually processed: ");
        let per_second = number_after(&said, "tps = ").expect("pgbench has a watch");
        Done { count: count.expect("pgbench counts them"), per_second }
    }
}

/// Who asks has a core of their own, as far as there is one.
fn on_the_last_core(program: &str) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg((cores() - 1).to_string()).arg(program);
    command
}

fn said(output: std::io::Result<Output>, program: &str) -> String {
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {said}{complaints}");
    said
}

fn number_before(text: &str, mark: &str) -> Option<f64> {
    text.split_once(mark)?.0.split_whitespace().next_back()?.parse().ok()
}

fn number_after(text: &str, mark: &str) -> Option<f64> {
    // Transactions are told as a number, or as that of all that there were to be.
    let word = text.split_once(mark)?.1.split_whitespace().next()?;
    word.split('/').next()?.parse().ok()
}

/// Writes a script for `pgbench` into `folder`.
pub fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    fs::write(&file, text).expect("the folder is ours");
    file
}
