//! Pingora's phases, each handed to the module that knows what to do.

use std::{os::fd::RawFd, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Version, header::EXPECT};
use memoric_config::schema::Check;
use memoric_contract::{AssertionKey, Operation, api_key::CheckKey};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader, StatusCode},
    prelude::HttpPeer,
    protocols::Digest,
    proxy::{FailToProxy, ProxyHttp, Session},
};
use serde_json::Value;

use crate::{
    api_keys::ApiKeys,
    authn::Authenticator,
    authz::Permit,
    backend::BackendClient,
    config::{Config, TrustedProxies},
    exchange::{Exchange, Exchanges, Outcome},
    forward::{Forward, fault, is_answered, rejection_for},
    gateway::Background,
    health::{Features, Health},
    issuers::Issuers,
    journal::Aside,
    limits::Limits,
    pipeline::{Decision, Pipeline},
    rejection::Rejection,
    request::{self, Request},
    respond,
    revocation::{Courier, Feed, Lookup, Revocations},
    upload::Part,
};

/// The gateway as Pingora's engine sees it.
pub(crate) struct Proxy {
    pipeline: Pipeline,
    forward: Forward,
    health: Arc<Health>,
    exchanges: Arc<Exchanges>,
    proxies: TrustedProxies,
    is_tls_only: bool,
}

impl Proxy {
    /// Builds every part once, and sets going what goes on beside requests.
    pub(crate) fn new(
        config: &Config,
        authenticator: Arc<Authenticator>,
        backend: Arc<BackendClient>,
        exchanges: Arc<Exchanges>,
        background: &Background,
    ) -> Self {
        let key = AssertionKey::new(*config.assertion_key.expose());
        let forward = Forward::new(Arc::clone(backend.link()), key, config.timeouts);
        let metrics = Arc::clone(exchanges.metrics());
        let metrics_of_issuers = Arc::clone(&metrics);
        let lookup = match config.revocation_check {
            Check::List => None,
            Check::Lookup => Some(Lookup::new(Arc::clone(&config.redis))),
        };
        let revocations =
            Arc::new(Revocations::new(Arc::clone(&backend), lookup, Arc::clone(&metrics)));
        let limits = Arc::new(Limits::new(&config.limits));
        let features =
            Features { metrics: config.metrics.is_some(), cors: !config.cors.origins.is_empty() };
        let redis = Arc::clone(&config.redis);
        let journal = Arc::clone(exchanges.journal());
        let health =
            Health::new(Arc::clone(&backend), redis, Arc::clone(&journal), metrics, features);
        let health = Arc::new(health);

        let issuers = Issuers::new(
            &config.issuers,
            Arc::clone(&authenticator),
            Arc::clone(&backend),
            (Arc::clone(&revocations), &metrics_of_issuers),
        );
        issuers.follow(background);
        let check = CheckKey::new(*config.check_key.expose());
        let api_keys = ApiKeys::new(check, Arc::clone(&backend), Arc::clone(&revocations));
        background.spawn(Feed { revocations: Arc::clone(&revocations), backend }.run());
        let redis = Arc::clone(&config.redis);
        background.spawn(async move { redis.keep().await });
        background.spawn(Courier::new(&config.redis, &revocations).run());
        let (tidied, watched) = (Arc::clone(&limits), Arc::clone(&health));
        background.spawn(async move { tidied.tidy().await });
        background.spawn(async move { watched.watch().await });
        Self {
            pipeline: Pipeline::new(
                config,
                authenticator,
                limits,
                revocations,
                issuers,
                api_keys,
                journal,
            ),
            forward,
            health,
            exchanges,
            proxies: config.proxies.clone(),
            is_tls_only: config.is_tls_only,
        }
    }

    /// What the gateway answers by itself.
    fn answer(&self, operation: Operation) -> Option<(StatusCode, Value)> {
        match operation {
            Operation::ShowSigningKeys => {
                Some((StatusCode::OK, self.pipeline.authenticator.public_keys()))
            }
            operation => self.health.answer(operation),
        }
    }

    /// Tells the client no, once that is written down.
    async fn refuse(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
        rejection: Rejection,
    ) -> Result<()> {
        let journal = self.exchanges.journal();
        let rejection = journal.refused(exchange, &session.req_header().headers, rejection).await;
        respond::reject(session, exchange, &rejection).await
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        self.exchanges.begin()
    }

    async fn early_request_filter(
        &self,
        session: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.open(session, &self.proxies);
        exchange.is_tls_only = self.is_tls_only && exchange.arrival.is_secure;
        // Otherwise Pingora takes an early next request for the end of this one's connection.
        session.as_downstream_mut().set_pipelining_enabled(true);
        request::cleanse(session.req_header_mut());
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        let decision = self.pipeline.decide(&Request::new(session, exchange), exchange).await;
        match decision {
            Ok(Decision::Forward(permit)) => {
                exchange.outcome = Outcome::Forwarded;
                exchange.permit = Some(permit);
                if !session.is_body_empty() {
                    exchange.upload.watch(session, self.pipeline.pace);
                    invite_body(session).await?;
                }
                return Ok(false);
            }
            Ok(Decision::Answer(operation)) => match self.answer(operation) {
                Some((status, body)) => {
                    respond::answer(session, exchange, status, &body).await?;
                }
                None => self.refuse(session, exchange, Rejection::Internal).await?,
            },
            // Counted, and on no record: nothing was asked yet, and what is will be on one.
            Ok(Decision::Preflight(preflight)) => {
                respond::preflight(session, exchange, &preflight).await?
            }
            Err(rejection) => self.refuse(session, exchange, rejection).await?,
        }
        Ok(true)
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        is_last: bool,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let part = Part { bytes: body.as_ref().map_or(0, Bytes::len), is_last };
        let followed = self.pipeline.follow(part, session, exchange).await;
        followed.map_err(|rejection| exchange.retract(rejection))
    }

    async fn upstream_peer(
        &self,
        _: &mut Session,
        exchange: &mut Exchange,
    ) -> Result<Box<HttpPeer>> {
        permit(exchange)?;
        exchange.upstream.asked();
        self.forward.peer()
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        _: RawFd,
        digest: Option<&Digest>,
        _: &mut Exchange,
    ) -> Result<()> {
        self.forward.ensure_fit(digest)
    }

    async fn upstream_request_filter(
        &self,
        _: &mut Session,
        head: &mut RequestHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        self.forward.prepare(head, permit(exchange)?, exchange)?;
        exchange.upstream.sent();
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        head: &mut ResponseHeader,
        exchange: &mut Exchange,
    ) -> Result<()> {
        exchange.upstream.answered();
        // Nobody was let ask for it, and what came behind it would not be HTTP.
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "another protocol").into_up());
        }
        // A connection that is kept would have to be cut when the gateway has stopped.
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        self.pipeline.revocations.heed(&head.headers);
        let aside = Aside::of(&head.headers);
        respond::take_out(head);
        self.pipeline.settle(exchange, head.status);
        respond::sign_off(head, exchange)?;
        let journal = self.exchanges.journal();
        let written =
            journal.answered(exchange, &session.req_header().headers, head.status, aside).await;
        written.map_err(|rejection| exchange.retract(rejection))?;
        exchange.answered(head.status);
        Ok(())
    }

    /// Tries again only what cannot happen twice: a request without a body and without effect, on
    /// a connection that turned out to be dead.
    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        _: &mut Exchange,
        was_reused: bool,
    ) -> Box<Error> {
        let is_repeatable = session.req_header().method.is_safe()
            && session.is_body_empty()
            && !is_answered(session);
        if is_repeatable {
            error.retry.decide_reuse(was_reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        exchange: &mut Exchange,
    ) -> FailToProxy {
        let rejection = exchange.verdict.take().or_else(|| rejection_for(error, session, exchange));
        if let Some(rejection) = rejection.filter(|_| !is_answered(session)) {
            // The error's own text may quote what was sent, by either side.
            let (fault, source) = (error.etype().as_str(), error.esource().as_str());
            tracing::warn!(request = %exchange.id, fault, source, "not forwarded");
            // What was not read of the body is still on its way.
            session.set_keepalive(None);
            let error_code = rejection.status().as_u16();
            if self.refuse(session, exchange, rejection).await.is_err() {
                tracing::debug!(request = %exchange.id, "the client is gone");
            }
            return FailToProxy { error_code, can_reuse_downstream: false };
        }
        FailToProxy { error_code: 0, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Exchange) {
        exchange.close(session, error);
    }

    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        true
    }
}

/// The permit that this exchange won, without which nothing is forwarded.
fn permit(exchange: &Exchange) -> Result<&Permit> {
    exchange.permit.as_ref().ok_or_else(|| fault("forwarding without a permit"))
}

/// Asks for the body, now that it is wanted (RFC 9110, section 10.1.1).
async fn invite_body(session: &mut Session) -> Result<()> {
    let head = session.req_header();
    if head.version == Version::HTTP_11 && head.headers.contains_key(EXPECT) {
        // Pingora takes this for an answer that came before its body, and gives up the connection.
        let kept = session.get_keepalive();
        session.as_downstream_mut().write_continue_response().await?;
        session.set_keepalive(kept);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use memoric_config::Settings;
    use pingora::protocols::l4::stream::Stream;
    use tokio::{io::AsyncWriteExt as _, net::UnixStream};

    use super::*;
    use crate::{
        backend::tests::client, config::tests::environment, journal::tests::journal,
        metrics::Metrics,
    };

    #[tokio::test]
    async fn the_first_phase_leaves_no_identity_of_a_clients_own_making() {
        let proxy = proxy();
        let (mut client, server) = UnixStream::pair().unwrap();
        let head = "GET /nowhere HTTP/1.1\r\nHost: a\r\nX-User-Id: 1\r\nx_user_id: 1\r\n\
                    Forwarded: for=1\r\nUpgrade: websocket\r\nAccept: */*\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let mut session = Session::new_h1(Box::new(Stream::from(server)));
        assert!(session.downstream_session.read_request().await.unwrap());

        proxy.early_request_filter(&mut session, &mut proxy.new_ctx()).await.unwrap();

        let left: Vec<_> = session.req_header().headers.keys().map(|name| name.as_str()).collect();
        assert_eq!(left, ["host", "accept"]);
    }

    fn proxy() -> Proxy {
        let metrics = Arc::new(Metrics::new().unwrap());
        let journal = journal(&metrics);
        let config = Config::new(&Settings::default(), &environment()).unwrap();
        let authenticator = Arc::new(Authenticator::new(config.token_keys.clone(), None));
        Proxy::new(
            &config,
            authenticator,
            client(&config),
            Exchanges::new(metrics, journal).unwrap(),
            &Background::new(),
        )
    }
}
