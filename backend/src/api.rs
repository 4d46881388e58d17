//! Everything that can be asked of the backend, and who answers it.

mod audit;
mod auth;
mod body;
mod deliveries;
mod internal;
mod memories;
mod newcomer;
mod owner;
mod query;
#[cfg(test)]
mod tests;
mod users;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use axum::{
    Json,
    body::Body,
    http::{Request, StatusCode},
    response::{IntoResponse as _, Response},
};
use memoric_contract::{
    InternalOperation, Operation, PresentedBy, RequestId, UserId,
    audit::{EventType, Record, Resource},
};
use serde::Serialize;

use crate::{
    app::App,
    audit::{Named, about as audit_of},
    caller::{Asked, Call, Gatekeeper},
    error::ApiError,
    metrics::Metrics,
    presented::Presented,
};

/// The one way in: what the gateway vouches for, answered; anything else, refused.
pub(crate) struct Api {
    app: App,
    gatekeeper: Gatekeeper,
    metrics: Arc<Metrics>,
}

/// An answer, or why there is none.
type Answer = Result<Response, ApiError>;

impl Api {
    pub(crate) fn new(app: App, gatekeeper: Gatekeeper, metrics: Arc<Metrics>) -> Self {
        Self { app, gatekeeper, metrics }
    }

    /// Answers one request, whatever it is.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let call = match self.gatekeeper.admit(parts, SystemTime::now()) {
            Ok(call) => call,
            Err(refused) => {
                self.metrics.count(UNBELIEVED, refused.code(), began.elapsed());
                return refused.respond(RequestId::new());
            }
        };
        let answer = self.serve(&call, body).await;
        let outcome = answer.as_ref().err().map_or(OK, ApiError::code);
        self.metrics.count(call.operation_name(), outcome, began.elapsed());
        let mut response = answer.unwrap_or_else(|refused| refused.respond(call.request()));
        call.tell_aside(response.headers_mut());
        response
    }

    async fn serve(&self, call: &Call, body: Body) -> Answer {
        call.ensure_permitted()?;
        let presented = match call.operation().is_some_and(Operation::is_verified_again) {
            true => Some(Presented::along(&self.app, call).await?),
            false => None,
        };
        self.note_credential(call).await;
        match call.asked() {
            Asked::Public(operation) => {
                self.serve_client(operation, (call, presented.as_ref()), body).await
            }
            Asked::Internal(operation) => self.serve_gateway(operation, call, body).await,
        }
    }

    /// Notes that a credential was used: of a session, that its last refresh arrived; of a key, when.
    async fn note_credential(&self, call: &Call) {
        let (app, Some(identity)) = (&self.app, call.known()) else { return };
        match &identity.presented {
            PresentedBy::AccessToken { sid, ctr, .. } => {
                app.sessions.note_received(&app.store, *sid, *ctr).await;
            }
            PresentedBy::ForeignToken { .. } => {}
            PresentedBy::ApiKey { id, .. } => {
                app.api_keys.note_used(&app.store, id, SystemTime::now()).await;
            }
        }
    }

    /// The handler of each operation. The compiler sees to it that each has one.
    async fn serve_client(
        &self,
        operation: Operation,
        (call, presented): (&Call, Option<&Presented>),
        body: Body,
    ) -> Answer {
        let app = &self.app;
        // What an admin does takes the proof, and does not compile without.
        let presented = || presented.ok_or(ApiError::NotPresented);
        match operation {
            Operation::Register => auth::register(app, call, body).await,
            Operation::Login => auth::login(app, call, body).await,
            Operation::Refresh => auth::refresh(app, call, body).await,
            Operation::Logout => auth::logout(app, call).await,
            Operation::LogoutEverywhere => auth::logout_everywhere(app, call).await,
            Operation::ListSessions => auth::list_sessions(app, call).await,
            Operation::EndSession => auth::end_session(app, call).await,
            Operation::CreateApiKey => auth::create_api_key(app, call, body).await,
            Operation::ListApiKeys => auth::list_api_keys(app, call).await,
            Operation::RotateApiKey => auth::rotate_api_key(app, call, body).await,
            Operation::RevokeApiKey => auth::revoke_api_key(app, call).await,
            Operation::ShowMe => auth::show_me(app, call).await,
            Operation::ChangePassword => auth::change_password(app, call, body).await,
            Operation::ShowProfile => auth::show_profile(app, call).await,
            Operation::RecallMemories => memories::recall(app, call).await,
            Operation::RememberMemory => memories::remember(app, call, body).await,
            Operation::ReadAudit => audit::read(app, call, presented()?).await,
            Operation::ReadUserAudit => audit::read_of_user(app, call, presented()?).await,
            Operation::ReadSecurityAudit => audit::read_notable(app, call, presented()?).await,
            Operation::CountAudit => audit::count(app, call, presented()?).await,
            Operation::ListEventTypes => Ok(audit::list_event_types()),
            Operation::ListSeverities => Ok(audit::list_severities()),
            Operation::ResetPassword => auth::reset_password(app, call, body).await,
            Operation::ListUsers => users::list_users(app, call, presented()?).await,
            Operation::CreateUser => users::create_user(app, call, presented()?, body).await,
            Operation::ShowUser => users::show_user(app, call, presented()?).await,
            Operation::ChangeUser => users::change_user(app, call, presented()?, body).await,
            Operation::ListClusters | Operation::RunPolicies | Operation::ShowOpenApi => {
                Err(ApiError::NotImplemented)
            }
            Operation::ShowService
            | Operation::ShowHealth
            | Operation::ShowReadiness
            | Operation::ShowDetailedHealth
            | Operation::ShowSigningKeys => Err(ApiError::NotHere),
        }
    }

    async fn serve_gateway(&self, operation: InternalOperation, call: &Call, body: Body) -> Answer {
        let app = &self.app;
        match operation {
            InternalOperation::ProbeHealth => internal::probe_health(app).await,
            InternalOperation::FollowRevocations => internal::follow_revocations(app, call).await,
            InternalOperation::CheckLive => internal::check_live(app, call).await,
            InternalOperation::DeliverRecords => deliveries::take(app, call, body).await,
            InternalOperation::ResolveApiKey => internal::resolve_api_key(app, body).await,
            InternalOperation::ResolveSubject => internal::resolve_subject(app, body).await,
        }
    }
}

/// Records that the caller asked for what they may not have, and makes the answer.
async fn deny(app: &App, call: &Call, why: &str, whose: (Resource, Option<UserId>)) -> ApiError {
    let (resource, owner) = whose;
    let record = Record {
        owner,
        resource: Some(resource),
        description: Some(why.to_owned()),
        ..audit_of(call, EventType::AccessDenied, StatusCode::FORBIDDEN.as_u16())
    };
    recorded(app, call, record, Named::Not, ApiError::Forbidden).await
}

/// The refusal `refused`, once it stands in the trail; where it cannot be written there, that.
async fn recorded(
    app: &App,
    call: &Call,
    record: Record,
    named: Named<'_>,
    refused: ApiError,
) -> ApiError {
    let appended = async {
        let entry = app.scribe.entry(record, call, named).await?;
        app.store.append(&entry, None).await?;
        Ok::<_, ApiError>(())
    };
    match appended.await {
        Ok(()) => refused,
        Err(error) => error,
    }
}

/// `value` as JSON.
fn json(status: StatusCode, value: &impl Serialize) -> Response {
    (status, Json(value)).into_response()
}

/// The outcome of a request that was served.
const OK: &str = "ok";

/// Stands in metrics for whatever nobody vouched for.
const UNBELIEVED: &str = "-";
