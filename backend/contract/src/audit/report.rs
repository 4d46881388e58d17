//! A record on its way to the backend, before what tells a person is sealed.

use std::net::IpAddr;

use serde_json::Value;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    Action, Emitter, EventType, LONGEST_NAME, LONGEST_TEXT, Personal, Record, Resource, Severity,
    microseconds, safe_text,
};
use crate::{CredentialKind, FieldReader, FieldWriter, Operation, RequestId, UserId};

/// A record as a gateway tells it: safe for the trail, its personal fields in clear.
///
/// [`new`](Self::new) is the only maker besides the strict reader, so a report that exists has no
/// text that is too long, or that a database or a terminal would choke on.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    record: Record,
    resource_id: Option<String>,
    personal: Personal,
}

impl Report {
    /// Makes `record` safe to write down, and the gateway's.
    ///
    /// A gateway changes nothing, so there is no digest of a change.
    pub fn new(record: Record, resource_id: Option<String>, personal: Personal) -> Self {
        let record = Record {
            emitter: Emitter::Gateway,
            digest: None,
            occurred_at: to_microsecond(record.occurred_at),
            credential: record.credential.map(|(kind, id)| (kind, safe(id, LONGEST_NAME))),
            namespace: maybe_safe(record.namespace, LONGEST_NAME),
            description: maybe_safe(record.description, LONGEST_TEXT),
            error_message: maybe_safe(record.error_message, LONGEST_TEXT),
            metadata: record.metadata.map(safe_metadata),
            ..record
        };
        let personal = Personal {
            address: personal.address.map(|address| address.to_canonical()),
            user_agent: maybe_safe(personal.user_agent, LONGEST_TEXT),
            username: maybe_safe(personal.username, LONGEST_NAME),
        };
        Self { record, resource_id: maybe_safe(resource_id, LONGEST_NAME), personal }
    }

    /// That its answer was held back, because this report could not be made to last.
    ///
    /// A record of its own, since this one may reach the trail nevertheless.
    pub fn withheld(&self) -> Self {
        let record = Record {
            number: self.record.number.saturating_add(1),
            event: EventType::SystemError,
            severity: Severity::Error,
            status: Some(SERVICE_UNAVAILABLE),
            success: false,
            description: Some(
                "the answer was held back: its record had not reached the disk".into(),
            ),
            metadata: None,
            ..self.record.clone()
        };
        Self { record, ..self.clone() }
    }

    /// The record itself.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Where the client connected from.
    pub fn address(&self) -> Option<IpAddr> {
        self.personal.address
    }

    /// The record, the id of what it was about, and who it was, in clear.
    pub fn into_parts(self) -> (Record, Option<String>, Personal) {
        (self.record, self.resource_id, self.personal)
    }

    /// Appends the report to `fields`. The emitter is not written: whoever reads it stamps it.
    pub(crate) fn write(&self, fields: FieldWriter) -> FieldWriter {
        let Self { record, resource_id, personal } = self;
        let fields = fields
            .uuid(record.request.0)
            .integer(record.number.into())
            .integer(microseconds(record.occurred_at))
            .text(record.event.name())
            .text(record.severity.name())
            .maybe_integer(record.subject.map(|user| user.0))
            .maybe_integer(record.owner.map(|user| user.0))
            .maybe_text(record.credential.as_ref().map(|(kind, _)| kind.name()))
            .maybe_text(record.credential.as_ref().map(|(_, id)| id.as_str()))
            .maybe_uuid(record.session)
            .maybe_text(record.operation.map(Operation::name))
            .maybe_text(record.action.map(Action::name))
            .maybe_integer(record.status.map(i64::from))
            .integer(record.success.into())
            .maybe_text(record.resource.map(Resource::name))
            .maybe_text(resource_id.as_deref())
            .maybe_text(record.namespace.as_deref())
            .maybe_text(record.description.as_deref())
            .maybe_text(record.error_message.as_deref())
            .maybe_text(record.metadata.as_ref().map(Value::to_string).as_deref());
        match personal.address {
            None => fields.bytes(&[]),
            Some(IpAddr::V4(address)) => fields.bytes(&address.octets()),
            Some(IpAddr::V6(address)) => fields.bytes(&address.octets()),
        }
        .maybe_text(personal.user_agent.as_deref())
        .maybe_text(personal.username.as_deref())
    }

    /// Reads what [`write`](Self::write) wrote, and nothing else: every field known, safe, and in its one spelling.
    pub(crate) fn read(list: &[u8]) -> Option<Self> {
        let mut fields = FieldReader::new(list);
        let record = read_record(&mut fields)?;
        let resource_id = owned(fields.maybe_text()?);
        let record = Record {
            namespace: owned(fields.maybe_text()?),
            description: owned(fields.maybe_text()?),
            error_message: owned(fields.maybe_text()?),
            metadata: fields.maybe_text()?.map(serde_json::from_str).transpose().ok()?,
            ..record
        };
        let personal = Personal {
            address: read_address(fields.bytes()?)?,
            user_agent: owned(fields.maybe_text()?),
            username: owned(fields.maybe_text()?),
        };
        let report = Self::new(record, resource_id, personal);
        (report.write(FieldWriter::new()).finish() == list).then_some(report)
    }
}

/// The request and the number, from the first fields of a report that may otherwise be unreadable.
pub(crate) fn origin_of(list: &[u8]) -> Option<(RequestId, u32)> {
    let mut fields = FieldReader::new(list);
    let request = RequestId(fields.uuid()?);
    Some((request, u32::try_from(fields.integer()?).ok()?))
}

fn read_record(fields: &mut FieldReader<'_>) -> Option<Record> {
    Some(Record {
        request: RequestId(fields.uuid()?),
        number: fields.integer()?.try_into().ok()?,
        occurred_at: time_from(fields.integer()?)?,
        event: EventType::named(fields.text()?)?,
        severity: Severity::named(fields.text()?)?,
        subject: fields.maybe_integer()?.map(UserId),
        owner: fields.maybe_integer()?.map(UserId),
        credential: read_credential(fields)?,
        session: fields.maybe_uuid()?,
        operation: known(fields.maybe_text()?, Operation::named)?,
        action: known(fields.maybe_text()?, Action::named)?,
        status: fields.maybe_integer()?.map(u16::try_from).transpose().ok()?,
        success: fields.integer()? != 0,
        resource: known(fields.maybe_text()?, Resource::named)?,
        ..blank()
    })
}

fn read_credential(fields: &mut FieldReader<'_>) -> Option<Option<(CredentialKind, String)>> {
    let (kind, id) = (fields.maybe_text()?, fields.text()?);
    Some(known(kind, credential_kind)?.map(|kind| (kind, id.to_owned())))
}

fn credential_kind(name: &str) -> Option<CredentialKind> {
    [CredentialKind::AccessToken, CredentialKind::ApiKey]
        .into_iter()
        .find(|kind| kind.name() == name)
}

fn read_address(bytes: &[u8]) -> Option<Option<IpAddr>> {
    match bytes.len() {
        0 => Some(None),
        4 => <[u8; 4]>::try_from(bytes).ok().map(|octets| Some(octets.into())),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|octets| Some(octets.into())),
        _ => None,
    }
}

/// What is absent stays absent; a name that nobody knows is refused.
fn known<T>(name: Option<&str>, named: impl Fn(&str) -> Option<T>) -> Option<Option<T>> {
    match name {
        None => Some(None),
        Some(name) => named(name).map(Some),
    }
}

/// A record of which nothing has been read yet.
fn blank() -> Record {
    let (request, at) = (RequestId(Uuid::nil()), OffsetDateTime::UNIX_EPOCH);
    Record::new(request, Emitter::Gateway, EventType::SystemError, at)
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

fn maybe_safe(text: Option<String>, limit: usize) -> Option<String> {
    text.filter(|text| !text.is_empty()).map(|text| safe(text, limit))
}

fn safe(text: String, limit: usize) -> String {
    let plain = text.len() <= limit && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if plain { text } else { safe_text(&text, limit) }
}

fn safe_metadata(metadata: Value) -> Value {
    match safe_value(metadata, DEEPEST_METADATA) {
        Some(value) if value.to_string().len() <= LONGEST_METADATA => value,
        _ => Value::String(OMITTED.to_owned()),
    }
}

/// `value` without control characters, or `None` where it is nested deeper than `depth`.
fn safe_value(value: Value, depth: usize) -> Option<Value> {
    let below = depth.checked_sub(1);
    Some(match value {
        Value::String(text) => Value::String(safe(text, LONGEST_METADATA)),
        Value::Array(values) => {
            let below = below?;
            Value::Array(
                values.into_iter().map(|value| safe_value(value, below)).collect::<Option<_>>()?,
            )
        }
        Value::Object(members) => {
            let below = below?;
            let members = members
                .into_iter()
                .map(|(name, value)| Some((safe(name, LONGEST_NAME), safe_value(value, below)?)));
            Value::Object(members.collect::<Option<_>>()?)
        }
        plain => plain,
    })
}

fn to_microsecond(time: OffsetDateTime) -> OffsetDateTime {
    let beyond = time.nanosecond() % 1_000;
    time.replace_nanosecond(time.nanosecond() - beyond)
        .unwrap_or(time)
        .to_offset(time::UtcOffset::UTC)
}

fn time_from(microseconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * 1_000).ok()
}

/// What a client is told whose answer is held back.
const SERVICE_UNAVAILABLE: u16 = 503;
/// Bytes of metadata as JSON.
const LONGEST_METADATA: usize = 8 * 1024;
/// Arrays and objects inside each other.
const DEEPEST_METADATA: usize = 16;
/// What stands in the place of metadata that is out of bounds.
const OMITTED: &str = "omitted: out of bounds";

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        for report in [full(), Report::new(blank(), None, Personal::default())] {
            assert_eq!(Report::read(&bytes(&report)), Some(report));
        }
    }

    #[test]
    fn the_emitter_is_stamped_by_whoever_reads() {
        let told = Record { emitter: Emitter::Backend, digest: Some([1; 32]), ..full().record };

        let report = Report::new(told, None, Personal::default());

        assert_eq!((report.record.emitter, report.record.digest), (Emitter::Gateway, None));
        assert_eq!(Report::read(&bytes(&report)).unwrap().record.id(), report.record.id());
        assert_eq!(origin_of(&bytes(&report)), Some((report.record.request, report.record.number)));
    }

    #[test]
    fn the_bytes_have_one_reading() {
        let whole = bytes(&full());
        for end in 0..whole.len() {
            assert_eq!(Report::read(&whole[..end]), None, "cut at {end}");
        }
        assert_eq!(Report::read(&[&whole[..], &[0]].concat()), None, "a byte too many");
        assert_eq!(Report::read(&[&whole[..], &[0; 4]].concat()), None, "a field too many");
    }

    #[test]
    fn what_is_not_in_its_one_spelling_is_refused() {
        let spelt = |from: &[u8], to: &[u8]| {
            let mut list = bytes(&full());
            let at = list.windows(from.len()).position(|window| window == from).unwrap();
            list.splice(at..at + from.len(), to.iter().copied());
            Report::read(&list)
        };
        assert_eq!(spelt(b"{\"a\":1}", b"{\"a\":1}"), Some(full()));
        assert_eq!(spelt(b"{\"a\":1}", b"{ \"a\":1"), None, "not JSON");
        assert_eq!(spelt(b"{\"a\":1}", b"{\"a\": }"), None, "not JSON either");
        assert_eq!(
            spelt(b"\0\0\0\x07{\"a\":1}", b"\0\0\0\x08{\"a\": 1}"),
            None,
            "another spelling"
        );
        assert_eq!(spelt(b"memory.retrieved", b"memory.recovered"), None, "an unknown event");
        assert_eq!(spelt(b"\0\0\0\x05agent", b"\0\0\0\x05ag\0nt"), None, "an unsafe text");
        assert_eq!(
            spelt(&[0, 0, 0, 4, 192, 0, 2, 1], &[0, 0, 0, 3, 192, 0, 2]),
            None,
            "no address"
        );
        assert_eq!(spelt(&8_i64.to_be_bytes(), &[0; 7]), None, "a short integer");
        assert_eq!(
            spelt(b"\0\0\0\x08\0\0\0\0\0\0\0\x01", b"\0\0\0\x08\0\0\0\0\0\0\0\x02"),
            None,
            "a third truth"
        );
    }

    #[test]
    fn a_poisoned_value_is_made_safe_when_the_report_is_made() {
        let deep = (0..200).fold(json!(1), |value, _| json!([value]));
        let personal = Personal {
            address: Some("::ffff:192.0.2.1".parse().unwrap()),
            user_agent: Some("\0\u{1b}[31m".repeat(4_000)),
            username: Some(String::new()),
        };
        let record = Record {
            metadata: Some(json!({"k\0": "v\u{0}"})),
            namespace: Some("\u{1F4A3}".repeat(5_000)),
            ..blank()
        };

        let report = Report::new(record.clone(), Some("\r\n".to_owned()), personal);

        assert_eq!(report.personal.address, Some([192, 0, 2, 1].into()));
        assert_eq!(report.personal.user_agent.as_ref().unwrap().chars().count(), LONGEST_TEXT);
        assert!(!report.personal.user_agent.as_ref().unwrap().contains(char::is_control));
        assert_eq!(report.personal.username, None);
        assert_eq!(report.resource_id.as_deref(), Some("\u{fffd}\u{fffd}"));
        assert_eq!(report.record.metadata, Some(json!({"k\u{fffd}": "v\u{fffd}"})));
        assert_eq!(Report::read(&bytes(&report)), Some(report));
        for metadata in [deep, json!("x".repeat(LONGEST_METADATA)), json!(vec![1_u64 << 60; 500])] {
            let report = Report::new(
                Record { metadata: Some(metadata), ..record.clone() },
                None,
                Personal::default(),
            );
            assert_eq!(report.record.metadata, Some(json!(OMITTED)));
        }
    }

    proptest! {
        #[test]
        fn any_report_survives_the_wire(text in "\\PC*|.*", number: u32, at in -10_000_000_000_i64..250_000_000_000, status: Option<u16>, float: f64) {
            let record = Record {
                number,
                status,
                occurred_at: OffsetDateTime::from_unix_timestamp(at).unwrap() + time::Duration::nanoseconds(1_234_567),
                credential: Some((CredentialKind::ApiKey, text.clone())),
                description: Some(text.clone()),
                metadata: Some(json!({ text.clone(): [float, text.clone()] })),
                ..full().record
            };
            let report = Report::new(record, Some(text.clone()), Personal { username: Some(text), ..Personal::default() });
            prop_assert_eq!(Report::read(&bytes(&report)), Some(report));
        }

        #[test]
        fn no_bytes_make_the_reader_stumble(list: Vec<u8>) {
            prop_assert_eq!(Report::read(&list).map(|report| bytes(&report)).filter(|bytes| *bytes != list), None);
        }
    }

    fn bytes(report: &Report) -> Vec<u8> {
        report.write(FieldWriter::new()).finish()
    }

    pub(crate) fn longest() -> Report {
        let text = "\u{1F4A3}".repeat(10_000);
        let record = Record {
            credential: Some((CredentialKind::ApiKey, text.clone())),
            namespace: Some(text.clone()),
            description: Some(text.clone()),
            error_message: Some(text.clone()),
            metadata: Some(json!("x".repeat(LONGEST_METADATA - 2))),
            ..full().record
        };
        let personal = Personal {
            user_agent: Some(text.clone()),
            username: Some(text.clone()),
            ..full().personal
        };
        Report::new(record, Some(text), personal)
    }

    pub(crate) fn full() -> Report {
        let record = Record {
            request: RequestId(Uuid::from_u128(5)),
            number: 8,
            event: EventType::MemoryRetrieved,
            severity: Severity::Info,
            subject: Some(UserId(3)),
            owner: Some(UserId(4)),
            credential: Some((CredentialKind::AccessToken, Uuid::from_u128(6).to_string())),
            session: Some(Uuid::from_u128(7)),
            operation: Some(Operation::RecallMemories),
            action: Some(Action::Read),
            status: Some(200),
            success: true,
            resource: Some(Resource::Memory),
            namespace: Some("team".to_owned()),
            description: Some("why".to_owned()),
            error_message: Some("what".to_owned()),
            metadata: Some(json!({"a": 1})),
            ..blank()
        };
        let personal = Personal {
            address: Some([192, 0, 2, 1].into()),
            user_agent: Some("agent".to_owned()),
            username: Some("Zoë".to_owned()),
        };
        Report::new(record, Some("9".to_owned()), personal)
    }
}
