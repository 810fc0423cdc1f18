//! Reading the config file again.

use serde_json::json;
use tokio::time::timeout;

use crate::Shared;
use crate::limits::RELOAD_TIMEOUT;
use crate::respond::Response;

pub(crate) async fn reload(shared: &Shared) -> Response {
    match timeout(RELOAD_TIMEOUT, (shared.inputs.reload)()).await {
        Ok(Ok(Ok(changed))) => Response::json(&json!({ "changed": changed })),
        Ok(Ok(Err(report))) => Response::json(&json!({ "report": report })).with_status(422),
        Ok(Err(_)) => Response::error(503, "this process is ending"),
        Err(_) => Response::error(504, "the reload is still going on"),
    }
}
