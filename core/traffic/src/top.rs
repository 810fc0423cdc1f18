//! What came most often lately: two sketches that take turns, and the text of what they count.
//!
//! One is filled while the other keeps the generation before, so what is shown is that of the last one to
//! two generations, and what is older is gone at once.

use std::collections::BTreeMap;

use crate::key::mix;
use crate::limits::{TOP_GENERATION_MS, TOP_TEXT_BYTES};
use crate::space_saving::{Counted, Hit, SpaceSaving};

/// Top keys of the last one to two minutes. Keys are numbers, which may stand for texts.
#[derive(Debug, Clone)]
pub struct Top {
    generations: [Generation; 2],
    /// Which of the two is filled.
    now: usize,
}

#[derive(Debug, Clone)]
struct Generation {
    sketch: SpaceSaving,
    /// By place; empty where keys are no texts.
    texts: Box<[Text]>,
}

/// As much of a text as is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Text {
    bytes: [u8; TOP_TEXT_BYTES],
    length: u8,
}

const _: () = assert!(TOP_TEXT_BYTES <= u8::MAX as usize);

/// A key as it is shown: counts of several sketches, added up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopRow {
    pub key: u64,
    pub text: Option<Vec<u8>>,
    /// No less than it really was.
    pub count: u64,
    /// It was no less than `count - over`.
    pub over: u64,
    /// Of `count - over`.
    pub errors: u64,
    pub bytes: u64,
}

/// When generations change, for several [`Top`]s that do so together.
#[derive(Debug, Clone, Copy)]
pub struct Generations {
    since_ms: u64,
    /// The generation before this one began so long before it; 0 where there was none.
    before_ms: u64,
}

/// What has become of the generations by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Goes,
    /// The current one has become the one before.
    Next,
    /// Both are too old to be shown.
    Over,
}

impl Generations {
    #[must_use]
    pub fn new(now_ms: u64) -> Self {
        Self { since_ms: now_ms, before_ms: 0 }
    }

    /// To be asked before anything is counted or shown.
    #[inline]
    pub fn turn(&mut self, now_ms: u64) -> Turn {
        let age_ms = now_ms.saturating_sub(self.since_ms);
        if age_ms < TOP_GENERATION_MS {
            return Turn::Goes;
        }
        let is_over = age_ms >= 2 * TOP_GENERATION_MS;
        *self = if is_over { Self::new(now_ms) } else { Self { since_ms: now_ms, before_ms: age_ms } };
        if is_over { Turn::Over } else { Turn::Next }
    }

    /// How much time it is that is shown, in milliseconds.
    #[must_use]
    pub fn window_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms) + self.before_ms
    }
}

impl Top {
    /// Of numbers.
    #[must_use]
    pub fn of_numbers(places: usize, seed: u64) -> Self {
        Self::new(places, seed, 0)
    }

    /// Of texts: with [`Self::add_text`].
    #[must_use]
    pub fn of_texts(places: usize, seed: u64) -> Self {
        Self::new(places, seed, places)
    }

    fn new(places: usize, seed: u64, texts: usize) -> Self {
        let one = || Generation {
            sketch: SpaceSaving::new(places, seed),
            texts: vec![Text { bytes: [0; TOP_TEXT_BYTES], length: 0 }; texts].into(),
        };
        Self { generations: [one(), one()], now: 0 }
    }

    pub fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Goes => {}
            Turn::Next => {
                self.now ^= 1;
                self.generations[self.now].sketch.clear();
            }
            Turn::Over => self.generations.iter_mut().for_each(|generation| generation.sketch.clear()),
        }
    }

    #[inline]
    pub fn add(&mut self, key: u64, hit: Hit) {
        self.generations[self.now].sketch.add(key, hit);
    }

    /// Counts a text under its [`text_key`]. It is copied only where it takes a place.
    #[inline]
    pub fn add_text(&mut self, key: u64, text: &[u8], hit: Hit) {
        let Generation { sketch, texts } = &mut self.generations[self.now];
        if let Some(kept) = sketch.add(key, hit).and_then(|place| texts.get_mut(place)) {
            *kept = Text::of(text);
        }
    }

    /// All that is known, for [`merge`].
    fn generations(&self) -> impl Iterator<Item = &Generation> {
        self.generations.iter()
    }
}

/// The top of what several have counted, such as one for each thread: those with the greatest counts
/// first, `most` of them.
///
/// Where one of them does not know a key it may still have seen it, up to its least count: so much is
/// added to the count and to what may be too much.
#[must_use]
pub fn merge<'a>(tops: impl IntoIterator<Item = &'a Top>, most: usize) -> Vec<TopRow> {
    let mut rows: BTreeMap<u64, (TopRow, u64)> = BTreeMap::new();
    let mut least_of_all = 0_u64;
    for Generation { sketch, texts } in tops.into_iter().flat_map(Top::generations) {
        let least = sketch.least();
        for Counted { key, count, over, errors, bytes, place } in sketch.iter() {
            let new = || TopRow { key, text: None, count: 0, over: 0, errors: 0, bytes: 0 };
            let (row, least_known) = rows.entry(key).or_insert_with(|| (new(), 0));
            row.count = row.count.saturating_add(count);
            row.over = row.over.saturating_add(over);
            row.errors = row.errors.saturating_add(errors);
            row.bytes = row.bytes.saturating_add(bytes);
            if row.text.is_none() {
                row.text = texts.get(place).map(|text| text.bytes().to_vec());
            }
            *least_known += least;
        }
        least_of_all += least;
    }
    let mut rows: Vec<TopRow> = rows
        .into_values()
        .map(|(mut row, least_known)| {
            let unknown = least_of_all - least_known;
            row.count = row.count.saturating_add(unknown);
            row.over = row.over.saturating_add(unknown);
            row
        })
        .collect();
    // Of equals the one that is surer, then any that stays the same.
    rows.sort_by_key(|row| (std::cmp::Reverse(row.count), row.over, row.key));
    rows.truncate(most);
    rows
}

/// Which number stands for a text: of as much of it as is kept, so that what looks the same is the same.
#[must_use]
pub fn text_key(text: &[u8], seed: u64) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let text = cut(text);
    let fold = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(MULTIPLIER);
        product as u64 ^ (product >> 64) as u64
    };
    let (words, rest) = text.as_chunks::<8>();
    let hash = words.iter().fold(mix(seed ^ text.len() as u64), |hash, word| fold(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(fold(hash, u64::from_le_bytes(last)))
}

/// At most so much of a text as is kept, and no part of a character of UTF-8.
fn cut(text: &[u8]) -> &[u8] {
    let Some(beyond) = text.get(TOP_TEXT_BYTES) else { return text };
    let mut end = TOP_TEXT_BYTES;
    let is_inside = |byte: u8| byte & 0b1100_0000 == 0b1000_0000;
    if is_inside(*beyond) {
        // A character has at most four bytes; what is longer is none.
        let start = (1..4).find(|back| !is_inside(text[TOP_TEXT_BYTES - back]));
        end -= start.unwrap_or(0);
    }
    &text[..end]
}

impl Text {
    fn of(text: &[u8]) -> Self {
        let text = cut(text);
        let mut bytes = [0; TOP_TEXT_BYTES];
        bytes[..text.len()].copy_from_slice(text);
        Self { bytes, length: text.len() as u8 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:?}", self.bytes().escape_ascii().to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Hit = Hit { weight: 1, is_error: false, bytes: 0 };

    fn add(top: &mut Top, text: &str) {
        top.add_text(text_key(text.as_bytes(), 3), text.as_bytes(), ONE);
    }

    fn shown(tops: &[&Top]) -> Vec<(String, u64, u64)> {
        let text = |row: &TopRow| String::from_utf8(row.text.clone().unwrap()).unwrap();
        merge(tops.iter().copied(), 20).iter().map(|row| (text(row), row.count, row.over)).collect()
    }

    #[test]
    fn a_generation_is_shown_for_one_more() {
        let mut generations = Generations::new(0);
        let mut top = Top::of_texts(4, 3);
        add(&mut top, "/a");
        assert_eq!(generations.turn(TOP_GENERATION_MS - 1), Turn::Goes);
        let next = generations.turn(TOP_GENERATION_MS + 5);
        assert_eq!(next, Turn::Next);
        top.turn(next);
        add(&mut top, "/a");
        add(&mut top, "/b");
        assert_eq!(shown(&[&top]), [("/a".to_owned(), 2, 0), ("/b".to_owned(), 1, 0)]);
        assert_eq!(generations.window_ms(TOP_GENERATION_MS + 15), TOP_GENERATION_MS + 15);
        top.turn(generations.turn(2 * TOP_GENERATION_MS + 5));
        let mut left = shown(&[&top]);
        left.sort();
        assert_eq!(left, [("/a".to_owned(), 1, 0), ("/b".to_owned(), 1, 0)]);
        let over = generations.turn(9 * TOP_GENERATION_MS);
        assert_eq!(over, Turn::Over);
        top.turn(over);
        assert_eq!((shown(&[&top]), generations.window_ms(9 * TOP_GENERATION_MS)), (vec![], 0));
    }

    #[test]
    fn threads_are_added_up() {
        let (mut one, mut other) = (Top::of_texts(2, 3), Top::of_texts(2, 3));
        for text in ["/a", "/a", "/b"] {
            add(&mut one, text);
        }
        for text in ["/a", "/c", "/c"] {
            add(&mut other, text);
        }
        // Each is full: what one of them does not know it may have seen once.
        let expected = [("/a".to_owned(), 3, 0), ("/c".to_owned(), 3, 1), ("/b".to_owned(), 2, 1)];
        assert_eq!(shown(&[&one, &other]), expected);
        assert_eq!(merge([&one, &other], 1).len(), 1);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "가".repeat(100);
        let mut top = Top::of_texts(2, 3);
        add(&mut top, &long);
        add(&mut top, &format!("{long}x"));
        assert_eq!(shown(&[&top]), [("가".repeat(TOP_TEXT_BYTES / 3), 2, 0)]);
        assert_eq!(cut(&[0x80; 200]).len(), TOP_TEXT_BYTES, "no text, and cut all the same");
    }

    proptest! {
        #[test]
        fn what_is_cut_stays_text(text in "\\PC{0,200}") {
            let kept = cut(text.as_bytes());
            prop_assert!(kept.len() <= TOP_TEXT_BYTES && kept.len() + 4 > text.len().min(TOP_TEXT_BYTES));
            prop_assert!(text.starts_with(std::str::from_utf8(kept).unwrap()));
        }

        /// Whoever splits a stream over threads and generations: counts are no less than they were, and
        /// not more by more than is said.
        #[test]
        fn sums_keep_the_bounds(stream in prop::collection::vec((0_usize..3, 0_u64..30, prop::bool::weighted(0.01)), 0..500)) {
            let mut tops = vec![Top::of_numbers(8, 3); 3];
            let mut lately: [BTreeMap<u64, u64>; 2] = Default::default();
            for (thread, key, turns) in stream {
                if turns {
                    tops.iter_mut().for_each(|top| top.turn(Turn::Next));
                    lately = [std::mem::take(&mut lately[1]), BTreeMap::new()];
                }
                tops[thread].add(key * key % 17, ONE);
                *lately[1].entry(key * key % 17).or_default() += 1;
            }
            let rows = merge(&tops, usize::MAX);
            for row in &rows {
                let exact = lately.iter().map(|counts| counts.get(&row.key).copied().unwrap_or(0)).sum::<u64>();
                prop_assert!(row.count >= exact && row.count - row.over <= exact, "{row:?} {exact}");
            }
        }
    }
}
