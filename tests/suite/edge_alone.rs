//! In front of services that are nobody's vault, the gateway is as strict as in front of ours.

mod alone;
mod beside;
mod records;

use std::path::{Path, PathBuf};

use harness::{Answer, Origin};
use memoric_config::schema::Route;
use tempfile::TempDir;

/// A service behind a gateway, which writes down what reaches it.
struct Service {
    origin: Origin,
    socket: PathBuf,
    _folder: TempDir,
}

impl Service {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("service-").tempdir_in("/tmp").unwrap();
        let socket = folder.path().join("service.sock");
        Self { origin: Origin::start(&socket), socket, _folder: folder }
    }

    /// The way to it, for whoever has one of `roles`.
    fn at(&self, path: &str, roles: &[&str]) -> Route {
        route(path, &self.socket, roles)
    }

    /// Answers whatever it is asked with `fields` besides.
    fn says(&self, fields: &str) {
        let answer = String::from_utf8(Answer::ok("text/plain", b"from the service")).unwrap();
        let answer = answer.replacen("\r\n", &format!("\r\n{fields}"), 1);
        self.origin.answer_with(move |_| answer.clone().into_bytes());
    }
}

/// The way to what listens at `socket`.
fn route(path: &str, socket: &Path, roles: &[&str]) -> Route {
    Route {
        path: path.to_owned(),
        upstream: format!("unix:{}", socket.display()),
        methods: ["GET", "POST", "DELETE"].map(str::to_owned).into(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        body_bytes: 1000,
        ca: None,
    }
}
