//! What the binary says of itself, and what the API makes of it.

use serde_json::{Value, json};

use crate::{CertificateRow, ListenerRow, OwnLimitsRow, RoomRow, Status};

pub(super) fn status() -> Status {
    let listener =
        |name: &str, bind: &str, is_stream| ListenerRow { name: name.into(), bind: vec![bind.to_owned()], is_stream };
    Status {
        workers: 2,
        sandbox: "landlock 7, seccomp, user nobody".to_owned(),
        listeners: vec![listener("web", "127.0.0.1:8080", false), listener("dns", "127.0.0.1:53/udp", true)],
        waiting_rooms: vec![RoomRow {
            listener: "web".into(),
            route: "/sale/".into(),
            waiting: 9,
            active: 5,
            admitted: 70,
        }],
        own_limits: OwnLimitsRow {
            used_permille: vec![("descriptors", 830), ("cpu", 4)],
            given_up: Some("priority low is refused".to_owned()),
        },
        certificates: vec![CertificateRow {
            name: "a.example-01".to_owned(),
            domains: vec!["a.example".to_owned()],
            authority: "acme.example".to_owned(),
            state: "waiting",
            expires: None,
            next_try: Some(1_800_000_000),
            failures: 2,
            error: Some("no connection".to_owned()),
        }],
    }
}

/// The same in JSON, with what the families count.
pub(super) fn expected() -> Value {
    json!({
        "version": "1.2.3", "pid": std::process::id(), "uptime_seconds": 0, "workers": 2, "draining": false,
        "sandbox": "landlock 7, seccomp, user nobody",
        "listeners": [
            {"name": "web", "bind": ["127.0.0.1:8080"], "connections": 3, "requests": 10},
            {"name": "dns", "bind": ["127.0.0.1:53/udp"], "connections": 0, "ended": 0},
        ],
        "pools": [{
            "name": "app", "servers_up": 2, "servers": 2, "in_flight": 0, "concurrency": null, "queued": 0, "shed": 0,
        }],
        "waiting_rooms": [{"listener": "web", "route": "/sale/", "waiting": 9, "active": 5, "admitted": 70}],
        "own_limits": {"used": {"descriptors": 0.83, "cpu": 0.004}, "given_up": "priority low is refused"},
        "certificates": [{
            "name": "a.example-01", "domains": ["a.example"], "authority": "acme.example", "state": "waiting",
            "expires": null, "next_try": 1_800_000_000, "failures": 2, "error": "no connection",
        }],
        "requests": 15,
        "errors": {"client": 0, "server": 2, "config": 0, "host": 0},
    })
}
