//! The programs as people start them.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Below it are the ports that services have by custom.
const FIRST_PORT: u16 = 16_000;

/// A command that starts from an empty environment.
#[derive(Debug)]
pub struct Program {
    command: Command,
    input: Option<String>,
    output: Option<Stdio>,
}

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Started {
    child: Child,
    said: TempDir,
}

/// The root of this checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the checkout")
}

/// A program of this workspace, as built beside this test.
pub fn program(name: &str) -> Program {
    Program::new(&beside_this_test().join(name))
}

/// An address of this machine that nobody listens on and no connection leaves from.
///
/// The kernel gives connections that leave a port of its own range, one of which may be taken before the program under
/// test has begun to listen on it. Hence a port below that range, and each of them once per run.
pub fn free_address() -> SocketAddr {
    static NEXT: LazyLock<AtomicU32> = LazyLock::new(|| AtomicU32::new(std::process::id()));
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let end = range.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    let ports: Vec<u16> = (FIRST_PORT..end.expect("the kernel tells its range")).collect();

    let tried = ports.iter().map(|_| {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        SocketAddr::from((Ipv4Addr::LOCALHOST, ports[turn as usize % ports.len()]))
    });
    let mut free = tried.filter(|address| TcpListener::bind(address).is_ok());
    free.next().expect("there is a free port")
}

fn beside_this_test() -> PathBuf {
    let this = std::env::current_exe().expect("this test is a file");
    let profile = this.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    profile.to_owned()
}

impl Program {
    /// The program at `path`.
    pub fn new(path: &Path) -> Self {
        assert!(path.exists(), "{} is not built: run `make test`", path.display());
        Self::from(Command::new(path))
    }

    /// The program that the PATH has under `name`.
    pub fn named(name: &str) -> Self {
        Self::from(Command::new(name))
    }

    fn from(mut command: Command) -> Self {
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        Self { command, input: None, output: None }
    }

    /// The folder of the programs of this workspace.
    pub fn folder() -> PathBuf {
        beside_this_test()
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets one variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives it something to read.
    #[must_use]
    pub fn input(mut self, input: &str) -> Self {
        self.input = Some(input.to_owned());
        self
    }

    /// Sends what it says elsewhere than into a file.
    #[must_use]
    pub fn output(mut self, output: impl Into<Stdio>) -> Self {
        self.output = Some(output.into());
        self
    }

    /// Runs it to its end, which has to come soon.
    pub fn run(self) -> Output {
        self.start().wait(Duration::from_secs(30))
    }

    /// Starts it.
    pub fn start(mut self) -> Started {
        let said = tempfile::tempdir().expect("a temporary folder");
        let file =
            |name: &str| std::fs::File::create(said.path().join(name)).expect("a temporary file");
        let input = said.path().join("stdin");
        std::fs::write(&input, self.input.unwrap_or_default()).expect("a temporary file");
        self.command.stdin(std::fs::File::open(input).expect("just written"));
        self.command.stdout(self.output.unwrap_or_else(|| file("stdout").into()));
        self.command.stderr(file("stderr"));
        Started { child: self.command.spawn().expect("the program starts"), said }
    }
}

impl Started {
    /// The process id.
    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// The memory that it holds, in MiB.
    pub fn resident(&self) -> f64 {
        let status = format!("/proc/{}/status", self.pid().as_raw_nonzero());
        let status = std::fs::read_to_string(status).expect("it runs");
        let held = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = held.and_then(|held| held.split_whitespace().next()?.parse::<f64>().ok());
        kib.expect("the kernel counts it") / 1024.0
    }

    /// Sends `signal`.
    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("the program runs");
    }

    /// Ends it at once, and waits for that.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its end, at most `limit`, and returns what it said.
    pub fn wait(mut self, limit: Duration) -> Output {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(began.elapsed() < limit, "still running after {limit:?}");
            sleep(Duration::from_millis(10));
        };
        Output { status, stdout: self.said("stdout"), stderr: self.said("stderr") }
    }

    /// What it has written so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.said("stdout")).into_owned()
    }

    /// What it has complained of so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.said("stderr")).into_owned()
    }

    fn said(&self, stream: &str) -> Vec<u8> {
        // What goes elsewhere is not in a file.
        std::fs::read(self.said.path().join(stream)).unwrap_or_default()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
