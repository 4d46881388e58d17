//! What people would use instead, or do nothing with.

use std::{fs, net::SocketAddr, path::Path};

use harness::{JWT_SECRET, Program, Started, free_address};
use reqwest::StatusCode;

use crate::site::{Site, wait_for};

/// A proxy that is not ours.
pub struct Peer {
    /// The process.
    pub process: Started,
    /// Where clients connect by TLS.
    pub https: SocketAddr,
}

/// Pingora with one worker, passing everything through to `origin`.
pub async fn passthrough(site: &Site, origin: &Path) -> Peer {
    let https = free_address();
    let [certificate, key] = site.certificate().map(|file| file.display().to_string());
    let (address, origin) = (https.to_string(), origin.display().to_string());
    let process = Program::new(&Program::folder().join("examples/passthrough"))
        .args([&*address, &certificate, &key, &origin])
        .start();
    let url = format!("https://{https}/");
    Peer { process: wait_for(&site.client, &url, StatusCode::OK, process).await, https }
}

/// HAProxy with one thread, which lets nobody ask more than `limit` times per second.
pub async fn haproxy(site: &Site, origin: &Path, limit: u64) -> Peer {
    let https = free_address();
    let name = https.port();
    let chain = site.folder().join(format!("{name}.pem"));
    let pem = site.certificate().map(|file| fs::read(file).expect("the site wrote it")).concat();
    fs::write(&chain, pem).expect("the folder is ours");
    let file = site.folder().join(format!("{name}.cfg"));
    fs::write(&file, configuration(https, &chain, origin, limit)).expect("the folder is ours");

    let file = file.display().to_string();
    let process = Program::named("haproxy").args(["-db", "-f", &file]).start();
    let (url, status) = match limit {
        0 => (format!("https://{https}/"), StatusCode::TOO_MANY_REQUESTS),
        _ => (format!("https://{https}/"), StatusCode::UNAUTHORIZED),
    };
    Peer { process: wait_for(&site.client, &url, status, process).await, https }
}

/// What an operator writes to have HAProxy do this job, as far as it can: no revocation, no
/// assertion, no log, no record.
fn configuration(https: SocketAddr, chain: &Path, origin: &Path, limit: u64) -> String {
    let (chain, origin) = (chain.display(), origin.display());
    format!(
        r#"
global
    nbthread 1
defaults
    mode http
    timeout connect 2s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend edge
    bind {https} ssl crt {chain} alpn h2,http/1.1
    stick-table type ipv6 size 100k expire 60s store http_req_rate(1s)
    http-request track-sc0 src
    http-request return status 429 content-type application/problem+json string '{{"title":"Too Many Requests","status":429,"code":"rate_limited","detail":"Too many requests"}}' if {{ sc_http_req_rate(0) gt {limit} }}
    http-request set-var(txn.algorithm) http_auth_bearer,jwt_header_query('$.alg')
    http-request set-var(txn.expiry) http_auth_bearer,jwt_payload_query('$.exp','int')
    http-request set-var(txn.user) http_auth_bearer,jwt_payload_query('$.sub')
    http-request set-var(txn.roles) http_auth_bearer,jwt_payload_query('$.roles')
    acl signed var(txn.algorithm) -m str HS256
    acl verified http_auth_bearer,jwt_verify(txn.algorithm,"{JWT_SECRET}") -m int 1
    acl expired date,sub(txn.expiry) -m int ge 0
    http-request return status 401 content-type application/problem+json string '{{"title":"Unauthorized","status":401,"code":"invalid_credentials","detail":"Invalid credentials"}}' if !signed or !verified or expired
    http-request return status 403 content-type application/problem+json string '{{"title":"Forbidden","status":403,"code":"insufficient_permissions","detail":"Insufficient permissions"}}' if {{ path_beg /audit/ }} !{{ var(txn.roles) -m sub admin }}
    http-request del-header Authorization
    http-request set-header X-User %[var(txn.user)]
    http-request set-header X-Roles %[var(txn.roles)]
    default_backend origin
backend origin
    server origin unix@{origin}
"#
    )
}
