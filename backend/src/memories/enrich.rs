//! What a memory's metadata says when the client did not say it.

use memoric_contract::UserId;

use super::Metadata;

/// Fills in what `metadata` lacks. What the client told is never touched.
pub(super) fn fill(metadata: &mut Metadata, content: &str, owner: UserId, thread: Option<&str>) {
    let category = if content.is_empty() { "" } else { "general" };
    metadata.fill("topic", || topic_of(content));
    metadata.fill("category", || category);
    metadata.fill("entities", || [(); 0]);
    metadata.fill("importance", || level_of(content));
    metadata.fill("user_id", || owner.to_string());
    metadata.fill("thread_id", || thread);
    metadata.fill("session_id", || ());
}

/// The first word, in lower case: no more than a guess.
fn topic_of(content: &str) -> String {
    match content.split(is_space).find(|word| !word.is_empty()) {
        Some(word) => word.to_lowercase(),
        None if content.is_empty() => String::new(),
        None => "general".to_owned(),
    }
}

fn level_of(content: &str) -> &'static str {
    if content.chars().nth(LONG).is_some() { "medium" } else { "low" }
}

/// What separates words in Python: Unicode's white space, and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// More characters than this matter more.
const LONG: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_guessed_as_clients_know_it() {
        let content = "Meeting notes from Q4 planning with Bob about the budget and hiring.";
        let expected = r#"{"topic":"meeting","category":"general","entities":[],"importance":"medium","user_id":"3","thread_id":"thread_123","session_id":null}"#;
        assert_eq!(filled(content, Some("thread_123")), expected);
    }

    #[test]
    fn nothing_said_is_nothing_guessed() {
        let expected = r#"{"topic":"","category":"","entities":[],"importance":"low","user_id":"3","thread_id":null,"session_id":null}"#;
        assert_eq!(filled("", None), expected);
    }

    #[test]
    fn a_topic_is_the_first_word_in_lower_case() {
        for (content, topic) in [
            ("hello", "hello"),
            ("  \t\nSSN 078", "ssn"),
            (" \u{3000}\u{85}\u{1f}", "general"),
            ("a\u{1c}b", "a"),
            ("ΟΔΟΣ x", "οδος"),
            ("İx", "i\u{307}x"),
            ("a\u{200b}b c", "a\u{200b}b"),
        ] {
            assert_eq!(topic_of(content), topic, "{content:?}");
        }
    }

    #[test]
    fn more_than_sixty_characters_matter_more() {
        assert_eq!(level_of(&"é".repeat(60)), "low");
        assert_eq!(level_of(&"é".repeat(61)), "medium");
    }

    fn filled(content: &str, thread: Option<&str>) -> String {
        let mut metadata = Metadata::default();
        fill(&mut metadata, content, UserId(3), thread);
        serde_json::to_string(&metadata).unwrap()
    }
}
