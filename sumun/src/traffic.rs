//! What the gateway says of traffic and blocks, as the admin listener shows it.

use std::sync::Arc;
use std::time::Duration;

use sumun_admin::{BlockRow, Traffic, TrafficRow};
use sumun_gateway::{Blocked, Gateway, Row};
use tokio::sync::oneshot;

/// Asks the workers; has to be called on a runtime.
pub(crate) fn ask(gateway: &Arc<Gateway>) -> oneshot::Receiver<Traffic> {
    let (sender, receiver) = oneshot::channel();
    let gateway = Arc::clone(gateway);
    tokio::spawn(async move {
        let seen = gateway.traffic().await;
        let rows = |rows: Vec<Row>| rows.into_iter().map(row).collect();
        let traffic = Traffic {
            window: Duration::from_millis(seen.window_ms),
            requests: seen.totals.requests,
            errors: seen.totals.errors,
            bytes_sent: seen.totals.bytes,
            clients: rows(seen.clients),
            networks: rows(seen.networks),
            systems: rows(seen.systems),
            paths: rows(seen.paths),
            agents: rows(seen.agents),
        };
        // Who asked may have given up.
        sender.send(traffic).ok();
    });
    receiver
}

fn row(row: Row) -> TrafficRow {
    TrafficRow { name: row.name, count: row.count, over: row.over, errors: row.errors, bytes_sent: row.bytes }
}

pub(crate) fn blocks(gateway: &Gateway) -> Vec<BlockRow> {
    let row = |Blocked { client, reason, left, closes }| BlockRow { client, reason, left, closes };
    gateway.blocks().into_iter().map(row).collect()
}
