//! What became of the requests of `sumun cache warm`.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sfv::{BareItem, List, ListEntry, Parser};

use super::super::show::size;
use crate::limits::{WARM_FAILURES, WARM_REASON_BYTES, WARM_REASONS};

/// What became of one request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Became {
    /// Its answer is stored now.
    Stored,
    /// It was stored already.
    Hit,
    /// Answered, and not stored: why.
    NotStored(String),
    /// Not answered, or with a status from 400 on: why.
    Failed(String),
}

impl Became {
    /// By the status of an answer and what the gateway says in `Cache-Status` (RFC 9211), whose last
    /// member of our name is from whoever is nearest.
    pub(super) fn of(status: u16, cache_status: &[u8]) -> Self {
        if status >= 400 {
            return Self::Failed(format!("status {status}"));
        }
        let list: List = Parser::new(cache_status).parse().unwrap_or_default();
        let ours = list.iter().rev().find_map(|entry| match entry {
            ListEntry::Item(item) if word(&item.bare_item).is_some_and(|name| name == "sumun") => Some(&item.params),
            _ => None,
        });
        let Some(parameters) = ours else {
            return Self::NotStored("not cached by its route".to_owned());
        };
        let is = |name: &str| matches!(parameters.get(name), Some(BareItem::Boolean(true)));
        let said = |name: &str| parameters.get(name).and_then(word);
        match parameters.get("fwd-status") {
            Some(BareItem::Integer(status)) if i64::from(*status) >= 400 => {
                Self::NotStored(format!("stale, the server answers {}", i64::from(*status)))
            }
            _ if is("hit") => Self::Hit,
            _ if is("stored") => Self::Stored,
            _ => Self::NotStored(said("detail").or_else(|| said("fwd")).unwrap_or("no reason given").to_owned()),
        }
    }
}

fn word(item: &BareItem) -> Option<&str> {
    match item {
        BareItem::Token(token) => Some(token.as_str()),
        BareItem::String(text) => Some(text.as_str()),
        _ => None,
    }
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) stored: u64,
    pub(super) hits: u64,
    pub(super) not_stored: u64,
    pub(super) failed: u64,
    /// Of bodies.
    bytes: u64,
    /// Why answers were not stored, and how many.
    reasons: BTreeMap<String, u64>,
    /// The first that failed, with their URL.
    failures: Vec<String>,
}

impl Tally {
    pub(super) fn add(&mut self, url: &str, became: Became, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        match became {
            Became::Stored => self.stored += 1,
            Became::Hit => self.hits += 1,
            Became::NotStored(mut why) => {
                self.not_stored += 1;
                why.truncate(why.floor_char_boundary(WARM_REASON_BYTES));
                // Whoever answers says what it likes.
                if self.reasons.len() >= WARM_REASONS && !self.reasons.contains_key(&why) {
                    why = "other".to_owned();
                }
                *self.reasons.entry(why).or_default() += 1;
            }
            Became::Failed(why) => {
                self.failed += 1;
                if self.failures.len() < WARM_FAILURES {
                    self.failures.push(format!("{url}: {why}"));
                }
            }
        }
    }

    pub(super) fn asked(&self) -> u64 {
        self.stored + self.hits + self.not_stored + self.failed
    }

    /// In a line that is still going on.
    pub(super) fn brief(&self) -> String {
        let Self { stored, hits, not_stored, failed, .. } = self;
        format!("hit {hits}, stored {stored}, not stored {not_stored}, failed {failed}")
    }

    pub(super) fn to_text(&self, seconds: f64) -> String {
        let rate = self.rate(seconds);
        let mut text = format!("asked {} in {seconds:.1} s, {rate:.1} a second, {}\n", self.asked(), size(self.bytes));
        text.push_str(&format!("stored {}, hit already {}\n", self.stored, self.hits));
        if self.not_stored > 0 {
            let mut reasons: Vec<_> = self.reasons.iter().collect();
            reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let reasons: Vec<_> = reasons.iter().map(|(why, count)| format!("{why} {count}")).collect();
            text.push_str(&format!("not stored {}: {}\n", self.not_stored, reasons.join(", ")));
        }
        if self.failed > 0 {
            text.push_str(&format!("failed {}, the first of them:\n", self.failed));
            self.failures.iter().for_each(|failure| text.push_str(&format!("  {failure}\n")));
        }
        text
    }

    pub(super) fn to_json(&self, seconds: f64) -> Value {
        json!({
            "asked": self.asked(),
            "seconds": seconds,
            "bytes": self.bytes,
            "stored": self.stored,
            "hit": self.hits,
            "not_stored": self.not_stored,
            "reasons": self.reasons,
            "failed": self.failed,
            "failures": self.failures,
        })
    }

    /// Requests a second.
    pub(super) fn rate(&self, seconds: f64) -> f64 {
        self.asked() as f64 / seconds.max(0.001)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_gateway_says_is_understood() {
        let not = |why: &str| Became::NotStored(why.to_owned());
        for (status, text, became) in [
            (200, "sumun; hit; ttl=57", Became::Hit),
            (200, "sumun; hit; ttl=-5", Became::Hit),
            (200, "sumun; fwd=uri-miss; stored", Became::Stored),
            (301, "sumun; fwd=uri-miss; stored; collapsed", Became::Stored),
            (200, "sumun; fwd=stale; fwd-status=304; stored", Became::Stored),
            (200, "sumun; fwd=stale; fwd-status=503; stored", not("stale, the server answers 503")),
            (200, "sumun; fwd=uri-miss; detail=set-cookie", not("set-cookie")),
            (200, "sumun; fwd=bypass", not("bypass")),
            (200, "origin; hit, sumun; fwd=uri-miss; stored", Became::Stored),
            (200, "sumun; hit, other; hit", Became::Hit),
            (200, "other; hit", not("not cached by its route")),
            (200, "", not("not cached by its route")),
            (200, "sumun; \u{1}", not("not cached by its route")),
            (404, "sumun; hit; ttl=57", Became::Failed("status 404".to_owned())),
        ] {
            assert_eq!(Became::of(status, text.as_bytes()), became, "{text}");
        }
    }

    #[test]
    fn the_summary_is_short() {
        let mut tally = Tally::default();
        tally.add("http://a/", Became::Stored, 2048);
        tally.add("http://a/", Became::Hit, 0);
        for number in 0..200 {
            tally.add("http://a/", Became::NotStored(format!("{number}{}", "x".repeat(1000))), 0);
            tally.add(&format!("http://a/{number}"), Became::Failed("status 500".to_owned()), 0);
        }
        let text = tally.to_text(10.0);
        assert!(text.starts_with("asked 402 in 10.0 s, 40.2 a second, 2.0 KiB\nstored 1, hit already 1\n"), "{text}");
        assert!(text.contains("not stored 200: other "), "{text}");
        assert!(text.contains("failed 200, the first of them:\n  http://a/0: status 500\n"), "{text}");
        assert!(text.len() < 8000, "{}", text.len());
        assert_eq!(tally.to_json(10.0)["failures"].as_array().map(Vec::len), Some(WARM_FAILURES));
    }
}
