//! What stands in an index in place of a word: nothing without the user's index key.

use hmac::{Hmac, KeyInit, Mac};
use memoric_contract::FieldWriter;
use sha2::Sha256;
use unicode_normalization::UnicodeNormalization;
use zeroize::Zeroizing;

use super::IndexKey;

/// A thread, topic, word or metadata value, as an index spells it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Term(pub(crate) [u8; 16]);

#[derive(Clone, Copy)]
enum Kind {
    Thread = 1,
    Metadata = 2,
    Topic = 3,
    Word = 4,
}

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the bytes are fixed from the first; what writes them comes later")
)]
impl IndexKey {
    /// The term of a thread, byte for byte as it was sent.
    pub(crate) fn thread(&self, thread: &str) -> Term {
        self.term(Kind::Thread, [thread])
    }

    /// The term of one value in metadata: the names that lead to it, then its canonical JSON.
    pub(crate) fn metadata(&self, path: &[&str], canonical: &str) -> Term {
        self.term(Kind::Metadata, path.iter().copied().chain([canonical]))
    }

    /// The term of a topic, whatever its case.
    pub(crate) fn topic(&self, topic: &str) -> Term {
        self.term(Kind::Topic, [topic.to_lowercase().as_str()])
    }

    /// The term of a word of the content, whatever its case and form.
    pub(crate) fn word(&self, word: &str) -> Term {
        let word = word.nfkc().collect::<String>().to_lowercase();
        self.term(Kind::Word, [word.as_str()])
    }

    fn term<'a>(&self, kind: Kind, parts: impl IntoIterator<Item = &'a str>) -> Term {
        let parts = parts.into_iter().fold(FieldWriter::behind(&[kind as u8]), FieldWriter::text);
        let mac = hmac(self.expose(), &parts.finish());
        Term(std::array::from_fn(|n| mac.get(n).copied().unwrap_or_default()))
    }
}

/// HMAC-SHA256.
pub(super) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    // A key shorter than a block is filled up with zeros.
    let mut block = Zeroizing::new([0; 64]);
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::Key;

    #[test]
    fn a_term_is_what_the_format_says() {
        let terms = [
            (key().thread("thread_123"), "8e7e8097dbb6307b59850ce1036ecd7f"),
            (key().metadata(&["a", "b"], "\"1\""), "f96dc8c1932ebcf7dce2b55c22daa119"),
            (key().metadata(&["a", "b"], "1"), "5b513d65d6df4972aa5696ad9b4595ae"),
            (key().topic("Größe"), "1c806bef5213f4f51f74053d773c7fac"),
            (key().word("\u{fb01}le"), "4e64125bd6daa9b7b0d13d11bdb9a109"),
        ];
        for (term, expected) in terms {
            assert_eq!(hex::encode(term.0), expected, "made by Python's hmac");
        }
    }

    #[test]
    fn a_thread_is_found_by_its_exact_bytes() {
        assert_ne!(key().thread("Plan"), key().thread("plan"));
        assert_ne!(key().thread("\u{e9}"), key().thread("e\u{301}"));
    }

    #[test]
    fn a_word_is_found_in_any_case_and_form() {
        assert_eq!(key().word("ÉTÉ"), key().word("e\u{301}te\u{301}"));
        assert_eq!(key().word("\u{ff21}"), key().word("a"), "full width");
    }

    #[test]
    fn one_text_has_another_term_for_each_kind_and_user() {
        let terms =
            [key().thread("x"), key().metadata(&["x"], ""), key().topic("x"), key().word("x")];
        let distinct: std::collections::HashSet<_> = terms.iter().collect();
        assert_eq!(distinct.len(), terms.len());
        assert_ne!(IndexKey::new(Key::random().unwrap()).thread("x"), key().thread("x"));
    }

    #[test]
    fn where_one_name_ends_is_part_of_the_term() {
        assert_ne!(key().metadata(&["a.b"], "1"), key().metadata(&["a", "b"], "1"));
        assert_ne!(key().metadata(&["a", "b1"], ""), key().metadata(&["a", "b"], "1"));
    }

    fn key() -> IndexKey {
        IndexKey::new(Key::from_slice(&std::array::from_fn::<u8, 32, _>(|n| n as u8)).unwrap())
    }
}
