//! Every check a request must pass, in order.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use http::StatusCode;
use memoric_contract::{AnsweredBy, Demands, Identity, Operation};
use pingora::proxy::Session;

use crate::{
    api_keys::{ApiKeys, memory::UNKNOWN},
    asked::Asked,
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
    limits::{Budget, Charged, Limits},
    names::Names,
    rejection::Rejection,
    request::Request,
    revocation::Revocations,
    routes::Routes,
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
    /// Where there is a backend that knows whose they are.
    api_keys: Option<ApiKeys>,
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
        api_keys: Option<ApiKeys>,
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
            routes: Routes::new(&config.routes, config.backend.is_some()),
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
        let asked = self.routes.find(request.method(), &target);
        let charged = asked.as_ref().ok().and_then(Asked::operation);
        exchange.budget = Some(self.limits.charge_client(request.client, charged)?);
        if cors::is_preflight(request) {
            let methods = self.routes.methods(&target)?;
            return self.cors.preflight(request, &methods).map(Decision::Preflight);
        }
        let asked = asked?;
        exchange.asked = Some(asked.clone());
        self.cors.ensure_allowed(request)?;

        // Who is asking?
        let identity = self.identify(request, asked.demands(), exchange).await?;
        if let Some(identity) = &identity {
            exchange.caller = Some(Arc::clone(identity));
            self.revocations.ensure_live(identity).await?;
            let budget = self.limits.charge_caller(identity, asked.operation())?;
            exchange.budget = Budget::tightest([exchange.budget, Some(budget)]);
        }

        // May they, how often, is there room, and can it be written down that they did?
        exchange.owner = asked.owner(&target);
        let permit = authz::authorize(identity.as_ref(), asked, target)?;
        let charged = self.charge(identity.as_deref(), request, permit.asked())?;
        exchange.budget = Budget::tightest([exchange.budget, charged.budget]);
        exchange.deposit = charged.deposit;
        framing::check_body(request, permit.asked())?;
        self.journal.ensure_room(permit.caller())?;
        match permit.asked().operation() {
            Some(operation) if operation.answered_by() == AnsweredBy::Gateway => {
                Ok(Decision::Answer(operation))
            }
            _ => {
                exchange.seat = Some(self.seats.take(request.client, permit.caller())?);
                Ok(Decision::Forward(permit))
            }
        }
    }

    /// Charges whoever may have what is `asked` for what it does. A refusal spends none of that: a
    /// credential that may not do it must not use up what its owner has.
    fn charge(
        &self,
        identity: Option<&Identity>,
        request: &Request<'_>,
        asked: &Asked,
    ) -> Result<Charged, Rejection> {
        match (asked, identity) {
            (Asked::Operation(operation), identity) => {
                self.limits.charge_operation(identity, request.client, *operation)
            }
            (Asked::Route(_), Some(identity)) => {
                self.limits.charge_route(identity, request.method())
            }
            (Asked::Route(_), None) => Err(Rejection::NoCredential),
        }
    }

    /// Who asks, verified; `None` where what is asked `demands` no access.
    async fn identify(
        &self,
        request: &Request<'_>,
        demands: Demands,
        exchange: &mut Exchange,
    ) -> Result<Option<Arc<Identity>>, Rejection> {
        let verified = match Credential::read(request.headers(), demands)? {
            Credential::AccessToken(token) => self.believe(token, (request.client, now())).await,
            Credential::ApiKey(key) => match &self.api_keys {
                Some(api_keys) => api_keys.verify(key, request.client, now()).await,
                None => Err(UNKNOWN),
            },
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
        let operation = exchange.asked.as_ref().and_then(Asked::operation);
        if let Some((deposit, operation)) = exchange.deposit.as_mut().zip(operation)
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
        let taken = exchange.asked.as_ref().map_or(0, Asked::most_body);
        let limits = (taken.min(self.bounds.body_bytes), self.pace);
        let upload = &mut exchange.upload;
        let received = upload.receive(part, upload::declared(session), limits, Instant::now());
        upload.watch(session, self.pace);
        received?;
        match &exchange.caller {
            Some(caller) if exchange.upload.is_over() => {
                authn::ensure_unexpired(caller, now())?;
                self.revocations.ensure_current(caller)?;
                match exchange.began.elapsed() > FRESH {
                    true => self.revocations.ensure_live(caller).await,
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// How long the news are good for by which a head was judged: about as long as they take to come.
const FRESH: Duration = Duration::from_millis(50);
