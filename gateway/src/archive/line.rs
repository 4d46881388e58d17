//! A record as people and programs read it.

use memoric_contract::{
    Operation,
    audit::{Action, Report, Resource},
    spool::{Delivery, PoisonReason, Poisoned},
};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

/// What is written of one delivery. Whatever was told of it is in it.
pub(super) fn line(delivery: Delivery) -> Value {
    match delivery {
        Delivery::Report(report) => recorded(*report),
        Delivery::Poisoned(poisoned) => unreadable(&poisoned),
    }
}

fn recorded(report: Report) -> Value {
    let (record, resource_id, personal) = report.into_parts();
    let credential = record.credential.as_ref();
    json!({
        "id": record.id(),
        "request": record.request,
        "at": record.occurred_at.format(&Rfc3339).unwrap_or_default(),
        "event": record.event.name(),
        "severity": record.severity.name(),
        "user": record.subject,
        "owner": record.owner,
        "credential": credential.map(|(kind, _)| kind.name()),
        "credential_id": credential.map(|(_, id)| id),
        "session": record.session,
        "operation": record.operation.map(Operation::name),
        "method": record.operation.map(Operation::method),
        "path": record.operation.map(Operation::path),
        "action": record.action.map(Action::name),
        "status": record.status,
        "success": record.success,
        "resource": record.resource.map(Resource::name),
        "resource_id": resource_id,
        "namespace": record.namespace,
        "description": record.description,
        "error": record.error_message,
        "metadata": record.metadata,
        "address": personal.address,
        "user_agent": personal.user_agent,
        "username": personal.username,
    })
}

/// Bytes that ought to have been a record, so that no event is lost.
fn unreadable(poisoned: &Poisoned) -> Value {
    let reason = match poisoned.reason {
        PoisonReason::Damaged => "damaged",
        PoisonReason::Refused => "refused",
    };
    let bytes: String = poisoned.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({ "id": poisoned.id, "unreadable": reason, "bytes": bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::tests::report;

    #[test]
    fn a_line_says_what_its_record_says() {
        let report = report(3);
        let (id, request) = (report.record().id(), report.record().request);

        let line = line(Delivery::Report(Box::new(report)));

        assert_eq!(line["id"], id.to_string());
        assert_eq!(line["request"], request.to_string());
        assert!(line["at"].as_str().unwrap().ends_with('Z'), "{line}");
        assert!(!line.to_string().contains('\n'));
    }

    #[test]
    fn what_is_no_record_is_kept_as_bytes() {
        let line = line(Delivery::Poisoned(Poisoned::damaged(b"\x00\xffa")));

        assert_eq!((&line["unreadable"], &line["bytes"]), (&"damaged".into(), &"00ff61".into()));
    }
}
