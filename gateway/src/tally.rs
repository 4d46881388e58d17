//! How many of something each has.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
};

/// How many of something each has, and nobody more than they may.
///
/// Who has none is not listed, so it is no longer than what is given out.
pub(crate) struct Tally<K>(HashMap<K, usize>);

impl<K: Eq + Hash> Tally<K> {
    /// Gives `key` one more, unless they have `most` already.
    pub(crate) fn add(&mut self, key: K, most: usize) -> bool {
        match self.0.entry(key) {
            Entry::Vacant(entry) if most > 0 => {
                entry.insert(1);
                true
            }
            Entry::Occupied(mut entry) if *entry.get() < most => {
                *entry.get_mut() += 1;
                true
            }
            _ => false,
        }
    }

    /// Takes one back from `key`.
    pub(crate) fn remove(&mut self, key: K) {
        if let Entry::Occupied(mut entry) = self.0.entry(key) {
            match entry.get().saturating_sub(1) {
                0 => drop(entry.remove()),
                left => *entry.get_mut() = left,
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}
