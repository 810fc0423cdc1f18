//! Where on a physical volume the objects of one logical volume lie: 12 bytes an object in the table, and
//! 8 more in the list of its extent.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::Key;

/// What is kept of a key: 48 bits of it. Two keys with the same tag push each other out, and the record on
/// disk has the whole key, so that neither is taken for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag([u8; 6]);

impl Tag {
    pub(super) fn of(key: Key) -> Self {
        let [a, b, c, d, e, f, ..] = key.to_le_bytes();
        Self([a, b, c, d, e, f])
    }

    /// The key, if it has no more bits than a tag.
    pub(super) fn key(self) -> Key {
        let [a, b, c, d, e, f] = self.0;
        Key::from(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }

    pub(super) fn to_bytes(self) -> [u8; 6] {
        self.0
    }

    pub(super) fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// The table takes its buckets from the low bits and its own marks from the high ones.
    fn hash(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, 0, 0, e, f])
    }
}

/// A place on a physical volume: the extent, and where in it, in units of [`super::layout::unit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) extent: u32,
    pub(super) slot: u16,
}

#[derive(Debug)]
struct Known {
    tag: Tag,
    slot: u16,
    extent: u32,
}

const _: () = assert!(size_of::<Known>() == 12);

/// The table.
#[derive(Debug, Default)]
pub(super) struct Directory {
    table: HashTable<Known>,
}

impl Directory {
    pub(super) fn find(&self, tag: Tag) -> Option<Place> {
        let known = self.table.find(tag.hash(), |known| known.tag == tag)?;
        Some(Place { extent: known.extent, slot: known.slot })
    }

    /// What was there by this tag is forgotten.
    pub(super) fn insert(&mut self, tag: Tag, Place { extent, slot }: Place) {
        let known = Known { tag, slot, extent };
        match self.table.entry(tag.hash(), |known| known.tag == tag, |known| known.tag.hash()) {
            Entry::Occupied(mut found) => *found.get_mut() = known,
            Entry::Vacant(vacant) => {
                vacant.insert(known);
            }
        }
    }

    pub(super) fn remove(&mut self, tag: Tag) -> bool {
        self.table.find_entry(tag.hash(), |known| known.tag == tag).is_ok_and(|found| {
            found.remove();
            true
        })
    }

    /// Forgets what lies there, and not what has come by the same tag since.
    pub(super) fn remove_at(&mut self, tag: Tag, place: Place) {
        if self.find(tag) == Some(place) {
            self.remove(tag);
        }
    }

    pub(super) fn all(&self) -> Vec<(Tag, Place)> {
        self.table.iter().map(|known| (known.tag, Place { extent: known.extent, slot: known.slot })).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_a_map(steps in prop::collection::vec((0..40_u128, 0..4_u32, 0..9_u16, 0..3_u8), 0..300)) {
            let (mut directory, mut model) = (Directory::default(), HashMap::new());
            for (key, extent, slot, what) in steps {
                // Keys that share all but one of the parts of a tag.
                let key = (key % 5) | ((key / 5) << 30);
                let (tag, place) = (Tag::of(key), Place { extent, slot });
                match what {
                    0 => {
                        directory.insert(tag, place);
                        model.insert(key, place);
                    }
                    1 => prop_assert_eq!(directory.remove(tag), model.remove(&key).is_some()),
                    _ => {
                        directory.remove_at(tag, place);
                        if model.get(&key) == Some(&place) {
                            model.remove(&key);
                        }
                    }
                }
                prop_assert_eq!(directory.find(tag), model.get(&key).copied());
                prop_assert_eq!(directory.len(), model.len());
                prop_assert_eq!(Tag::from_bytes(tag.to_bytes()), tag);
            }
        }
    }
}
