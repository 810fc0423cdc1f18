//! The cache as text.

use serde_json::Value;

use super::text;
use crate::table::{Cell, render};

/// GET /api/v1/cache
pub(in crate::commands) fn report(body: &Value) -> String {
    let number = |pointer: &str| body.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let answered = number("/requests/hit") + number("/requests/stale");
    let all = answered + number("/requests/miss") + number("/requests/collapsed") + number("/requests/pass");
    let share = if all == 0 { 0.0 } else { answered as f64 / all as f64 * 100.0 };
    format!(
        "memory: {} of {}, entries {}, evicted {}\n\
         requests: {all}, of them from the cache {share:.1}% (hit {}, stale {}), fetched {}, waited for such a one {}, past the cache {}\n\
         answers: stored {}, still right {}\n",
        size(number("/memory/bytes")),
        size(number("/memory/room")),
        number("/memory/entries"),
        number("/memory/evicted"),
        number("/requests/hit"),
        number("/requests/stale"),
        number("/requests/miss"),
        number("/requests/collapsed"),
        number("/requests/pass"),
        number("/stored"),
        number("/revalidated"),
    )
}

/// POST /api/v1/cache/get
pub(in crate::commands) fn found(body: &Value, coloured: bool) -> String {
    let all = body.as_array().map(Vec::as_slice).unwrap_or_default();
    if all.is_empty() {
        return "no route caches\n".to_owned();
    }
    let lines: Vec<Vec<Cell>> = all.iter().map(|row| vec![text(row, "key"), explained(row).into()]).collect();
    render(&["key", "what is there"], &lines, coloured)
}

/// In words.
fn explained(row: &Value) -> String {
    let word = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
    let number = |key: &str| row.get(key).and_then(Value::as_i64).unwrap_or_default();
    match word("state") {
        "nothing" => "nothing is stored".to_owned(),
        "arriving" => "it is being fetched".to_owned(),
        "pass" => format!("not stored: {}", word("why")),
        "varies" => format!("answers differ by {}: give --header, none is stored without", word("vary")),
        state => {
            let ttl = number("ttl");
            let left = if ttl > 0 { format!("for {ttl} s") } else { format!("since {} s", -ttl) };
            let vary = if word("vary").is_empty() { String::new() } else { format!(", varies by {}", word("vary")) };
            let etag = if word("etag").is_empty() { String::new() } else { format!(", etag {}", word("etag")) };
            let place = match word("where") {
                "disk" => "on disk",
                "slices" => "in slices",
                "memory and disk" => "in memory and on disk",
                _ => "in memory",
            };
            format!(
                "status {}, {state} {left}, age {} s, {}{etag}{vary}, {place}",
                number("status"),
                number("age"),
                size(number("bytes").unsigned_abs()),
            )
        }
    }
}

pub(in crate::commands) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len()).rev().find(|unit| bytes >> (10 * unit) > 0).unwrap_or(0);
    let value = bytes as f64 / (1_u64 << (10 * unit)) as f64;
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_report_says_how_much_it_saves() {
        let body = json!({
            "memory": {"room": 268_435_456_u64, "bytes": 1536, "entries": 2, "evicted": 0},
            "requests": {"hit": 70, "stale": 5, "miss": 20, "collapsed": 1, "pass": 4},
            "stored": 20, "revalidated": 3
        });
        let text = report(&body);
        assert!(text.starts_with("memory: 1.5 KiB of 256.0 MiB, entries 2, evicted 0\n"), "{text}");
        assert!(text.contains("requests: 100, of them from the cache 75.0% (hit 70, stale 5)"), "{text}");
    }

    #[test]
    fn what_is_there_is_explained() {
        let body = json!([
            {"key": "http://a/", "state": "fresh", "status": 200, "age": 3, "ttl": 57, "bytes": 10, "etag": "\"x\"", "vary": "accept", "where": "memory"},
            {"key": "http://b/", "state": "stale", "status": 200, "age": 9, "ttl": -2, "bytes": 2048, "where": "disk"},
            {"key": "http:///", "state": "pass", "why": "set-cookie"}
        ]);
        let text = found(&body, false);
        assert!(
            text.contains("status 200, fresh for 57 s, age 3 s, 10 B, etag \"x\", varies by accept, in memory"),
            "{text}"
        );
        assert!(text.contains("stale since 2 s, age 9 s, 2.0 KiB, on disk"), "{text}");
        assert!(text.contains("not stored: set-cookie"), "{text}");
        assert_eq!(found(&json!([]), false), "no route caches\n");
    }
}
