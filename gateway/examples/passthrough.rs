//! Pingora as it comes, passing requests through: what the gateway's checks are measured against.
//!
//! `passthrough ADDRESS CERTIFICATE KEY ORIGIN`, where ORIGIN is the file of a Unix socket.

use std::{env, error::Error, path::PathBuf};

use async_trait::async_trait;
use pingora::{
    Result,
    listeners::tls::TlsSettings,
    prelude::HttpPeer,
    proxy::{ProxyHttp, Session, http_proxy_service},
    server::{RunArgs, Server, configuration::ServerConf},
};

/// As in the gateway, so that it is not the allocator that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sends every request to the same place, as it is.
struct Passthrough {
    origin: PathBuf,
}

#[async_trait]
impl ProxyHttp for Passthrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        let origin = self.origin.to_string_lossy();
        Ok(Box::new(HttpPeer::new_uds(&origin, false, String::new())?))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [address, certificate, key, origin] = arguments.as_slice() else {
        return Err("takes an address, a certificate, its key, and the socket of an origin".into());
    };
    // The origin is spoken to in clear, so the system's authorities are not read.
    let conf =
        ServerConf { threads: 1, ca_file: Some("/dev/null".to_owned()), ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let proxy = Passthrough { origin: PathBuf::from(origin) };
    let mut service = http_proxy_service(&server.configuration, proxy);
    let mut tls = TlsSettings::intermediate(certificate, key)?;
    tls.enable_h2();
    service.add_tls_with_settings(address, None, tls);
    server.add_service(service);
    server.run(RunArgs::default());
    Ok(())
}
