//! Whether a secret could be guessed.

use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

/// What a secret must have at least.
pub(crate) struct Strength {
    /// Characters in all.
    pub(crate) characters: usize,
    /// Different characters.
    pub(crate) variety: usize,
    /// Bits, by how often each character occurs.
    pub(crate) bits: f64,
}

impl Strength {
    /// Why `secret` is too weak, if it is.
    ///
    /// This finds what people type when they are asked for a secret. It cannot tell a good one: a
    /// published random string passes.
    pub(crate) fn fault(&self, secret: &str) -> Option<String> {
        let characters: Zeroizing<Vec<char>> = Zeroizing::new(secret.chars().collect());
        let count = characters.len();
        if is_sample(secret) {
            return Some("is a sample from a manual".to_owned());
        }
        if count < self.characters {
            return Some(format!("has {count} characters and needs {}", self.characters));
        }
        if count > LONGEST {
            return Some(format!("has more than {LONGEST} characters"));
        }
        if characters.iter().any(|character| character.is_control()) {
            return Some("has a line break or another control character in it".to_owned());
        }
        let pattern = if is_repetitive(&characters) {
            "repeats itself"
        } else if is_run(&characters) {
            "is a run such as 0123"
        } else if variety(&characters) < self.variety || bits(&characters) < self.bits {
            "is made of too few different characters"
        } else {
            return None;
        };
        Some(pattern.to_owned())
    }
}

/// Whether little is left of `secret` without the words that manuals and people put in the place
/// of a secret.
fn is_sample(secret: &str) -> bool {
    let lower = Zeroizing::new(secret.to_lowercase());
    let letters: Zeroizing<String> =
        Zeroizing::new(lower.chars().filter(|character| character.is_alphanumeric()).collect());
    let mut rest = letters.clone();
    for word in SAMPLES {
        rest = Zeroizing::new(rest.replace(word, ""));
    }
    let has_words = rest.len() < letters.len();
    has_words && (rest.len() * 4 <= letters.len() || rest.len() < 6)
}

/// Whether at most half of all groups of three are new.
fn is_repetitive(characters: &[char]) -> bool {
    let groups = characters.windows(3);
    let count = groups.len();
    let new: BTreeSet<&[char]> = groups.collect();
    count > 0 && new.len() * 2 <= count
}

/// Whether most characters are the one before, or its neighbour.
fn is_run(characters: &[char]) -> bool {
    let pairs = characters.iter().zip(characters.iter().skip(1));
    let steps = pairs.filter(|(one, next)| u32::from(**one).abs_diff(u32::from(**next)) <= 1);
    steps.count() * 2 > characters.len()
}

fn variety(characters: &[char]) -> usize {
    characters.iter().collect::<BTreeSet<_>>().len()
}

/// Shannon's measure: what each character tells, if they came in their frequencies by chance.
#[expect(clippy::cast_precision_loss, reason = "a secret is short")]
fn bits(characters: &[char]) -> f64 {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    for character in characters {
        *counts.entry(*character).or_default() += 1;
    }
    let total = characters.len() as f64;
    counts.values().map(|count| -(*count as f64) * (*count as f64 / total).log2()).sum()
}

/// What stands in manuals, in earlier code, and under fingers, in lower-case letters and digits;
/// longer ones first.
const SAMPLES: [&str; 32] = [
    "insecuredevsecretchangeinproduction",
    "yourencryptionkeyhere",
    "yoursecretkeyhere",
    "strongdbpassword",
    "yourapikeyhere",
    "changeinproduction",
    "insecure",
    "production",
    "replaceme",
    "changethis",
    "changeme",
    "password",
    "postgres",
    "database",
    "supersecret",
    "secretkey",
    "passwort",
    "memoric",
    "default",
    "example",
    "letmein",
    "qwertyuiop",
    "asdfghjkl",
    "qwerty",
    "secret",
    "strong",
    "sample",
    "development",
    "token",
    "admin",
    "your",
    "test",
];

/// More than any secret needs, in characters.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_manuals_are_samples_however_often_they_stand_there() {
        for sample in [
            "your-secret-key-here",
            "INSECURE_DEV_SECRET_CHANGE_IN_PRODUCTION",
            "strong_db_password",
            "changeme",
            "Change-Me! Change-Me! Change-Me!",
            "password123",
            "memoric-secret-1",
        ] {
            let strength = Strength { characters: 0, variety: 0, bits: 0.0 };
            assert!(is_sample(sample), "{sample}");
            assert!(strength.fault(&sample.repeat(8)).is_some(), "{sample}");
        }
    }

    #[test]
    fn a_long_sentence_with_such_a_word_is_no_sample() {
        assert!(!is_sample("the secret of a good pie is cold butter and a hot oven, says nobody"));
    }

    #[test]
    fn sixty_four_random_digits_tell_more_than_two_hundred_bits() {
        let digits: Vec<char> = "3f1d9c0a7be24586d0c9e7b1a35f2846".repeat(2).chars().collect();
        assert!(bits(&digits) > 200.0, "{}", bits(&digits));
    }

    #[test]
    fn runs_and_repetitions_are_seen() {
        let run: Vec<char> = ('!'..='~').collect();
        let repetition: Vec<char> = "k9f2".repeat(16).chars().collect();

        assert!(is_run(&run));
        assert!(!is_repetitive(&run));
        assert!(is_repetitive(&repetition));
        assert!(!is_run(&repetition));
    }
}
