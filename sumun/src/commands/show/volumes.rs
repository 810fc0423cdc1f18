//! Physical volumes and volumes of the cache as text.

use serde_json::Value;

use super::cache::size;
use super::{rows, text};
use crate::table::{Cell, Tone, render};

/// GET /api/v1/volumes
pub(in crate::commands) fn volumes(body: &Value, coloured: bool) -> String {
    let Some(group) = body.get("group").filter(|group| !group.is_null()) else {
        return "no volumes: the cache is in memory\n".to_owned();
    };
    let physical = rows(body, "physical_volumes", physical_volume);
    let logical = rows(body, "volumes", |volume| {
        vec![text(volume, "name"), size(number(volume, "bytes")).into(), text(volume, "objects")]
    });
    let problem = group.get("problem").and_then(Value::as_str).map(|problem| format!(": {problem}"));
    format!(
        "group {}, {}{}\n\n{}\n{}",
        text(group, "id").text,
        text(group, "state").text,
        problem.unwrap_or_default(),
        render(
            &[
                "physical volume",
                "state",
                "size",
                "free",
                "extent",
                "read errors",
                "slow writes",
                "not stored",
                "problem"
            ],
            &physical,
            coloured,
        ),
        render(&["volume", "size", "objects"], &logical, coloured),
    )
}

fn physical_volume(volume: &Value) -> Vec<Cell> {
    let state = text(volume, "state");
    let tone = match state.text.as_str() {
        "working" => Tone::Good,
        "failed" => Tone::Bad,
        _ => Tone::Warning,
    };
    let extent = number(volume, "extent_bytes");
    vec![
        text(volume, "path"),
        Cell { tone, ..state },
        size(number(volume, "extents").saturating_mul(extent)).into(),
        size(number(volume, "free_extents").saturating_mul(extent)).into(),
        size(extent).into(),
        text(volume, "read_errors"),
        text(volume, "slow_writes"),
        text(volume, "not_stored"),
        text(volume, "problem"),
    ]
}

fn number(body: &Value, key: &str) -> u64 {
    body.get(key).and_then(Value::as_u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_are_listed() {
        let physical = |path: &str, state: &str, problem: Value| {
            json!({
                "path": path, "uuid": "u", "state": state, "problem": problem, "extent_bytes": 4 << 20,
                "extents": 2560, "free_extents": 256, "read_errors": 0, "slow_writes": 2, "not_stored": 0
            })
        };
        let body = json!({
            "group": { "id": "6f1e", "state": "open", "problem": null },
            "physical_volumes": [physical("/var/cache/sumun/a", "working", Value::Null), physical("/dev/sdb", "failed", json!("EIO"))],
            "volumes": [{ "name": "pages", "bytes": 2_u64 << 30, "objects": 1234 }]
        });
        let expected = "\
group 6f1e, open

physical volume     state    size      free     extent   read errors  slow writes  not stored  problem
/var/cache/sumun/a  working  10.0 GiB  1.0 GiB  4.0 MiB            0            2           0  -
/dev/sdb            failed   10.0 GiB  1.0 GiB  4.0 MiB            0            2           0  EIO

volume  size     objects
pages   2.0 GiB     1234
";
        assert_eq!(volumes(&body, false), expected);
        assert!(volumes(&body, true).contains("\u{1b}[31mfailed\u{1b}[0m"));
        let waiting = json!({ "group": { "id": "", "state": "waiting", "problem": "another process uses it" } });
        assert!(volumes(&waiting, false).starts_with("group -, waiting: another process uses it\n"));
        for none in [json!({ "group": null }), json!(null), json!([1])] {
            assert_eq!(volumes(&none, false), "no volumes: the cache is in memory\n");
        }
    }
}
