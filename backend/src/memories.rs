//! What people and their agents remember: a memory as it is sent, as it is sealed and as it is given back.

mod enrich;
mod metadata;
mod score;

use memoric_contract::{FieldError, UserId};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use thiserror::Error;
use time::{OffsetDateTime, UtcOffset, format_description::FormatItem, macros::format_description};
use zeroize::Zeroizing;

pub(crate) use self::{
    metadata::Metadata,
    score::{Importance, Relevance, SeenCount, Standing, Weights, stored_score},
};
use crate::members;

/// A memory as a client sent it, within every bound.
#[derive(Debug)]
pub(crate) struct NewMemory {
    content: String,
    metadata: Metadata,
    thread: Option<String>,
    seen: SeenCount,
}

/// A memory as it is remembered: what the client told, and what was missing filled in.
#[derive(Debug)]
pub(crate) struct Memory {
    content: String,
    metadata: Metadata,
    thread: Option<String>,
    importance: Importance,
    seen: SeenCount,
}

/// The payload of a sealed memory, read back. Content and metadata keep the characters they were sealed in.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload<'a> {
    #[serde(borrow)]
    content: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    thread_id: Option<String>,
}

/// What stands in clear beside a sealed memory.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) id: i64,
    pub(crate) owner: UserId,
    pub(crate) tier: Option<String>,
    pub(crate) score: i16,
    pub(crate) summarized: bool,
    pub(crate) created_at: OffsetDateTime,
    pub(crate) updated_at: OffsetDateTime,
}

/// A memory on the wire, key for key as clients know it.
#[derive(Debug, Serialize)]
pub(crate) struct Recalled<'a> {
    id: i64,
    user_id: String,
    namespace: Option<&'a str>,
    thread_id: Option<&'a str>,
    content: &'a RawValue,
    tier: Option<&'a str>,
    score: i16,
    metadata: &'a RawValue,
    related_threads: Option<&'a str>,
    summarized: Option<u8>,
    created_at: String,
    updated_at: String,
    #[serde(rename = "_score")]
    relevance: i16,
}

/// Why an opened payload is not a memory.
#[derive(Debug, Error)]
pub(crate) enum PayloadError {
    #[error("a memory could not be written as JSON")]
    Unwritable(#[source] serde_json::Error),
    #[error("what was opened is not a memory")]
    NotAMemory(#[source] serde_json::Error),
}

impl NewMemory {
    /// Reads the body of a request. Every field that is not accepted is named; nothing of it is repeated.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Vec<FieldError>> {
        let [content, metadata, thread] =
            members::read(body, &["content", "metadata", "thread_id"])
                .map_err(|fault| vec![fault])?;
        let mut faults = Vec::new();
        let mut keep = |fault: FieldError| faults.push(fault);

        let content = read_content(content).map_err(&mut keep).ok();
        let thread = read_thread(thread).map_err(&mut keep).ok();
        let metadata = Metadata::read(metadata).map_err(&mut keep).ok();
        let seen =
            metadata.as_ref().and_then(|metadata| metadata.seen_count().map_err(&mut keep).ok());
        match (content, thread, metadata, seen) {
            (Some(content), Some(thread), Some(metadata), Some(seen)) => {
                Ok(Self { content, metadata, thread, seen })
            }
            _ => Err(faults),
        }
    }

    /// The memory of `owner`, with what its metadata lacks filled in.
    pub(crate) fn of(mut self, owner: UserId) -> Memory {
        enrich::fill(&mut self.metadata, &self.content, owner, self.thread.as_deref());
        let importance = self.metadata.importance();
        Memory {
            content: self.content,
            metadata: self.metadata,
            thread: self.thread,
            importance,
            seen: self.seen,
        }
    }
}

impl Memory {
    /// What is sealed: content, metadata and thread together.
    pub(crate) fn payload(&self) -> Result<Zeroizing<Vec<u8>>, PayloadError> {
        // Room for nearly any content, so that growing leaves no half-written copies behind.
        let room = self.content.len() * 2 + self.metadata.text_len() + 1024;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *bytes, self).map_err(PayloadError::Unwritable)?;
        Ok(bytes)
    }

    /// The thread it belongs to.
    pub(crate) fn thread(&self) -> Option<&str> {
        self.thread.as_deref()
    }

    /// How much it matters.
    pub(crate) fn importance(&self) -> Importance {
        self.importance
    }

    /// How often it was seen.
    pub(crate) fn seen(&self) -> SeenCount {
        self.seen
    }

    /// The score it is stored with.
    pub(crate) fn score(&self) -> i16 {
        stored_score(self.importance, self.seen)
    }

    /// The tier in which every memory begins.
    pub(crate) fn tier(&self) -> &'static str {
        "short_term"
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Sealed<'a> {
            content: &'a str,
            metadata: &'a Metadata,
            thread_id: Option<&'a str>,
        }
        let Self { content, metadata, thread, .. } = self;
        Sealed { content, metadata, thread_id: thread.as_deref() }.serialize(serializer)
    }
}

impl<'a> Payload<'a> {
    /// Reads what was opened.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, PayloadError> {
        serde_json::from_slice(bytes).map_err(PayloadError::NotAMemory)
    }

    /// The thread it belongs to, to be compared with the one that was asked for: terms are short enough to collide.
    pub(crate) fn thread(&self) -> Option<&str> {
        self.thread_id.as_deref()
    }
}

impl<'a> Recalled<'a> {
    /// The wire shape of one memory.
    pub(crate) fn new(facts: &'a Facts, payload: &'a Payload<'a>, relevance: Relevance) -> Self {
        Self {
            id: facts.id,
            user_id: facts.owner.to_string(),
            namespace: None,
            thread_id: payload.thread(),
            content: payload.content,
            tier: facts.tier.as_deref(),
            score: facts.score,
            metadata: payload.metadata,
            related_threads: None,
            summarized: facts.summarized.then_some(1),
            created_at: stored_time(facts.created_at),
            updated_at: stored_time(facts.updated_at),
            relevance: relevance.rounded(),
        }
    }
}

/// A stored time on the wire: UTC, six digits, no zone.
pub(crate) fn stored_time(time: OffsetDateTime) -> String {
    // Every part of the format is within an `OffsetDateTime`.
    time.to_offset(UtcOffset::UTC).format(STORED_TIME).unwrap_or_default()
}

fn read_content(member: Option<&RawValue>) -> Result<String, FieldError> {
    let Some(member) = member else {
        return Err(FieldError::new("content", "missing", "Field required"));
    };
    let content = members::text("content", member)?;
    if content.len() > MAX_CONTENT {
        return Err(FieldError::new("content", "too_large", "String should have at most 1 MiB"));
    }
    Ok(content)
}

fn read_thread(member: Option<&RawValue>) -> Result<Option<String>, FieldError> {
    let Some(member) = member.filter(|member| member.get() != "null") else { return Ok(None) };
    let thread = members::text("thread_id", member)?;
    if thread.chars().count() > MAX_THREAD {
        return Err(FieldError::new(
            "thread_id",
            "too_long",
            "String should have at most 128 characters",
        ));
    }
    Ok(Some(thread))
}

/// In bytes of UTF-8.
const MAX_CONTENT: usize = 1024 * 1024;
/// In characters.
const MAX_THREAD: usize = 128;
const STORED_TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_memory_comes_back_as_clients_know_it() {
        let sent = r#"{"content": "Meeting notes from Q4 planning with Bob about the budget and hiring.", "thread_id": "thread_123", "metadata": {"topic": "planning", "priority": "high", "importance": "critical", "user_id": "999"}}"#;
        let memory = NewMemory::parse(sent.as_bytes()).unwrap().of(UserId(3));
        let payload = memory.payload().unwrap();

        let wire = wire(&memory, &payload);

        assert_eq!(
            wire,
            r#"{"id":1,"user_id":"3","namespace":null,"thread_id":"thread_123","content":"Meeting notes from Q4 planning with Bob about the budget and hiring.","tier":"short_term","score":99,"metadata":{"topic":"planning","priority":"high","importance":"critical","user_id":"999","category":"general","entities":[],"thread_id":"thread_123","session_id":null},"related_threads":null,"summarized":null,"created_at":"2026-11-24T02:01:45.149566","updated_at":"2026-11-24T02:01:45.000000","_score":99}"#
        );
    }

    #[test]
    fn content_metadata_and_thread_are_sealed_together() {
        let memory =
            NewMemory::parse(br#"{"content":"hi","metadata":{"n":1.0}}"#).unwrap().of(UserId(3));
        let payload = memory.payload().unwrap();
        assert!(payload.starts_with(br#"{"content":"hi","metadata":{"n":1.0,"topic":"hi","#));
        assert!(payload.ends_with(br#","thread_id":null}"#));
        assert_eq!(Payload::read(&payload).unwrap().thread(), None);
    }

    #[test]
    fn what_means_nothing_is_ignored() {
        let sent = br#"{"content":"spoof","user_id":"2","tier":"long_term","deep":[[[[[[]]]]]],"metadata":null,"thread_id":null}"#;
        let memory = NewMemory::parse(sent).unwrap().of(UserId(3));
        assert_eq!((memory.thread(), memory.tier(), memory.score()), (None, "short_term", 57));
    }

    #[test]
    fn of_a_member_that_comes_twice_the_last_counts() {
        let memory =
            NewMemory::parse(br#"{"content":5,"thread_id":"a","content":"x","thread_id":"b"}"#)
                .unwrap();
        assert_eq!((memory.content.as_str(), memory.thread.as_deref()), ("x", Some("b")));
    }

    #[test]
    fn a_body_that_is_no_memory_is_refused_by_field() {
        for (sent, field, code) in [
            ("", "body", "malformed"),
            ("[1]", "body", "not_an_object"),
            ("\"content\"", "body", "not_an_object"),
            ("null", "body", "not_an_object"),
            (r#"{"content":"x"} y"#, "body", "malformed"),
            (r#"{"content":"x""#, "body", "malformed"),
            (r#"{"other":NaN,"content":"x"}"#, "body", "malformed"),
            (r#"{"content":"x","metadata":{"x":NaN}}"#, "metadata", "malformed"),
            (r#"{"content":"x","metadata":{"x":[-Infinity]}}"#, "metadata", "malformed"),
            (r#"{"content":'x'}"#, "content", "malformed"),
            ("{\"content\":\"a\0b\"}", "content", "malformed"),
            ("{}", "content", "missing"),
            (r#"{"content":5}"#, "content", "not_text"),
            (r#"{"content":null}"#, "content", "not_text"),
            (r#"{"content":"a\u0000b"}"#, "content", "nul"),
            (r#"{"content":"\ud800"}"#, "content", "surrogate"),
            (r#"{"content":"x","thread_id":7}"#, "thread_id", "not_text"),
            (r#"{"content":"x","thread_id":"a\u0000"}"#, "thread_id", "nul"),
            (r#"{"content":"x","thread_id":"\udfff"}"#, "thread_id", "surrogate"),
            (r#"{"content":"x","metadata":[1]}"#, "metadata", "not_an_object"),
            (r#"{"content":"x","metadata":{"k":"a\u0000b"}}"#, "metadata", "nul"),
            (r#"{"content":"x","metadata":{"k":{"\udc00":1}}}"#, "metadata", "surrogate"),
            (r#"{"content":"x","metadata":{"k":1e400}}"#, "metadata", "out_of_range"),
            (
                r#"{"content":"x","metadata":{"seen_count":"abc"}}"#,
                "metadata.seen_count",
                "not_a_number",
            ),
            (
                r#"{"content":"x","metadata":{"seen_count":null}}"#,
                "metadata.seen_count",
                "not_a_number",
            ),
        ] {
            assert_eq!(refused(sent.as_bytes()), [(field.to_owned(), code.to_owned())], "{sent}");
        }
        assert_eq!(
            refused(b"{\"content\":\"\xff\"}"),
            [("body".to_owned(), "malformed".to_owned())],
            "not UTF-8"
        );
    }

    #[test]
    fn every_field_at_fault_is_named_at_once() {
        let refused = refused(br#"{"thread_id":1,"metadata":2}"#);
        let fields: Vec<_> = refused.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(fields, ["content", "thread_id", "metadata"]);
    }

    #[test]
    fn a_memory_has_bounds() {
        let sent = |content: usize, thread: usize| {
            let (content, thread) = ("x".repeat(content), "\u{e9}".repeat(thread));
            json!({ "content": content, "thread_id": thread }).to_string()
        };
        assert!(NewMemory::parse(sent(MAX_CONTENT, MAX_THREAD).as_bytes()).is_ok());
        assert_eq!(
            refused(sent(MAX_CONTENT + 1, 0).as_bytes()),
            [("content".to_owned(), "too_large".to_owned())]
        );
        assert_eq!(
            refused(sent(1, MAX_THREAD + 1).as_bytes()),
            [("thread_id".to_owned(), "too_long".to_owned())]
        );
        let deep = format!(
            r#"{{"content":"x","metadata":{{"k":{}{}}}}}"#,
            "[".repeat(500_000),
            "]".repeat(500_000)
        );
        assert_eq!(refused(deep.as_bytes()), [("metadata".to_owned(), "too_large".to_owned())]);
        let ignored =
            format!(r#"{{"content":"x","k":{}{}}}"#, "[".repeat(500_000), "]".repeat(500_000));
        assert!(NewMemory::parse(ignored.as_bytes()).is_ok(), "what is ignored may be deep");
    }

    #[test]
    fn what_was_opened_must_be_a_memory() {
        for bytes in
            [b"".as_slice(), b"{}", b"null", br#"{"content":"x","metadata":{},"thread_id":1}"#]
        {
            assert!(Payload::read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_stored_time_has_six_digits_and_no_zone() {
        assert_eq!(
            stored_time(datetime!(2026-11-24 02:01:45.149567 UTC)),
            "2026-11-24T02:01:45.149567"
        );
        assert_eq!(
            stored_time(datetime!(2026-11-24 00:00:00 +02:00)),
            "2026-11-23T22:00:00.000000"
        );
    }

    proptest! {
        #[test]
        fn what_was_sent_comes_back(content: String, thread: Option<String>, note: String) {
            let legal = |text: &str| !text.contains('\0');
            prop_assume!(legal(&content) && legal(&note) && thread.as_deref().is_none_or(legal));
            let sent = json!({ "content": content, "thread_id": thread, "metadata": { "note": note } });
            prop_assume!(thread.as_deref().is_none_or(|thread| thread.chars().count() <= MAX_THREAD));

            let memory = NewMemory::parse(sent.to_string().as_bytes()).unwrap().of(UserId(1));
            let payload = memory.payload().unwrap();
            let wire: Value = serde_json::from_str(&wire(&memory, &payload)).unwrap();

            prop_assert_eq!(&wire["content"], &sent["content"]);
            prop_assert_eq!(&wire["thread_id"], &sent["thread_id"]);
            prop_assert_eq!(&wire["metadata"]["note"], &sent["metadata"]["note"]);
        }

        #[test]
        fn no_body_makes_the_reader_fall(body in r#"[{}\[\]":,\\a-z0-9 \u{0}\u{e9}]{0,60}"#) {
            let _ = NewMemory::parse(body.as_bytes());
        }
    }

    fn refused(body: &[u8]) -> Vec<(String, String)> {
        let faults = NewMemory::parse(body).unwrap_err();
        faults.into_iter().map(|fault| (fault.field, fault.code)).collect()
    }

    fn wire(memory: &Memory, payload: &[u8]) -> String {
        let facts = Facts {
            id: 1,
            owner: UserId(3),
            tier: Some(memory.tier().to_owned()),
            score: memory.score(),
            summarized: false,
            created_at: datetime!(2026-11-24 02:01:45.149566 UTC),
            updated_at: datetime!(2026-11-24 02:01:45 UTC),
        };
        let (updated, now) = (facts.updated_at, facts.updated_at);
        let relevance =
            Weights::default().relevance(memory.importance(), memory.seen(), updated, now);
        serde_json::to_string(&Recalled::new(&facts, &Payload::read(payload).unwrap(), relevance))
            .unwrap()
    }
}
