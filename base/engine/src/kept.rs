//! What lives on through reloads by its name: counters, connections that are counted, places.
//!
//! A reload that leaves a name alone leaves its values alone. One that takes it out of the config
//! does not take the values from who uses them: they go once the last user has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by name, for all threads.
pub type Table<Key, Value> = Mutex<Kept<Key, Value>>;

/// See above.
#[derive(Debug)]
pub struct Kept<Key, Value> {
    entries: BTreeMap<Key, Entry<Value>>,
}

#[derive(Debug)]
struct Entry<Value> {
    /// One for each worker, or a single one that all of them share.
    values: Vec<Arc<Value>>,
    /// The config has this name.
    is_named: bool,
}

impl<Key, Value> Default for Kept<Key, Value> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<Key: Ord, Value> Kept<Key, Value> {
    /// Worker `index`'s value of a name that the config has; made if it is not there.
    pub fn value(&mut self, key: Key, index: usize, make: impl Fn() -> Value) -> Arc<Value> {
        let entry = self.entries.entry(key).or_insert_with(|| Entry { values: Vec::new(), is_named: true });
        entry.is_named = true;
        while entry.values.len() <= index {
            entry.values.push(Arc::new(make()));
        }
        Arc::clone(&entry.values[index])
    }

    /// A config has come: what it names stays, whoever uses it.
    pub fn name(&mut self, is_named: impl Fn(&Key) -> bool) {
        for (key, entry) in &mut self.entries {
            entry.is_named = is_named(key);
        }
    }

    /// Drops what the config does not name and nobody uses; `last` sees each value once more.
    pub fn let_go(&mut self, mut last: impl FnMut(&Value)) {
        self.entries.retain(|_, entry| {
            // Whoever had a value is done with it: `get_mut` also sees what was written through it.
            let stays = entry.is_named || !entry.values.iter_mut().all(|value| Arc::get_mut(value).is_some());
            if !stays {
                entry.values.iter().for_each(|value| last(value));
            }
            stays
        });
    }

    /// In the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &[Arc<Value>])> {
        self.entries.iter().map(|(key, entry)| (key, entry.values.as_slice()))
    }
}

/// A panic elsewhere leaves these tables whole.
pub fn lock<Key, Value>(table: &Table<Key, Value>) -> MutexGuard<'_, Kept<Key, Value>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kept: &Kept<u32, u32>) -> Vec<u32> {
        kept.iter().map(|(key, _)| *key).collect()
    }

    #[test]
    fn a_value_stays_for_the_config_or_for_who_uses_it() {
        let mut kept = Kept::default();
        let used = kept.value(1, 1, || 10);
        for key in [2, 3] {
            kept.value(key, 0, || 20);
        }
        kept.name(|key| *key == 2);
        let mut last = Vec::new();
        kept.let_go(|value| last.push(*value));
        assert_eq!((names(&kept), last.as_slice()), (vec![1, 2], [20].as_slice()));
        drop(used);
        kept.let_go(|value| last.push(*value));
        assert_eq!((names(&kept), last.as_slice()), (vec![2], [20, 10, 10].as_slice()));
        kept.name(|_| false);
        kept.let_go(|_| {});
        assert!(names(&kept).is_empty());
    }

    #[test]
    fn a_name_that_comes_back_in_time_finds_its_value() {
        let mut kept = Kept::default();
        let used = kept.value(1, 0, || 10);
        kept.name(|_| false);
        kept.let_go(|_| {});
        assert!(Arc::ptr_eq(&used, &kept.value(1, 0, || 20)));
        drop(used);
        kept.let_go(|_| {});
        assert_eq!(names(&kept), [1]);
    }
}
