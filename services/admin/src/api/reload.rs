//! Reading the config file again, and going on in a new program.

use serde_json::json;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::Shared;
use crate::limits::RELOAD_TIMEOUT;
use crate::respond::Response;

pub(crate) async fn reload(shared: &Shared) -> Response {
    wait((shared.inputs.reload)(), "changed", "the reload is still going on").await
}

pub(crate) async fn upgrade(shared: &Shared) -> Response {
    wait((shared.inputs.upgrade)(), "upgraded", "the upgrade is still going on").await
}

async fn wait(result: oneshot::Receiver<Result<String, String>>, done: &str, too_late: &str) -> Response {
    match timeout(RELOAD_TIMEOUT, result).await {
        Ok(Ok(Ok(text))) => Response::json(&json!({ done: text })),
        Ok(Ok(Err(report))) => Response::json(&json!({ "report": report })).with_status(422),
        Ok(Err(_)) => Response::error(503, "this process is ending"),
        Err(_) => Response::error(504, too_late),
    }
}
