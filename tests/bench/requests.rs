//! What one request costs at the edge, let in or turned away.

use std::{net::SocketAddr, path::Path};

use harness::Person;
use reqwest::{StatusCode, header::AUTHORIZATION};

use crate::{
    contest::{Contestant, Measured, Plan, Series, contest},
    cpu::Watched,
    load::Requests,
    origin, peers,
    site::Site,
    table::{Goal, Ratio, Table},
};

/// One kind of request, and what becomes of it.
#[derive(Clone, Copy)]
struct Case<'a> {
    path: &'static str,
    token: Option<&'a str>,
    status: StatusCode,
}

/// Measures the gateway, HAProxy and Pingora alone in front of the same origin.
pub async fn measure(site: &Site, person: &Person, plan: Plan, table: &mut Table) {
    let socket = site.folder().join("origin.sock");
    origin::serve(&socket, &site.socket());
    let origin: &Path = &socket;
    let passthrough = peers::passthrough(site, origin).await;
    let haproxy = peers::haproxy(site, origin, u64::from(u32::MAX)).await;
    let haproxy_shut = peers::haproxy(site, origin, 0).await;
    let gateway = site.edge(origin, true).await;
    let gateway_shut = site.edge(origin, false).await;

    let forged = forged(&person.token);
    let case = |path, token, status| Case { path, token, status };
    let accepted = case("/memories?top_k=20", Some(&*person.token), StatusCode::OK);
    let nobody = case("/memories?top_k=20", None, StatusCode::UNAUTHORIZED);
    let forger = case("/memories?top_k=20", Some(&*forged), StatusCode::UNAUTHORIZED);
    let forbidden = case("/audit/logs", Some(&*person.token), StatusCode::FORBIDDEN);
    let refused = case("/memories?top_k=20", Some(&*person.token), StatusCode::TOO_MANY_REQUESTS);

    let pingora = Watched::process(&passthrough.process);
    let [theirs, theirs_shut] = [&haproxy, &haproxy_shut].map(|it| Watched::process(&it.process));
    let [ours, ours_shut] = [&gateway, &gateway_shut].map(|it| Watched::process(&it.gateway));
    let asked = [
        (accepted, passthrough.https, pingora),
        (accepted, haproxy.https, theirs),
        (accepted, gateway.https, ours),
        (nobody, haproxy.https, theirs),
        (nobody, gateway.https, ours),
        (forger, haproxy.https, theirs),
        (forger, gateway.https, ours),
        (forbidden, haproxy.https, theirs),
        (forbidden, gateway.https, ours),
        (refused, haproxy_shut.https, theirs_shut),
        (refused, gateway_shut.https, ours_shut),
    ];
    ensure_answered(site, &asked).await;
    let measured = contest(plan, asked.map(|(case, https, watched)| case.of(https, watched)));
    // A limit that was reached on the way would show by now.
    ensure_answered(site, &asked).await;
    tell(&measured, table);
}

impl<'a> Case<'a> {
    /// Somebody who answers this.
    fn of(self, https: SocketAddr, watched: Watched) -> Contestant<'a> {
        let (url, token) = (self.url(https), self.token.map(str::to_owned));
        let load = Requests { url, token, body: None, clients: CLIENTS };
        Contestant::new(&[watched], move |seconds| load.run(seconds, self.status.is_success()))
    }

    fn url(self, https: SocketAddr) -> String {
        format!("https://{https}{}", self.path)
    }
}

/// Sees to it that everybody answers with the right status, of which `wrk` tells only good from bad.
async fn ensure_answered(site: &Site, asked: &[(Case<'_>, SocketAddr, Watched)]) {
    for (case, https, _) in asked {
        let url = case.url(*https);
        let mut request = site.client.get(&url);
        if let Some(token) = case.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), case.status, "{url}");
    }
}

fn tell(measured: &[Measured; 11], table: &mut Table) {
    let cpu = measured.each_ref().map(|measured| &measured.cpu[0]);
    let [pingora, haproxy, gateway, refusals @ ..] = cpu;
    let to = |one: &Series, other: &Series, name| Ratio::new(one.over(other), name);

    let accepted = "200";
    table.cpu(accepted, "Pingora, passing through", pingora, &[]);
    let doing_less = "HAProxy: token, limit, claims to headers";
    table.cpu(accepted, doing_less, haproxy, &[to(haproxy, pingora, "passing through")]);
    table.cpu(
        accepted,
        "gateway",
        gateway,
        &[
            to(gateway, pingora, "passing through").goal(Goal::AtMost(1.10)),
            to(gateway, haproxy, "HAProxy").goal(Goal::AtMost(1.05)),
        ],
    );
    let kinds = ["401, no credential", "401, forged token", "403, role", "429, address"];
    for (kind, pair) in kinds.into_iter().zip(refusals.chunks(2)) {
        let (theirs, ours) = (pair[0], pair[1]);
        table.cpu(kind, "HAProxy", theirs, &[]);
        table.cpu(
            kind,
            "gateway",
            ours,
            &[to(ours, gateway, "its 200").goal(Goal::AtMost(0.60)), to(ours, theirs, "HAProxy")],
        );
    }
}

/// `token` with another signature that looks as good.
fn forged(token: &str) -> String {
    let (message, signature) = token.rsplit_once('.').expect("a token");
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{message}.{other}{}", &signature[1..])
}

/// How many connections are kept.
const CLIENTS: usize = 64;
