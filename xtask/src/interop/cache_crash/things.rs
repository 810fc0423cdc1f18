//! What the origin has: things whose bytes follow from what they are, so that a wrong one is seen at once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// As many of each size.
pub(super) const THINGS: usize = 320;

/// Those of greater size lie in the volume of the large.
const SMALL: usize = 11;

/// Around what the storage treats in another way: nothing, the piece that lies with the head, what memory
/// holds, a chunk.
const SIZES: [u64; 16] = [
    0,
    1,
    777,
    4096,
    20_000,
    65_535,
    65_537,
    120_000,
    204_800,
    204_813,
    400_000,
    (1 << 20) - 1,
    1 << 20,
    (1 << 20) + 65_537,
    5 << 19,
    5 << 20,
];

/// Of a thing that varies.
pub(super) const VARIANTS: u32 = 3;

pub(super) const TAGS: usize = 24;

/// Parts of each volume that are purged by their prefix.
pub(super) const RACKS: usize = 10;

/// A number stands for a thing, and all about it but its version follows from the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Thing(pub(super) usize);

impl Thing {
    pub(super) fn path(self) -> String {
        format!("{}{}", self.prefix(), self.0)
    }

    /// Of its path and those of its rack.
    pub(super) fn prefix(self) -> String {
        let volume = if self.0 % SIZES.len() < SMALL { "small" } else { "large" };
        format!("/{volume}/{}/", self.0 / SIZES.len() % RACKS)
    }

    pub(super) fn of_path(path: &str) -> Option<Self> {
        let thing = Self(path.rsplit('/').next()?.parse().ok()?);
        (thing.0 < THINGS && thing.path() == path).then_some(thing)
    }

    pub(super) fn tag(self) -> Option<String> {
        (!self.0.is_multiple_of(5)).then(|| format!("tag-{}", self.0 % TAGS))
    }

    /// How many answers there are to its URL.
    pub(super) fn variants(self) -> u32 {
        if self.traits().is_multiple_of(4) { VARIANTS } else { 1 }
    }

    pub(super) fn is_chunked(self) -> bool {
        (self.traits() >> 8).is_multiple_of(3)
    }

    /// Fresh for a second, and then asked about by its tag.
    pub(super) fn is_short_lived(self) -> bool {
        (self.traits() >> 16).is_multiple_of(8)
    }

    /// Bytes of a version: a new one has another length, if it has any.
    pub(super) fn length(self, version: u32) -> u64 {
        match SIZES[self.0 % SIZES.len()] {
            0 => 0,
            bytes => bytes + u64::from(version % 3),
        }
    }

    fn traits(self) -> u64 {
        mix(self.0 as u64 + 1) >> 8
    }
}

/// What an answer says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edition {
    pub(super) thing: Thing,
    pub(super) variant: u32,
    pub(super) version: u32,
    pub(super) length: u64,
    /// How many answers the origin had made with it.
    pub(super) serial: u64,
}

/// The field that says it.
pub(super) const EDITION: &str = "x-edition";

impl Edition {
    pub(super) fn field(self) -> String {
        format!("{}/{}/{}/{}/{}", self.thing.0, self.variant, self.version, self.length, self.serial)
    }

    pub(super) fn of_field(value: &str) -> Option<Self> {
        let mut numbers = value.split('/').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (thing, variant, version, length, serial) = (next()?, next()?, next()?, next()?, next()?);
        let thing = Thing(usize::try_from(thing).ok()?);
        Some(Self {
            thing,
            variant: u32::try_from(variant).ok()?,
            version: u32::try_from(version).ok()?,
            length,
            serial,
        })
    }

    /// The validator: the same bytes have the same.
    pub(super) fn etag(self) -> String {
        format!("\"{}-{}-{}\"", self.thing.0, self.variant, self.version)
    }

    /// Its bytes from `at` on, as many as there is room for: eight follow from where they stand, and from all
    /// that the edition is.
    pub(super) fn fill(self, at: u64, into: &mut [u8]) {
        let seed = self.seed();
        // Up to where a word begins, and from there on in words.
        let lead = (at.next_multiple_of(8) - at).min(into.len() as u64) as usize;
        let (first, words) = into.split_at_mut(lead);
        let word = mix(seed ^ (at / 8)).to_le_bytes();
        first.copy_from_slice(&word[(at % 8) as usize..][..lead]);
        let begin = at.div_ceil(8);
        for (number, bytes) in words.chunks_mut(8).enumerate() {
            let word = mix(seed ^ (begin + number as u64)).to_le_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
    }

    fn seed(self) -> u64 {
        let parts = [self.thing.0 as u64, u64::from(self.variant), u64::from(self.version), self.length];
        parts.into_iter().fold(1, |seed, part| mix(seed ^ part))
    }
}

/// Bits that have nothing to do with each other: the last step of splitmix64.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// What all threads of a run share.
pub(super) struct World {
    /// What the origin has now, by thing.
    versions: Vec<AtomicU32>,
    /// The oldest version that may still be seen by who asks now, by thing: purges were acknowledged.
    floors: Vec<AtomicU32>,
    serial: AtomicU64,
    pub(super) stop: AtomicBool,
    /// A kill is near, and connections break.
    pub(super) disturbed: AtomicBool,
    /// So far: what was connected before the last one is so no more.
    pub(super) kills: AtomicU64,
    pub(super) counts: Counts,
    wrong: Mutex<Vec<String>>,
    /// Why answers broke off while no kill was near, and how often.
    broken: Mutex<BTreeMap<String, u64>>,
}

#[derive(Default)]
pub(super) struct Counts {
    /// Answers whose every byte was right, and those of them that came from the cache.
    pub(super) right: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Answers that broke off, or errors in place of an answer, while no kill was near.
    pub(super) broken: AtomicU64,
    /// The same near a kill.
    pub(super) broken_by_kills: AtomicU64,
    /// Answers that the origin has broken off.
    pub(super) cuts: AtomicU64,
    /// Purges that were acknowledged, and those that were not.
    pub(super) purges: AtomicU64,
    pub(super) purges_failed: AtomicU64,
    pub(super) wrong: AtomicU64,
}

const VERSIONS_SEARCHED: u32 = 4;

/// Of wrong answers, so many are told in full.
const WRONG_TOLD: usize = 20;

impl World {
    pub(super) fn new() -> Self {
        let each = || (0..THINGS).map(|_| AtomicU32::new(1)).collect();
        Self {
            versions: each(),
            floors: each(),
            serial: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            disturbed: AtomicBool::new(false),
            kills: AtomicU64::new(0),
            counts: Counts::default(),
            wrong: Mutex::default(),
            broken: Mutex::default(),
        }
    }

    pub(super) fn version(&self, thing: Thing) -> u32 {
        self.versions[thing.0].load(Ordering::SeqCst)
    }

    pub(super) fn floor(&self, thing: Thing) -> u32 {
        self.floors[thing.0].load(Ordering::SeqCst)
    }

    /// The origin has a new version from now on; its number.
    pub(super) fn renew(&self, thing: Thing) -> u32 {
        self.versions[thing.0].fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Nothing before this version may be seen any more.
    pub(super) fn forbid_before(&self, thing: Thing, version: u32) {
        self.floors[thing.0].fetch_max(version, Ordering::SeqCst);
    }

    /// Answers of the origin so far.
    pub(super) fn serial(&self) -> u64 {
        self.serial.load(Ordering::SeqCst)
    }

    pub(super) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Which edition bytes that are in a wrong place belong to, in words. It may take a minute.
    pub(super) fn whose(&self, bytes: &[u8]) -> String {
        // A word of it begins at one of these.
        let words: Vec<u64> =
            bytes.windows(8).take(8).filter_map(|word| Some(u64::from_le_bytes(word.try_into().ok()?))).collect();
        for thing in (0..THINGS).map(Thing) {
            let newest = self.version(thing);
            for version in (newest.saturating_sub(VERSIONS_SEARCHED)..=newest).rev() {
                for variant in 0..thing.variants() {
                    let length = thing.length(version);
                    let edition = Edition { thing, variant, version, length, serial: 0 };
                    let seed = edition.seed();
                    if let Some(at) = (0..length / 8).find(|word| words.contains(&mix(seed ^ word))) {
                        return format!("they are those near {} of {edition:?}", at * 8);
                    }
                }
            }
        }
        format!("nobody's {:02x?}", bytes.get(..16).unwrap_or(bytes))
    }

    pub(super) fn is_wrong(&self, what: String) {
        self.counts.wrong.fetch_add(1, Ordering::Relaxed);
        println!("  WRONG: {what}");
        if let Ok(mut wrong) = self.wrong.lock()
            && wrong.len() < WRONG_TOLD
        {
            wrong.push(what);
        }
    }

    /// Counts what broke off, without the numbers in why.
    pub(super) fn broke_off(&self, why: &str) {
        count(&self.counts.broken);
        if let Ok(mut broken) = self.broken.lock() {
            *broken.entry(why.split_once(" at ").map_or(why, |(why, _)| why).to_owned()).or_default() += 1;
        }
    }

    pub(super) fn broken(&self) -> String {
        self.broken.lock().map(|broken| format!("{broken:?}")).unwrap_or_default()
    }

    pub(super) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().map(|wrong| wrong.clone()).unwrap_or_default()
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_from_all_that_an_edition_is() {
        let edition = Edition { thing: Thing(7), variant: 1, version: 2, length: 1000, serial: 5 };
        assert_eq!(Edition::of_field(&edition.field()), Some(edition));
        let bytes = |edition: Edition, at: u64, count: usize| {
            let mut bytes = vec![0; count];
            edition.fill(at, &mut bytes);
            bytes
        };
        let whole = bytes(edition, 0, 1000);
        for (at, count) in [(0, 3), (1, 9), (7, 1), (8, 8), (993, 7)] {
            assert_eq!(bytes(edition, at as u64, count), whole[at..at + count]);
        }
        for other in [
            Edition { thing: Thing(8), ..edition },
            Edition { variant: 0, ..edition },
            Edition { version: 3, ..edition },
            Edition { length: 1001, ..edition },
        ] {
            assert_ne!(bytes(other, 0, 1000), whole);
        }
        assert_eq!(bytes(Edition { serial: 6, ..edition }, 0, 1000), whole);
    }

    #[test]
    fn there_are_things_of_all_kinds() {
        let things = || (0..THINGS).map(Thing);
        assert!(things().all(|thing| Thing::of_path(&thing.path()) == Some(thing)));
        let some = |is: fn(&Thing) -> bool| (1..THINGS).contains(&things().filter(is).count());
        assert!(some(|thing| thing.is_chunked()) && some(|thing| thing.is_short_lived()));
        assert!(some(|thing| thing.variants() == 1) && some(|thing| thing.tag().is_none()));
        assert_eq!(Thing::of_path("/small/0/999"), None);
    }
}
