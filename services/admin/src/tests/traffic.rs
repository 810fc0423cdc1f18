//! Who asks for what, and who is blocked.

use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;

use super::Fixture;
use crate::{BlockRow, Traffic, TrafficRow};

pub(super) fn traffic() -> oneshot::Receiver<Traffic> {
    let (sender, receiver) = oneshot::channel();
    let row = |name: &str, count, over, errors| TrafficRow { name: name.into(), count, over, errors, bytes_sent: 5 };
    let traffic = Traffic {
        window: Duration::from_millis(83_400),
        requests: 300,
        clients: vec![row("203.0.113.7", 100, 20, 60), row("\u{1b}", 7, 9, 0)],
        ..Traffic::default()
    };
    sender.send(traffic).unwrap();
    receiver
}

pub(super) fn blocked() -> BlockRow {
    let left = Duration::from_millis(1500);
    BlockRow { client: "203.0.113.7".into(), reason: "3 answers of 404 within 10s".into(), left, closes: true }
}

#[tokio::test]
async fn the_top_has_shares() {
    let fixture = Fixture::new(None);
    let body = fixture.get("/api/v1/traffic").await.json();
    assert_eq!((&body["window_seconds"], &body["requests"]), (&json!(83.0), &json!(300)));
    let expected = json!({
        "name": "203.0.113.7", "count": 100, "count_error": 20, "share": 0.333, "error_share": 0.75, "bytes_sent": 5
    });
    assert_eq!(body["clients"][0], expected);
    assert_eq!((&body["clients"][1]["error_share"], &body["paths"]), (&json!(0.0), &json!([])));
}

#[tokio::test]
async fn blocks_are_listed_and_lifted() {
    let fixture = Fixture::new(None);
    let body = fixture.get("/api/v1/blocks").await.json();
    assert_eq!((&body[0]["client"], &body[0]["do"]), (&json!("203.0.113.7"), &json!("close")));
    assert_eq!((&body[0]["reason"], &body[0]["seconds_left"]), (&json!("3 answers of 404 within 10s"), &json!(2)));
    for (path, status) in [("203.0.113.7", 200), ("203.0.113.8", 404), ("2001:db8::%2F64", 404), ("a", 400)] {
        let answer = fixture.send("DELETE", &format!("/api/v1/blocks/{path}"), "").await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
    }
    assert_eq!(fixture.get("/api/v1/blocks/203.0.113.7").await.field("Allow"), Some("DELETE"));
}
