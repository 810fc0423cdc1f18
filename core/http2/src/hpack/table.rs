//! The dynamic table (RFC 7541 section 2.3.2): lines in one run of bytes, the newest last.

use std::collections::VecDeque;

use super::{Flaw, LINE_END, LINE_OVERHEAD, Name, SEPARATOR};
use crate::limits::{TABLE_BYTES_MAX, TABLE_ENTRIES_MAX, TABLE_ENTRY_OVERHEAD, TABLE_TEXT_BYTES};

#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// In bytes since the table was made, so that it stays true when dead text is cut off.
    start: u64,
    pub(super) name_length: u16,
    pub(super) value_length: u16,
    pub(super) name: Name,
    pub(super) flaw: Option<Flaw>,
}

impl Entry {
    fn size(&self) -> usize {
        usize::from(self.name_length) + usize::from(self.value_length) + TABLE_ENTRY_OVERHEAD
    }

    fn line_length(&self) -> usize {
        usize::from(self.name_length) + usize::from(self.value_length) + LINE_OVERHEAD
    }
}

#[derive(Debug)]
pub(super) struct Table {
    /// Lines of the live entries, and those of dead ones in front.
    text: Vec<u8>,
    /// Bytes that were cut off in front of `text`.
    cut: u64,
    /// The newest in front, as indices count.
    entries: VecDeque<Entry>,
    /// By RFC 7541 section 4.1.
    size: usize,
    size_max: usize,
    /// Entries since the table was made.
    inserted: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self { text: Vec::new(), cut: 0, entries: VecDeque::new(), size: 0, size_max: TABLE_BYTES_MAX, inserted: 0 }
    }
}

impl Table {
    /// The entry that is `age` younger ones away, and its line.
    #[inline]
    pub(super) fn entry(&self, age: usize) -> Option<(&Entry, &[u8])> {
        let entry = self.entries.get(age)?;
        let start = (entry.start - self.cut) as usize;
        Some((entry, self.text.get(start..start + entry.line_length())?))
    }

    #[cfg(test)]
    pub(super) fn length(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn inserted(&self) -> u64 {
        self.inserted
    }

    pub(super) fn size_max(&self) -> usize {
        self.size_max
    }

    /// Takes a field in. One that is larger than the table empties it (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, name: &[u8], value: &[u8], kind: Name, flaw: Option<Flaw>) {
        let size = name.len() + value.len() + TABLE_ENTRY_OVERHEAD;
        if size > self.size_max {
            self.shrink_to(0);
            return;
        }
        self.shrink_to(self.size_max - size);
        self.make_room(name.len() + value.len() + LINE_OVERHEAD);
        let start = self.cut + self.text.len() as u64;
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(SEPARATOR);
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(LINE_END);
        let (name_length, value_length) = (name.len() as u16, value.len() as u16);
        self.entries.push_front(Entry { start, name_length, value_length, name: kind, flaw });
        self.size += size;
        self.inserted += 1;
        self.check_invariants();
    }

    /// A new bound, at most `TABLE_BYTES_MAX`; what does not fit goes (RFC 7541 section 4.3).
    pub(super) fn resize(&mut self, size_max: usize) {
        self.size_max = size_max.min(TABLE_BYTES_MAX);
        self.shrink_to(self.size_max);
        self.check_invariants();
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
    }

    /// Cuts dead text off once new text would not fit: each byte is moved a few times at most.
    fn make_room(&mut self, length: usize) {
        if self.text.len() + length > TABLE_TEXT_BYTES {
            let end = self.cut + self.text.len() as u64;
            let dead = self.entries.back().map_or(end, |oldest| oldest.start) - self.cut;
            self.text.drain(..dead as usize);
            self.cut += dead;
        }
    }

    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            assert_eq!(self.size, self.entries.iter().map(Entry::size).sum::<usize>());
            assert!(self.size <= self.size_max && self.size_max <= TABLE_BYTES_MAX);
            assert!(self.text.len() <= TABLE_TEXT_BYTES && self.entries.len() <= TABLE_ENTRIES_MAX);
            assert!(
                (0..self.entries.len()).all(|age| self.entry(age).is_some_and(|(_, line)| line.ends_with(LINE_END)))
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sumun_http::Known;

    use super::*;

    const OTHER: Name = Name::Field(Known::Other);

    fn lines(table: &Table) -> Vec<Vec<u8>> {
        (0..table.length()).map(|age| table.entry(age).unwrap().1.to_vec()).collect()
    }

    #[test]
    fn the_oldest_go_first() {
        let mut table = Table::default();
        table.resize(2 * TABLE_ENTRY_OVERHEAD + 4);
        for name in [b"a", b"b", b"c"] {
            table.insert(name, b"1", OTHER, None);
        }
        assert_eq!(lines(&table), [b"c: 1\r\n", b"b: 1\r\n"]);
        table.insert(b"a", &[b'x'; 100], OTHER, None);
        assert_eq!(lines(&table), [b""; 0]);
        table.resize(usize::MAX);
        assert_eq!(table.size_max(), TABLE_BYTES_MAX);
    }

    proptest! {
        /// Against a list that is kept in the plainest way.
        #[test]
        fn like_a_plain_list(
            fields in prop::collection::vec((1_usize..40, 0_usize..1_500, prop::option::weighted(0.05, 0_usize..5_000)), 1..200),
        ) {
            let mut table = Table::default();
            let mut plain: VecDeque<(Vec<u8>, Vec<u8>)> = VecDeque::new();
            let mut size_max = TABLE_BYTES_MAX;
            for (number, (name, value, resize)) in fields.into_iter().enumerate() {
                let (name, value) = (vec![b'a' + (number % 26) as u8; name], vec![b'0' + (number % 10) as u8; value]);
                if let Some(size) = resize {
                    size_max = size.min(TABLE_BYTES_MAX);
                    table.resize(size);
                }
                table.insert(&name, &value, OTHER, None);
                plain.push_front((name, value));
                while plain.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>() > size_max {
                    plain.pop_back();
                }
                let wanted: Vec<Vec<u8>> = plain.iter().map(|(name, value)| [&name[..], b": ", value, b"\r\n"].concat()).collect();
                prop_assert_eq!(lines(&table), wanted);
            }
        }
    }
}
