//! Which autonomous system an address belongs to (RFC 1930), by a table that somebody else made.
//!
//! Lines are of one of two forms, with tabs or commas between their fields, which may stand in quotes:
//! `FIRST LAST NUMBER … NAME` (iptoasn.com has a country in between) and `PREFIX NUMBER NAME` (GeoLite2 ASN).
//! Addresses are told apart as clients are: IPv4 each, IPv6 by the /64.

use std::net::IpAddr;

use crate::limits::{ASN_LINE_BYTES, ASN_NAME_BYTES, ASN_RANGES_MAX};

/// Ranges of addresses with their systems: 12 bytes each, and the names once.
#[derive(Debug, Default)]
pub struct AsnTable {
    /// Where a range begins, sorted. It ends where the next one begins.
    starts: Box<[u64]>,
    /// 0: nobody's.
    numbers: Box<[u32]>,
    /// Number, and where its name ends in `names`; sorted.
    systems: Box<[(u32, u32)]>,
    names: Box<str>,
}

/// A table that is being read.
#[derive(Debug, Default)]
pub struct AsnBuilder {
    ranges: Vec<Range>,
    systems: std::collections::BTreeMap<u32, Box<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    first: u64,
    last: u64,
    number: u32,
}

/// Keys of IPv6 networks begin here; below are IPv4 addresses.
const V6_FIRST: u64 = 1 << 32;

impl AsnBuilder {
    /// Takes one line, without its end. `is_first`: it may be a head, which is passed over.
    ///
    /// # Errors
    /// What is wrong with the line, in words.
    pub fn add_line(&mut self, line: &str, is_first: bool) -> Result<(), &'static str> {
        let line = line.trim_end_matches('\r');
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if line.len() > ASN_LINE_BYTES {
            return Err("the line is too long");
        }
        let mut fields = Fields { rest: Some(line), separator: if line.contains('\t') { '\t' } else { ',' } };
        let first = fields.next().unwrap_or_default();
        let Some(from) = network(first) else {
            return if is_first { Ok(()) } else { Err("it begins with no address and no prefix") };
        };
        let (first, last) = match from {
            Network::Prefix(first, last) => (first, last),
            Network::Address(first) => match fields.next().and_then(network) {
                Some(Network::Address(last)) if (first < V6_FIRST) == (last < V6_FIRST) && first <= last => {
                    (first, last)
                }
                _ => return Err("the range has no end, or it ends before it begins"),
            },
        };
        let number = fields.next().unwrap_or_default();
        let number = number.strip_prefix("AS").unwrap_or(number);
        let number: u32 = number.parse().map_err(|_| "there is no number of an autonomous system")?;
        if number == 0 {
            return Ok(());
        }
        if self.ranges.len() >= ASN_RANGES_MAX {
            return Err("there are too many ranges");
        }
        self.ranges.push(Range { first, last, number });
        self.systems.entry(number).or_insert_with(|| cut(fields.last().unwrap_or_default()).into());
        Ok(())
    }

    /// The table. Where ranges overlap, the one that begins later holds from there on.
    #[must_use]
    pub fn build(mut self) -> AsnTable {
        self.ranges.sort_unstable();
        let mut marks: Vec<(u64, u32)> = Vec::with_capacity(self.ranges.len());
        let mut mark = |start: u64, number: u32| match marks.last_mut() {
            Some(before) if before.0 == start => before.1 = number,
            Some(before) if before.1 == number => {}
            _ => marks.push((start, number)),
        };
        for (index, range) in self.ranges.iter().enumerate() {
            mark(range.first, range.number);
            let next = self.ranges.get(index + 1).map(|next| next.first);
            if let Some(behind) = range.last.checked_add(1)
                && next.is_none_or(|next| next > behind)
            {
                mark(behind, 0);
            }
        }
        let mut names = String::new();
        let named = self.systems.iter().map(|(number, name)| {
            names.push_str(name);
            // As many ranges at most, with names of so many bytes: see the assertion in `limits`.
            (*number, names.len() as u32)
        });
        AsnTable {
            systems: named.collect(),
            starts: marks.iter().map(|(start, _)| *start).collect(),
            numbers: marks.iter().map(|(_, number)| *number).collect(),
            names: names.into(),
        }
    }
}

impl AsnTable {
    /// The system of a client: its IPv4 address, or the first half of its IPv6 address, as a number. 0: not
    /// known.
    #[must_use]
    pub fn number_of(&self, client: u64) -> u32 {
        let behind = self.starts.partition_point(|start| *start <= client);
        behind.checked_sub(1).and_then(|index| self.numbers.get(index)).copied().unwrap_or(0)
    }

    /// The name of a system; empty where the table has none.
    #[must_use]
    pub fn name_of(&self, number: u32) -> &str {
        let Ok(index) = self.systems.binary_search_by_key(&number, |(number, _)| *number) else { return "" };
        let start = index.checked_sub(1).map_or(0, |before| self.systems[before].1);
        self.names.get(start as usize..self.systems[index].1 as usize).unwrap_or_default()
    }

    /// Ranges, those of nobody between others counted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.starts) + size_of_val(&*self.numbers) + size_of_val(&*self.systems) + self.names.len()
    }
}

enum Network {
    Address(u64),
    /// First and last.
    Prefix(u64, u64),
}

fn network(text: &str) -> Option<Network> {
    let Some((address, length)) = text.split_once('/') else {
        return Some(Network::Address(key(text.parse().ok()?)));
    };
    let address: IpAddr = address.parse().ok()?;
    let length: u32 = length.parse().ok()?;
    let bits = match address {
        IpAddr::V4(_) => 32,
        // Below the /64 nobody is told apart.
        IpAddr::V6(_) if length <= 128 => 64,
        IpAddr::V6(_) => return None,
    };
    let host_bits =
        if address.is_ipv4() { bits - Some(length).filter(|length| *length <= bits)? } else { bits - length.min(bits) };
    let host = 1_u64.checked_shl(host_bits).map_or(u64::MAX, |size| size - 1);
    let first = key(address) & !host;
    let least = if address.is_ipv4() { 0 } else { V6_FIRST };
    Some(Network::Prefix(first.max(least), first | host))
}

fn key(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        // What would be taken for an IPv4 address belongs to nobody.
        IpAddr::V6(address) => ((address.to_bits() >> 64) as u64).max(V6_FIRST),
    }
}

fn cut(name: &str) -> &str {
    name.get(..name.floor_char_boundary(ASN_NAME_BYTES)).unwrap_or_default()
}

/// Fields of a line (RFC 4180, without line ends inside of fields and without quotes inside of quotes).
struct Fields<'a> {
    rest: Option<&'a str>,
    separator: char,
}

impl<'a> Iterator for Fields<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (field, behind) = quoted.split_once('"').unwrap_or((quoted, ""));
                (field, behind.strip_prefix(self.separator))
            }
            None => match rest.split_once(self.separator) {
                Some((field, behind)) => (field, Some(behind)),
                None => (rest, None),
            },
        };
        self.rest = behind;
        Some(field.trim())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(text: &str) -> AsnTable {
        let mut builder = AsnBuilder::default();
        for (index, line) in text.lines().enumerate() {
            builder.add_line(line, index == 0).unwrap_or_else(|why| panic!("{line}: {why}"));
        }
        builder.build()
    }

    fn of(table: &AsnTable, address: &str) -> (u32, String) {
        let number = table.number_of(key(address.parse().unwrap()));
        (number, table.name_of(number).to_owned())
    }

    #[test]
    fn ranges_with_tabs() {
        let table = table(
            "1.0.0.0\t1.0.0.255\t64500\tUS\tONE-NET\n1.0.1.0\t1.0.3.255\t0\tNone\tNot routed\n\
             1.0.4.0\t1.0.7.255\t64501\tAU\tTWO, Inc.\n2001:db8::\t2001:db8:0:ffff:ffff:ffff:ffff:ffff\t64502\tKR\tSIX\n",
        );
        assert_eq!(of(&table, "1.0.0.7"), (64500, "ONE-NET".to_owned()));
        assert_eq!(of(&table, "1.0.2.1"), (0, String::new()));
        assert_eq!(of(&table, "1.0.7.255"), (64501, "TWO, Inc.".to_owned()));
        for nobody in ["1.0.8.0", "0.0.0.1", "255.255.255.255", "::1", "2001:db8:1::"] {
            assert_eq!(of(&table, nobody).0, 0, "{nobody}");
        }
        assert_eq!(of(&table, "2001:db8:0:5::1"), (64502, "SIX".to_owned()));
    }

    #[test]
    fn prefixes_with_commas_and_a_head() {
        let table = table(
            "network,autonomous_system_number,autonomous_system_organization\r\n\
             192.0.2.0/24,64500,\"One, Two & Co.\"\r\n198.51.100.0/25,AS64501,Plain\r\n2001:db8::/33,64502,Six\r\n\
             2001:db8:ffff::1/128,64503,\"\"\r\n255.255.255.0/24,64504,Last\r\n",
        );
        assert_eq!(of(&table, "192.0.2.255"), (64500, "One, Two & Co.".to_owned()));
        assert_eq!((of(&table, "198.51.100.127").0, of(&table, "198.51.100.128").0), (64501, 0));
        assert_eq!((of(&table, "2001:db8:7fff::").0, of(&table, "2001:db8:8000::").0), (64502, 0));
        assert_eq!(of(&table, "2001:db8:ffff::1"), (64503, String::new()));
        assert_eq!(of(&table, "255.255.255.255").0, 64504);
    }

    #[test]
    fn wrong_lines_are_refused() {
        for wrong in [
            "192.0.2.0/33,1,a",
            "2001:db8::/129,1,a",
            "192.0.2.0/24,,a",
            "192.0.2.0/24",
            "192.0.2.9,192.0.2.1,1",
            "192.0.2.0,2001:db8::,1",
            "192.0.2.0,1,a",
            "a,b,c",
            "192.0.2.0/24,4294967296,a",
            "192.0.2.0/x,1",
            "/,1",
            &format!("192.0.2.0/24,1,{}", "x".repeat(ASN_LINE_BYTES)),
        ] {
            assert!(AsnBuilder::default().add_line(wrong, false).is_err(), "{wrong}");
        }
        let mut builder = AsnBuilder::default();
        builder.add_line(&format!("192.0.2.0/24,1,{}", "가".repeat(100)), false).unwrap();
        assert_eq!(builder.build().name_of(1).len(), ASN_NAME_BYTES / 3 * 3);
    }

    #[test]
    fn neighbours_of_one_system_are_one_range_of_twelve_bytes() {
        let mut builder = AsnBuilder::default();
        for number in 0..256 * 4 {
            builder
                .add_line(&format!("10.{}.{}.0/24,{},", number / 256, number % 256, number / 256 + 1), false)
                .unwrap();
        }
        let table = builder.build();
        assert_eq!((table.len(), table.bytes()), (5, 5 * 12 + 4 * 8));
    }

    proptest! {
        #[test]
        fn no_line_breaks_it(line in "\\PC{0,60}", is_first: bool) {
            AsnBuilder::default().add_line(&line, is_first).ok();
        }

        /// Ranges that do not overlap, in any order: each address has the system of its range.
        #[test]
        fn every_address_is_found(
            sizes in prop::collection::vec((0_u32..5, 1_u32..5, 1_u32..4), 1..50),
            probes in prop::collection::vec(0_u64..500, 1..50),
            turns in 0_usize..50,
        ) {
            let mut at = 0;
            let mut ranges = Vec::new();
            for (gap, size, number) in sizes {
                ranges.push((at + gap, at + gap + size - 1, number));
                at += gap + size;
            }
            let known = ranges.clone();
            let turns = turns % ranges.len();
            ranges.rotate_left(turns);
            let mut builder = AsnBuilder::default();
            for (first, last, number) in ranges {
                let address = std::net::Ipv4Addr::from_bits;
                builder.add_line(&format!("{},{},{number}", address(first), address(last)), false).unwrap();
            }
            let table = builder.build();
            for probe in probes {
                let is_in = |(first, last, _): &&(u32, u32, u32)| (u64::from(*first)..=u64::from(*last)).contains(&probe);
                let expected = known.iter().find(is_in).map_or(0, |range| range.2);
                prop_assert_eq!(table.number_of(probe), expected);
            }
        }
    }
}
