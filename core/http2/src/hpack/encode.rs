//! Fields into a header block.

use super::table::Table;
use super::{Name, SEPARATOR, huffman, integer, static_table};
use crate::connection::RequestLine;
use crate::limits::TABLE_BYTES_MAX;

/// Sets of the indices from fields and from names to entries; powers of two. Where three meet, the
/// oldest is not found any more, which costs some bytes and nothing else.
const FIELD_SETS: usize = 128;
const NAME_SETS: usize = 32;
const WAYS: usize = 2;

/// Fields whose first sending is remembered.
const SEEN: usize = 64;

/// A field that takes more of the table than one part in so many would push out too many others.
const FIELD_SHARE: usize = 4;

/// Dynamic entries come behind the static ones, counted from 1.
const DYNAMIC_BASE: usize = static_table::LENGTH + 1;

/// What one direction of a connection has been taught by us.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// By hash, the number of insertions after which the entry was the newest.
    fields: [[u32; WAYS]; FIELD_SETS],
    names: [[u32; WAYS]; NAME_SETS],
    /// Hashes of the last fields that were sent without being kept, and where the next one goes.
    seen: [u32; SEEN],
    seen_next: usize,
    /// The smallest bound since the last block, and the present one, where the peer changed it.
    resized: Option<(usize, usize)>,
    /// A name in lower case.
    lower: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: Table::default(),
            fields: [[0; WAYS]; FIELD_SETS],
            names: [[0; WAYS]; NAME_SETS],
            seen: [0; SEEN],
            seen_next: 0,
            resized: None,
            lower: Vec::new(),
        }
    }
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE. More than `TABLE_BYTES_MAX` is not made use of.
    pub fn limit_table(&mut self, size_max: usize) {
        let size_max = size_max.min(TABLE_BYTES_MAX);
        let unchanged = (self.table.size_max(), self.table.size_max());
        let (smallest, present) = self.resized.unwrap_or(unchanged);
        if present != size_max {
            self.resized = Some((smallest.min(size_max), size_max));
        }
    }

    /// Appends what has to stand in front of the first field of a block (RFC 7541 section 4.2).
    #[inline]
    pub fn begin(&mut self, output: &mut Vec<u8>) {
        if let Some((smallest, present)) = self.resized.take() {
            self.resize(output, smallest);
            if present != smallest {
                self.resize(output, present);
            }
        }
    }

    fn resize(&mut self, output: &mut Vec<u8>, size_max: usize) {
        integer::write(output, 0x20, 5, size_max);
        self.table.resize(size_max);
    }

    /// Appends `:status`, of three digits.
    pub fn status(&mut self, output: &mut Vec<u8>, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100, status / 10 % 10, status % 10].map(|digit| b'0' + (digit % 10) as u8);
                self.add(output, b":status", &digits);
                return;
            }
        };
        output.push(0x80 | index);
    }

    /// Appends the pseudo-fields of a request.
    pub(crate) fn request(&mut self, output: &mut Vec<u8>, request: &RequestLine<'_>) {
        match request.method {
            b"GET" => output.push(0x82),
            b"POST" => output.push(0x83),
            method => self.add(output, b":method", method),
        }
        if request.method != b"CONNECT" || request.protocol.is_some() {
            match request.scheme {
                b"http" => output.push(0x86),
                b"https" => output.push(0x87),
                scheme => self.add(output, b":scheme", scheme),
            }
            match request.path {
                b"/" => output.push(0x84),
                path => self.add(output, b":path", path),
            }
        }
        if let Some(protocol) = request.protocol {
            self.add(output, b":protocol", protocol);
        }
        if !request.authority.is_empty() {
            self.add(output, b":authority", request.authority);
        }
    }

    /// Appends a field; its name may be in any case.
    #[inline]
    pub fn field(&mut self, output: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        self.in_lower_case(name, |encoder, name| encoder.add(output, name, value));
    }

    /// Appends a field that no hop may keep in a table: what an attacker must not find out by
    /// guessing and looking at lengths (RFC 7541 section 7.1.3).
    pub fn never_indexed(&mut self, output: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        self.in_lower_case(name, |encoder, name| {
            let index = encoder.index_of_name(name, hash(NAME_SEED, name));
            literal(output, 0x10, 4, index, name, value);
        });
    }

    fn in_lower_case(&mut self, name: &[u8], act: impl FnOnce(&mut Self, &[u8])) {
        if !name.iter().any(u8::is_ascii_uppercase) {
            act(self, name);
            return;
        }
        let mut lower = std::mem::take(&mut self.lower);
        lower.clear();
        lower.extend_from_slice(name);
        lower.make_ascii_lowercase();
        act(self, &lower);
        self.lower = lower;
    }

    /// Appends a field that may be kept; `name` is in lower case.
    #[inline]
    pub(crate) fn add(&mut self, output: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        let name_hash = hash(NAME_SEED, name);
        let field_hash = hash(name_hash, value);
        for inserted in self.fields[set_of(field_hash, FIELD_SETS)] {
            if let Some((age, value_length, line)) = self.live(inserted, name)
                && value_length == value.len()
                && line.get(name.len() + SEPARATOR.len()..).is_some_and(|rest| rest.starts_with(value))
            {
                integer::write(output, 0x80, 7, age + DYNAMIC_BASE);
                return;
            }
        }
        self.add_literal(output, name, value, name_hash, field_hash);
    }

    fn add_literal(&mut self, output: &mut Vec<u8>, name: &[u8], value: &[u8], name_hash: u64, field_hash: u64) {
        let index = self.index_of_name(name, name_hash);
        let tag = field_hash as u32;
        // Without an early end, so that it is done several at a time.
        let was_seen = self.seen.iter().fold(false, |found, seen| found | (*seen == tag));
        if !was_seen || name.len() + value.len() > self.table.size_max() / FIELD_SHARE {
            if !was_seen {
                self.seen[self.seen_next % SEEN] = tag;
                self.seen_next += 1;
            }
            literal(output, 0x00, 4, index, name, value);
            return;
        }
        literal(output, 0x40, 6, index, name, value);
        self.table.insert(name, value, OTHER, None);
        let inserted = self.table.inserted() as u32;
        put(&mut self.fields[set_of(field_hash, FIELD_SETS)], inserted);
        put(&mut self.names[set_of(name_hash, NAME_SETS)], inserted);
    }

    /// The entry that was the newest after so many insertions, if it is still there and has this
    /// name: how many are younger, how long its value is, and its line.
    #[inline]
    fn live(&self, inserted: u32, name: &[u8]) -> Option<(usize, usize, &[u8])> {
        let age = (self.table.inserted() as u32).wrapping_sub(inserted) as usize;
        let (entry, line) = self.table.entry(age)?;
        let is_it = usize::from(entry.name_length) == name.len() && line.starts_with(name);
        is_it.then_some((age, usize::from(entry.value_length), line))
    }

    /// An index whose entry has this name; 0 is none.
    fn index_of_name(&self, name: &[u8], name_hash: u64) -> usize {
        match static_table::index_of_name(name) {
            0 => {}
            index => return index,
        }
        let ways = self.names[set_of(name_hash, NAME_SETS)];
        ways.iter().find_map(|inserted| self.live(*inserted, name)).map_or(0, |(age, ..)| age + DYNAMIC_BASE)
    }
}

#[inline]
fn set_of(hash: u64, sets: usize) -> usize {
    (hash >> 48) as usize % sets
}

/// The oldest gives way.
fn put(ways: &mut [u32; WAYS], inserted: u32) {
    ways.rotate_right(1);
    ways[0] = inserted;
}

/// What the encoder's own table says of a name matters to nobody.
const OTHER: Name = Name::Field(sumun_http::Known::Other);

#[inline]
fn literal(output: &mut Vec<u8>, first: u8, prefix: u32, index: usize, name: &[u8], value: &[u8]) {
    integer::write(output, first, prefix, index);
    if index == 0 {
        string(output, name);
    }
    string(output, value);
}

fn string(output: &mut Vec<u8>, plain: &[u8]) {
    let coded = huffman::coded_length(plain);
    if coded < plain.len() {
        integer::write(output, 0x80, 7, coded);
        huffman::encode(plain, output);
    } else {
        integer::write(output, 0x00, 7, plain.len());
        output.extend_from_slice(plain);
    }
}

const NAME_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;

/// Nobody gains by making two fields meet: it is their own compression that suffers.
#[inline]
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| (hash.rotate_left(29) ^ word).wrapping_mul(MULTIPLIER);
    let mut hash = seed ^ bytes.len() as u64;
    if let Some(last) = bytes.last_chunk::<8>() {
        for chunk in bytes.as_chunks::<8>().0 {
            hash = mix(hash, u64::from_le_bytes(*chunk));
        }
        // The end overlaps what is hashed already.
        hash = mix(hash, u64::from_le_bytes(*last));
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        hash = mix(hash, u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last)));
    } else {
        hash = mix(hash, bytes.iter().fold(0, |word, &byte| word << 8 | u64::from(byte)));
    }
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hpack::Decoder;

    fn encode(encoder: &mut Encoder, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut block = Vec::new();
        encoder.begin(&mut block);
        for (name, value) in fields {
            encoder.field(&mut block, name, value);
        }
        block
    }

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        let mut reader = decoder.read(block);
        while let Some(line) = reader.next(&mut text).unwrap() {
            assert_eq!(line.flaw, None);
        }
        text
    }

    #[test]
    fn what_repeats_becomes_one_byte() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let fields: [(&[u8], &[u8]); 2] = [(b"Content-Type", b"text/html"), (b"X-Own", b"1")];
        let lengths: Vec<_> = (0..4)
            .map(|_| {
                let block = encode(&mut encoder, &fields);
                assert_eq!(decode(&mut decoder, &block), b"content-type: text/html\r\nx-own: 1\r\n");
                block.len()
            })
            .collect();
        assert!(lengths[..2].iter().all(|length| *length > 10) && lengths[2..] == [2, 2], "{lengths:?}");
    }

    #[test]
    fn what_changes_pushes_nothing_out() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for number in 0..2_000_u32 {
            let value = format!("{number:064}");
            let block = encode(&mut encoder, &[(b"etag", value.as_bytes()), (b"server", b"s")]);
            decode(&mut decoder, &block);
        }
        assert_eq!(encoder.table.length(), 1);
    }

    #[test]
    fn never_indexed_stays_so() {
        let mut encoder = Encoder::default();
        for _ in 0..3 {
            let mut block = Vec::new();
            encoder.never_indexed(&mut block, b"Authorization", b"secret");
            assert_eq!(block[..2], [0x1f, 23 - 15]);
            block.clear();
            encoder.never_indexed(&mut block, b"X-Key", b"");
            assert_eq!(block[0], 0x10);
        }
        assert_eq!(encoder.table.length(), 0);
    }

    #[test]
    fn the_table_follows_the_peer() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let fields: [(&[u8], &[u8]); 1] = [(b"a", b"b")];
        for _ in 0..3 {
            let block = encode(&mut encoder, &fields);
            decode(&mut decoder, &block);
        }
        // Nothing new is said.
        encoder.limit_table(65_536);
        assert_eq!(encode(&mut encoder, &fields), [0xbe]);
        // Down and up again: both are said, and the entry is gone.
        encoder.limit_table(0);
        encoder.limit_table(4_096);
        let block = encode(&mut encoder, &fields);
        assert_eq!(block[..4], [0x20, 0x3f, 0xe1, 0x1f]);
        assert_eq!(decode(&mut decoder, &block), b"a: b\r\n");
        encoder.limit_table(100);
        for _ in 0..3 {
            let block = encode(&mut encoder, &fields);
            assert_eq!(decode(&mut decoder, &block), b"a: b\r\n");
        }
        assert_eq!(encoder.table.size_max(), 100);
    }

    #[test]
    fn status_codes() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for status in (100..600).chain(100..600) {
            let mut block = Vec::new();
            encoder.status(&mut block, status);
            assert_eq!(decode(&mut decoder, &block), format!(":status: {status}\r\n").as_bytes());
        }
    }

    proptest! {
        /// What one end writes, the other end reads, through evictions and changes of the bound.
        #[test]
        fn round_trip(
            blocks in prop::collection::vec(
                (prop::collection::vec((0_usize..12, 0_usize..12, any::<bool>()), 0..12), prop::option::weighted(0.2, 0_usize..6_000)),
                1..30,
            ),
        ) {
            let names: [&[u8]; 12] = [b"a", b"content-type", b"X-Long-Name-Of-A-Field", b"date", b"server", b"etag", b"x", b"y",
                b"accept-encoding", b"location", b"set-cookie", b"x-request-id"];
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for (fields, limit) in blocks {
                if let Some(limit) = limit {
                    encoder.limit_table(limit);
                }
                let (mut block, mut wanted) = (Vec::new(), Vec::new());
                encoder.begin(&mut block);
                for (name, value, secret) in fields {
                    let (name, value) = (names[name], vec![b'a' + value as u8; value * value * 9]);
                    if secret {
                        encoder.never_indexed(&mut block, name, &value);
                    } else {
                        encoder.field(&mut block, name, &value);
                    }
                    wanted.extend_from_slice(&[&name.to_ascii_lowercase()[..], b": ", &value, b"\r\n"].concat());
                }
                prop_assert_eq!(decode(&mut decoder, &block), wanted);
            }
        }
    }
}
