//! Length-prefixed lists: u32 length, then the bytes, big-endian; integers as i64, uuids as 16 bytes.

use uuid::Uuid;

/// Writes a list of fields so that no two lists share their bytes.
#[derive(Clone, Debug, Default)]
pub struct FieldWriter(Vec<u8>);

/// Reads the fields of a list in the order they were written.
#[derive(Clone, Copy, Debug)]
pub struct FieldReader<'a>(&'a [u8]);

impl FieldWriter {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty list behind `header`, which is not length-prefixed.
    pub fn behind(header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(header);
        Self(bytes)
    }

    /// Appends a field of any bytes. One longer than `u32::MAX` cannot be made from what we bound.
    #[must_use]
    pub fn bytes(mut self, field: &[u8]) -> Self {
        let length = u32::try_from(field.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(field);
        self
    }

    /// Appends text, as UTF-8.
    #[must_use]
    pub fn text(self, field: &str) -> Self {
        self.bytes(field.as_bytes())
    }

    /// Appends text that may be absent. Absent is empty: no text we write is both present and empty.
    #[must_use]
    pub fn maybe_text(self, field: Option<&str>) -> Self {
        self.text(field.unwrap_or_default())
    }

    /// Appends an integer as i64.
    #[must_use]
    pub fn integer(self, field: i64) -> Self {
        self.bytes(&field.to_be_bytes())
    }

    /// Appends an integer that may be absent.
    #[must_use]
    pub fn maybe_integer(self, field: Option<i64>) -> Self {
        match field {
            Some(field) => self.integer(field),
            None => self.bytes(&[]),
        }
    }

    /// Appends a uuid as its 16 bytes.
    #[must_use]
    pub fn uuid(self, field: Uuid) -> Self {
        self.bytes(field.as_bytes())
    }

    /// Appends a uuid that may be absent.
    #[must_use]
    pub fn maybe_uuid(self, field: Option<Uuid>) -> Self {
        match field {
            Some(field) => self.uuid(field),
            None => self.bytes(&[]),
        }
    }

    /// The list.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

impl<'a> FieldReader<'a> {
    /// Begins at the first field of `list`.
    pub fn new(list: &'a [u8]) -> Self {
        Self(list)
    }

    /// The next field, or `None` where the list ends or lies about a length.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let (field, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(field)
    }

    /// The next field as text.
    pub fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    /// The next field as text that may be absent.
    pub fn maybe_text(&mut self) -> Option<Option<&'a str>> {
        self.text().map(|field| Some(field).filter(|field| !field.is_empty()))
    }

    /// The next field as an integer.
    pub fn integer(&mut self) -> Option<i64> {
        self.bytes()?.try_into().ok().map(i64::from_be_bytes)
    }

    /// The next field as an integer that may be absent.
    pub fn maybe_integer(&mut self) -> Option<Option<i64>> {
        match self.bytes()? {
            [] => Some(None),
            field => Some(Some(i64::from_be_bytes(field.try_into().ok()?))),
        }
    }

    /// The next field as a uuid.
    pub fn uuid(&mut self) -> Option<Uuid> {
        Uuid::from_slice(self.bytes()?).ok()
    }

    /// The next field as a uuid that may be absent.
    pub fn maybe_uuid(&mut self) -> Option<Option<Uuid>> {
        match self.bytes()? {
            [] => Some(None),
            field => Uuid::from_slice(field).ok().map(Some),
        }
    }

    /// Whether every field was read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_two_lists_share_their_bytes() {
        let one = FieldWriter::new().text("ab").text("c").finish();
        let other = FieldWriter::new().text("a").text("bc").finish();
        assert_ne!(one, other);
    }

    #[test]
    fn a_field_longer_than_the_list_is_not_read() {
        assert_eq!(FieldReader::new(&[0, 0, 0, 9, 1]).bytes(), None);
        assert_eq!(FieldReader::new(&[0, 0, 0]).bytes(), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(text in ".*", number: i64, maybe: Option<i64>, id: u128) {
            let id = Uuid::from_u128(id);
            let list = FieldWriter::new().text(&text).integer(number).maybe_integer(maybe).maybe_uuid(Some(id)).finish();
            let mut reader = FieldReader::new(&list);
            prop_assert_eq!(reader.text(), Some(text.as_str()));
            prop_assert_eq!(reader.integer(), Some(number));
            prop_assert_eq!(reader.maybe_integer(), Some(maybe));
            prop_assert_eq!(reader.maybe_uuid(), Some(Some(id)));
            prop_assert!(reader.is_empty());
        }
    }
}
