//! Every check a request must pass, in order.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use memoric_contract::{AnsweredBy, Identity, Operation, UserId};
use pingora::proxy::Session;

use crate::{
    api_keys::ApiKeys,
    authn::{self, Authenticator, Disbelief, TokenDigest},
    authz::{self, Permit},
    clock::now,
    config::{Bounds, Config, Pace},
    cors::{self, Cors, Preflight},
    credential::Credential,
    exchange::Exchange,
    framing,
    issuers::Issuers,
    journal::Journal,
    limits::{Budget, Limits},
    names::Names,
    rejection::Rejection,
    request::Request,
    revocation::Revocations,
    routes::{self, Routes},
    seats::Seats,
    target::Target,
    upload::{self, Part},
};

/// What the checks need to know.
pub(crate) struct Pipeline {
    cors: Cors,
    names: Names,
    limits: Arc<Limits>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) authenticator: Arc<Authenticator>,
    issuers: Issuers,
    api_keys: ApiKeys,
    journal: Arc<Journal>,
    bounds: Bounds,
    pub(crate) pace: Pace,
    routes: Routes,
    seats: Arc<Seats>,
}

/// What is to be done with a request that was not rejected.
pub(crate) enum Decision {
    /// Send it on.
    Forward(Permit),
    /// Answer it from what the gateway knows.
    Answer(Operation),
    /// Answer the browser that wonders whether it may ask.
    Preflight(Preflight),
}

impl Pipeline {
    pub(crate) fn new(
        config: &Config,
        authenticator: Arc<Authenticator>,
        limits: Arc<Limits>,
        revocations: Arc<Revocations>,
        issuers: Issuers,
        api_keys: ApiKeys,
        journal: Arc<Journal>,
    ) -> Self {
        Self {
            journal,
            issuers,
            api_keys,
            cors: Cors::new(config.cors.clone(), config.names.clone()),
            names: config.names.clone(),
            limits,
            revocations,
            authenticator,
            bounds: config.bounds,
            pace: config.pace(),
            routes: Routes::new(),
            seats: Seats::new(config.in_flight),
        }
    }

    /// Decides what happens to `request`.
    ///
    /// The steps run top to bottom and there is no other way through. What costs us least comes
    /// first, and nothing is trusted until `verify` has returned. What is learnt on the way is
    /// noted in `exchange`, for the log and the answer.
    pub(crate) async fn decide(
        &self,
        request: &Request<'_>,
        exchange: &mut Exchange,
    ) -> Result<Decision, Rejection> {
        // Is it a request at all, and can we afford it?
        exchange.page = self.cors.allow(request);
        framing::check(request, self.bounds)?;
        self.names.ensure_ours(request)?;
        let target = Target::parse(request.target())?;
        let operation = self.routes.find(request.method(), &target);
        let charged = operation.as_ref().ok().copied();
        exchange.budget = Some(self.limits.charge_client(request.client, charged)?);
        if cors::is_preflight(request) {
            let methods = routes::methods(&target)?;
            return self.cors.preflight(request, &methods).map(Decision::Preflight);
        }
        let operation = operation?;
        exchange.operation = Some(operation);
        self.cors.ensure_allowed(request)?;

        // Who is asking?
        let identity = self.identify(request, operation, exchange).await?;
        if let Some(identity) = &identity {
            exchange.caller = Some(Arc::clone(identity));
            self.revocations.ensure_live(identity).await?;
        }
        let charged =
            self.limits.charge_operation(identity.as_deref(), request.client, operation)?;
        exchange.budget = Budget::tightest([exchange.budget, charged.budget]);
        exchange.deposit = charged.deposit;

        // May they, is there room, and can it be written down that they did?
        exchange.owner = authz::named_owner(operation, &target).and_then(UserId::parse);
        let permit = authz::authorize(identity.as_ref(), operation, target)?;
        framing::check_body(request, operation)?;
        self.journal.ensure_room(permit.caller())?;
        Ok(match operation.answered_by() {
            AnsweredBy::Gateway => Decision::Answer(operation),
            AnsweredBy::Backend => {
                exchange.seat = Some(self.seats.take(request.client, permit.caller())?);
                Decision::Forward(permit)
            }
        })
    }

    /// Who asks, verified; `None` where `operation` is for strangers.
    async fn identify(
        &self,
        request: &Request<'_>,
        operation: Operation,
        exchange: &mut Exchange,
    ) -> Result<Option<Arc<Identity>>, Rejection> {
        let verified = match Credential::read(request.headers(), operation.demands())? {
            Credential::AccessToken(token) => self.believe(token, (request.client, now())).await,
            Credential::ApiKey(key) => self.api_keys.verify(key, request.client, now()).await,
            Credential::Nothing | Credential::RefreshToken => return Ok(None),
        };
        verified.map(Some).map_err(|disbelief| exchange.disbelieve(disbelief))
    }

    /// Whose `token` is. One that was verified before is known by its bytes, before anybody asks what it
    /// says: what has to be judged at every use is no part of that.
    async fn believe(
        &self,
        token: &str,
        (client, now): (Option<IpAddr>, u64),
    ) -> Result<Arc<Identity>, Disbelief> {
        let digest = TokenDigest::of(token);
        if let Some(known) = self.authenticator.recall(&digest, now) {
            return known;
        }
        match self.issuers.verify(token, digest, (client, now)).await {
            Some(judged) => judged,
            None => self.authenticator.verify(token, digest, now),
        }
    }

    /// Judges by the `status` of the backend's answer whether an attempt was a guess.
    pub(crate) fn settle(&self, exchange: &mut Exchange, status: StatusCode) {
        if let Some((deposit, operation)) = exchange.deposit.as_mut().zip(exchange.operation)
            && !status.is_informational()
        {
            self.limits.settle(deposit, operation, status);
        }
    }

    /// Decides whether the part of a body that has just come goes on to the backend.
    ///
    /// The head was judged when it came. By the time of the last byte, which may take a minute,
    /// the credential may have ended, and without that byte nothing has been asked.
    pub(crate) async fn follow(
        &self,
        part: Part,
        session: &Session,
        exchange: &mut Exchange,
    ) -> Result<(), Rejection> {
        let taken = exchange.operation.map_or(0, |operation| operation.takes().most());
        let limits = (taken.min(self.bounds.body_bytes), self.pace);
        let upload = &mut exchange.upload;
        let received = upload.receive(part, upload::declared(session), limits, Instant::now());
        upload.watch(session, self.pace);
        received?;
        match &exchange.caller {
            Some(caller) if exchange.upload.is_over() && exchange.began.elapsed() > FRESH => {
                authn::ensure_unexpired(caller, now())?;
                self.revocations.ensure_current(caller)?;
                self.revocations.ensure_live(caller).await
            }
            _ => Ok(()),
        }
    }
}

/// How long what a head was judged by is good for: about as long as news of a revocation take.
const FRESH: Duration = Duration::from_millis(50);
