//! The API's answers as tables.

mod cache;
mod traffic;
mod volumes;

use serde_json::Value;

pub(super) use cache::size;
pub(super) use cache::{found as cache_found, report as cache};
pub(super) use traffic::{blocks, traffic};
pub(super) use volumes::volumes;

use crate::table::{Cell, Tone, render};

/// GET /api/v1/status
pub(super) fn status(body: &Value, coloured: bool) -> String {
    let listeners = rows(body, "listeners", |listener| {
        let bind: Vec<&str> = list(listener, "bind").iter().filter_map(Value::as_str).collect();
        vec![text(listener, "name"), bind.join(", ").into(), text(listener, "connections"), served(listener)]
    });
    let pools = rows(body, "pools", |pool| {
        let up = up_of_all(pool.get("servers_up"), pool.get("servers"));
        vec![text(pool, "name"), up, text(pool, "in_flight"), text(pool, "concurrency"), text(pool, "queued")]
    });
    let rooms = rows(body, "waiting_rooms", |room| {
        ["listener", "route", "waiting", "active", "admitted"].map(|key| text(room, key)).into()
    });
    let rooms = if rooms.is_empty() {
        String::new()
    } else {
        let head = ["listener", "waiting room", "waiting", "inside", "admitted"];
        format!("\n{}", render(&head, &rooms, coloured))
    };
    let certificates = rows(body, "certificates", certificate);
    let certificates = if certificates.is_empty() {
        String::new()
    } else {
        let head = ["certificate", "authority", "state", "expires", "next try", "failures", "last error"];
        format!("\n{}", render(&head, &certificates, coloured))
    };
    let seconds = body.get("uptime_seconds").and_then(Value::as_u64).unwrap_or(0);
    format!(
        "sumun {}, process {}, up {}, workers {}, requests {}, errors {}\nsandbox: {}\n{}\n{}\n{}{rooms}{certificates}",
        text(body, "version").text,
        text(body, "pid").text,
        uptime(seconds),
        text(body, "workers").text,
        text(body, "requests").text,
        errors(body),
        text(body, "sandbox").text,
        own_limits(body),
        render(&["listener", "bind", "connections", "requests"], &listeners, coloured),
        render(&["pool", "servers up", "in flight", "limit", "queued"], &pools, coloured),
    )
}

/// A line while something is given up to stay within own limits.
fn own_limits(body: &Value) -> String {
    let Some(given_up) = body.pointer("/own_limits/given_up").and_then(Value::as_str) else { return String::new() };
    let used = body.pointer("/own_limits/used").and_then(Value::as_object);
    let percent = |share: &Value| share.as_f64().unwrap_or(0.0) * 100.0;
    let parts = used.into_iter().flatten().map(|(resource, share)| format!("{resource} {:.0} %", percent(share)));
    format!("own limits: {given_up} ({})\n", parts.collect::<Vec<_>>().join(", "))
}

/// Requests of an HTTP listener; of one that passes connections or datagrams on, those that have ended.
fn served(listener: &Value) -> Cell {
    match listener.get("ended") {
        Some(ended) => format!("{ended} ended").into(),
        None => text(listener, "requests"),
    }
}

/// One that is obtained by the instance itself.
fn certificate(row: &Value) -> Vec<Cell> {
    let state = text(row, "state");
    let tone = match state.text.as_str() {
        "valid" => Tone::Good,
        "expired" => Tone::Bad,
        _ => Tone::Warning,
    };
    let domains: Vec<&str> = list(row, "domains").iter().filter_map(Value::as_str).collect();
    let moment = |key: &str| match row.get(key).and_then(Value::as_u64) {
        Some(seconds) => sumun_certificates::moment(seconds).into(),
        None => Cell::from("-"),
    };
    vec![
        domains.join(", ").into(),
        text(row, "authority"),
        Cell { tone, ..state },
        moment("expires"),
        moment("next_try"),
        text(row, "failures"),
        text(row, "error"),
    ]
}

/// GET /api/v1/pools: a line for each pool, then its servers.
pub(super) fn pools(body: &Value, coloured: bool) -> String {
    let all = body.as_array().map(Vec::as_slice).unwrap_or_default();
    let lines: Vec<Vec<Cell>> = all
        .iter()
        .map(|pool| {
            let servers = list(pool, "servers");
            let is_up = |server: &&Value| server.get("state").and_then(Value::as_str) == Some("up");
            let up = servers.iter().filter(is_up).count();
            vec![
                text(pool, "name"),
                text(pool, "balance"),
                up_of_all(Some(&up.into()), Some(&servers.len().into())),
                text(pool, "in_flight"),
                text(pool, "queued"),
            ]
        })
        .collect();
    let head = ["pool", "balance", "servers up", "in flight", "queued"];
    format!("{}\n{}", render(&head, &lines, coloured), servers(body, coloured))
}

/// The servers of all pools in the answer.
pub(super) fn servers(body: &Value, coloured: bool) -> String {
    let all = body.as_array().map(Vec::as_slice).unwrap_or_default();
    let lines: Vec<Vec<Cell>> = all
        .iter()
        .flat_map(|pool| {
            rows(pool, "servers", |server| {
                vec![
                    text(pool, "name"),
                    text(server, "name"),
                    text(server, "address"),
                    state(server),
                    text(server, "weight"),
                    text(server, "in_flight"),
                    text(server, "requests"),
                    text(server, "failures"),
                    text(server, "reason"),
                ]
            })
        })
        .collect();
    let head = ["pool", "server", "address", "state", "weight", "in flight", "requests", "failures", "reason"];
    render(&head, &lines, coloured)
}

fn rows(body: &Value, key: &str, row: impl Fn(&Value) -> Vec<Cell>) -> Vec<Vec<Cell>> {
    list(body, key).iter().map(row).collect()
}

fn list<'a>(body: &'a Value, key: &str) -> &'a [Value] {
    body.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A text or number as it is; what is missing shows as `-`.
fn text(body: &Value, key: &str) -> Cell {
    match body.get(key) {
        Some(Value::String(text)) if !text.is_empty() => text.into(),
        Some(Value::Number(number)) => number.into(),
        _ => "-".into(),
    }
}

/// Failed requests by whose doing it was: `client 1, server 2`; `0` where none failed.
fn errors(body: &Value) -> String {
    let sides = body.get("errors").and_then(Value::as_object);
    let counted = sides.into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
    let parts: Vec<String> = counted.map(|(side, count)| format!("{side} {count}")).collect();
    if parts.is_empty() { "0".to_owned() } else { parts.join(", ") }
}

fn state(server: &Value) -> Cell {
    let cell = text(server, "state");
    let tone = match cell.text.as_str() {
        "up" => Tone::Good,
        "draining" | "disabled" => Tone::Warning,
        _ => Tone::Bad,
    };
    Cell { tone, ..cell }
}

fn up_of_all(up: Option<&Value>, all: Option<&Value>) -> Cell {
    let (up, all) = (up.and_then(Value::as_u64), all.and_then(Value::as_u64));
    let (Some(up), Some(all)) = (up, all) else {
        return "-".into();
    };
    let tone = match up {
        0 => Tone::Bad,
        up if up < all => Tone::Warning,
        _ => Tone::Good,
    };
    Cell { text: format!("{up} of {all}"), tone }
}

/// `3d 4h`, `4h 5m`, `5m 6s`, `6s`.
fn uptime(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_readable() {
        let mut body = json!({
            "version": "0.1.0", "pid": 7, "uptime_seconds": 3725, "workers": 2,
            "sandbox": "landlock 7, seccomp, user nobody",
            "listeners": [{"name": "web", "bind": ["0.0.0.0:80", "[::]:80"], "connections": 5, "requests": 1000}],
            "pools": [{"name": "app", "servers_up": 1, "servers": 2, "in_flight": 8, "concurrency": 11, "queued": 40}],
            "own_limits": {"used": {"cpu": 0.2, "descriptors": 0.83}, "given_up": null}, "waiting_rooms": [],
            "requests": 1000, "errors": {"client": 1, "config": 0, "host": 0, "server": 2}
        });
        let expected = "\
sumun 0.1.0, process 7, up 1h 2m, workers 2, requests 1000, errors client 1, server 2
sandbox: landlock 7, seccomp, user nobody

listener  bind                 connections  requests
web       0.0.0.0:80, [::]:80            5      1000

pool  servers up  in flight  limit  queued
app   1 of 2              8     11      40
";
        assert_eq!(status(&body, false), expected);
        body["own_limits"]["given_up"] = json!("priority low is refused");
        body["listeners"][0] = json!({"name": "dns", "bind": ["0.0.0.0:53/udp"], "connections": 5, "ended": 17});
        body["waiting_rooms"] =
            json!([{"listener": "web", "route": "/sale/", "waiting": 9, "active": 5, "admitted": 70}]);
        for line in [
            "sandbox: landlock 7, seccomp, user nobody\nown limits: priority low is refused (cpu 20 %, descriptors 83 %)\n\n",
            "dns       0.0.0.0:53/udp            5  17 ended\n",
            "\nweb       /sale/              9       5        70\n",
        ] {
            assert!(status(&body, false).contains(line), "{}", status(&body, false));
        }
        body["certificates"] = json!([{
            "name": "a.example-01", "domains": ["a.example", "b.example"], "authority": "acme.example",
            "state": "waiting", "expires": null, "next_try": 1_800_000_000, "failures": 2, "error": "no connection"
        }]);
        let line =
            "a.example, b.example  acme.example  waiting  -        2027-01-15 08:00 UTC         2  no connection";
        assert!(status(&body, false).contains(line), "{}", status(&body, false));
    }

    #[test]
    fn pools_show_their_servers_and_why_they_are_down() {
        let body = json!([{
            "name": "app", "balance": "p2c", "in_flight": 3, "queued": 0,
            "servers": [
                {"name": "a", "address": "127.0.0.1:1", "state": "up", "reason": "", "weight": 1,
                 "in_flight": 3, "requests": 10, "failures": 0},
                {"name": "b", "address": "127.0.0.1:2", "state": "down", "reason": "connection refused",
                 "weight": 2, "in_flight": 0, "requests": 4, "failures": 4},
            ]
        }]);
        let text = pools(&body, false);
        assert!(text.contains("app   p2c      1 of 2              3       0"), "{text}");
        assert!(text.contains("down        2          0         4         4  connection refused"), "{text}");
        assert!(pools(&body, true).contains("\u{1b}[31mdown\u{1b}[0m"));
    }

    #[test]
    fn an_answer_of_another_shape_does_not_hurt() {
        for body in [json!(null), json!([1, "a"]), json!({"listeners": 3, "pools": [{}]})] {
            status(&body, false);
            pools(&body, false);
        }
    }
}
