//! Traffic and blocks as tables.

use serde_json::Value;

use super::{rows, text};
use crate::table::{Cell, Tone, render};

/// Errors above this share of a row's requests stand out.
const MANY_ERRORS: f64 = 0.5;

/// GET /api/v1/traffic
pub(in crate::commands) fn traffic(body: &Value, coloured: bool) -> String {
    let number = |key: &str| text(body, key).text;
    let mut out = format!(
        "last {} s: requests {}, errors {}, bytes sent {}\n",
        body.get("window_seconds").and_then(Value::as_f64).unwrap_or(0.0),
        number("requests"),
        number("errors"),
        number("bytes_sent"),
    );
    let tops =
        [("clients", "client"), ("networks", "network"), ("systems", "system"), ("paths", "path"), ("agents", "agent")];
    for (key, title) in tops {
        let lines = rows(body, key, |row| {
            vec![
                text(row, "count"),
                text(row, "count_error"),
                share(row, "share", f64::INFINITY),
                share(row, "error_share", MANY_ERRORS),
                text(row, "bytes_sent"),
                text(row, "name"),
            ]
        });
        // Without a table of systems there are none.
        if key == "systems" && lines.is_empty() {
            continue;
        }
        let head = ["requests", "of them unsure", "share", "errors", "bytes sent", title];
        out.push('\n');
        out.push_str(&render(&head, &lines, coloured));
    }
    out
}

/// GET /api/v1/blocks
pub(in crate::commands) fn blocks(body: &Value, coloured: bool) -> String {
    let all = body.as_array().map(Vec::as_slice).unwrap_or_default();
    let lines: Vec<Vec<Cell>> = all
        .iter()
        .map(|row| {
            let left = row.get("seconds_left").and_then(Value::as_u64).map_or_else(|| "-".to_owned(), super::uptime);
            vec![text(row, "client"), left.into(), text(row, "do"), text(row, "reason")]
        })
        .collect();
    render(&["client", "left", "do", "reason"], &lines, coloured)
}

fn share(row: &Value, key: &str, many: f64) -> Cell {
    let Some(share) = row.get(key).and_then(Value::as_f64) else { return "-".into() };
    let tone = if share > many { Tone::Warning } else { Tone::Plain };
    Cell { text: format!("{:.1}%", share * 100.0), tone }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_top_is_a_table() {
        let row = |name: &str| json!({"name": name, "count": 42, "count_error": 2, "share": 0.125, "error_share": 0.9, "bytes_sent": 7});
        let body = json!({
            "window_seconds": 83.0, "requests": 336, "errors": 40, "bytes_sent": 99,
            "clients": [row("203.0.113.7")], "networks": [], "paths": [row("/login")], "agents": [row("")]
        });
        let table = traffic(&body, false);
        let expected = "\
last 83 s: requests 336, errors 40, bytes sent 99

requests  of them unsure  share  errors  bytes sent  client
      42               2  12.5%  90.0%            7  203.0.113.7
";
        assert!(table.starts_with(expected), "{table}");
        assert!(table.ends_with("agent\n      42               2  12.5%  90.0%            7  -\n"), "{table}");
        assert!(traffic(&body, true).contains("\u{1b}[33m90.0%\u{1b}[0m"));
    }

    #[test]
    fn blocks_say_why_and_for_how_long() {
        let body = json!([{"client": "203.0.113.7", "seconds_left": 65, "do": "refuse", "reason": "3 answers of 404"}]);
        assert_eq!(
            blocks(&body, false),
            "client       left   do      reason\n203.0.113.7  1m 5s  refuse  3 answers of 404\n"
        );
        for other in [json!(null), json!([1]), json!({"clients": 3})] {
            traffic(&other, false);
            blocks(&other, false);
        }
    }
}
