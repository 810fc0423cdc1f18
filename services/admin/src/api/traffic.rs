//! Who asks for what, and who is blocked.

use std::net::IpAddr;

use serde_json::{Value as Json, json};
use tokio::time::timeout;

use crate::limits::{BLOCKS_LISTED, TRAFFIC_TIMEOUT};
use crate::respond::Response;
use crate::{Shared, Traffic, TrafficRow};

/// `GET /api/v1/traffic`
pub(crate) async fn traffic(shared: &Shared) -> Response {
    match timeout(TRAFFIC_TIMEOUT, (shared.inputs.traffic)()).await {
        Ok(Ok(traffic)) => Response::json(&as_json(&traffic)),
        Ok(Err(_)) => Response::error(503, "this process is ending"),
        Err(_) => Response::error(504, "the workers do not answer"),
    }
}

fn as_json(traffic: &Traffic) -> Json {
    let rows = |rows: &[TrafficRow]| rows.iter().map(|row| row_as_json(row, traffic.requests)).collect::<Json>();
    json!({
        "window_seconds": traffic.window.as_secs_f64().round(),
        "requests": traffic.requests,
        "errors": traffic.errors,
        "bytes_sent": traffic.bytes_sent,
        "clients": rows(&traffic.clients),
        "networks": rows(&traffic.networks),
        "systems": rows(&traffic.systems),
        "paths": rows(&traffic.paths),
        "agents": rows(&traffic.agents),
    })
}

fn row_as_json(row: &TrafficRow, requests: u64) -> Json {
    json!({
        "name": row.name,
        "count": row.count,
        "count_error": row.over,
        "share": share(row.count, requests),
        // Errors are known of what was seen since the name has its place.
        "error_share": share(row.errors, row.count - row.over.min(row.count)),
        "bytes_sent": row.bytes_sent,
    })
}

/// In thousandths, at most 1.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { (part as f64 / whole as f64 * 1000.0).round().min(1000.0) / 1000.0 }
}

/// `GET /api/v1/blocks`
pub(crate) fn blocks(shared: &Shared) -> Json {
    let now = std::time::SystemTime::now();
    let rows = (shared.inputs.blocks)().into_iter().take(BLOCKS_LISTED).map(|row| {
        let until = (now + row.left).duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
        json!({
            "client": row.client,
            "reason": &*row.reason,
            "do": if row.closes { "close" } else { "refuse" },
            "until": until,
            "seconds_left": row.left.as_millis().div_ceil(1000) as u64,
        })
    });
    rows.collect()
}

/// `DELETE /api/v1/blocks/ADDRESS`
pub(crate) fn lift(shared: &Shared, client: &str) -> Response {
    // As it is listed, or any address of the network.
    let Ok(address) = client.strip_suffix("/64").unwrap_or(client).parse::<IpAddr>() else {
        return Response::error(400, &format!("{client} is no address"));
    };
    if !(shared.inputs.lift)(address) {
        return Response::error(404, &format!("{client} is not blocked"));
    }
    tracing::info!("the block of {client} was lifted");
    Response::json(&json!({ "lifted": client }))
}
