//! A server process that cannot outlive the test run.

use std::{
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// PostgreSQL refuses to run as root, so under root everything we start runs as nobody.
const NOBODY: u32 = 65_534;

/// A running server. It ends when this is dropped, or with this process.
#[derive(Debug)]
pub struct Daemon {
    shell: Child,
}

impl Daemon {
    /// Starts `command` in `dir`, which goes with it.
    ///
    /// A static is never dropped, so a shell does the cleaning up: it reads our end of a pipe,
    /// which the system closes however we die.
    pub fn start(dir: &Path, command: &[&str]) -> Self {
        let script = r#"exec 3<&0; "$@" </dev/null >log 2>&1 & server=$!; cat <&3 >/dev/null; kill -INT $server 2>/dev/null; wait $server; cd /; rm -rf "$0"; rmdir "${0%/*}" 2>/dev/null"#;
        let path = dir.display().to_string();
        let mut words = vec!["sh", "-c", script, &path];
        words.extend(command);
        let shell =
            unprivileged(dir, &words).stdin(Stdio::piped()).spawn().expect("there is a shell");
        Self { shell }
    }

    /// Runs `command` to its end, in `dir`.
    pub fn run(dir: &Path, command: &[&str]) {
        let output = unprivileged(dir, command)
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// A short-named folder of one's own that servers can use, whoever they run as.
pub fn scratch(name: &str) -> PathBuf {
    let dir = tempfile::Builder::new()
        .prefix(name)
        .tempdir_in("/tmp")
        .expect("a temporary folder")
        .keep();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    give(&dir);
    dir
}

fn give(dir: &Path) {
    if is_root() {
        chown(dir, Some(NOBODY), Some(NOBODY)).expect("root may give it away");
    }
}

fn unprivileged(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .env("HOME", dir);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
