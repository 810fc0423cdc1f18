//! What is happening, in the few numbers of the live line.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// Sums since the start of the gateway, as the API tells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Figures {
    pub(super) requests: u64,
    /// Failures of a server, of the config or of the host; what a client broke off is none.
    pub(super) errors: u64,
    pub(super) servers_up: u64,
    pub(super) servers: u64,
}

/// Asks the running gateway; `None` while it does not answer.
pub(super) fn ask(control: &Path) -> Option<Figures> {
    let answer = crate::client::request(control, "GET", "/api/v1/status", None).ok()?;
    (answer.status == 200).then(|| Figures::of_status(&answer.body))
}

impl Figures {
    fn of_status(status: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let pools = status["pools"].as_array().map(Vec::as_slice).unwrap_or_default();
        let errors = status["errors"].as_object();
        Self {
            requests: number(&status["requests"]),
            errors: errors.map_or(0, |sides| {
                sides.iter().filter(|(side, _)| *side != "client").map(|(_, count)| number(count)).sum()
            }),
            servers_up: pools.iter().map(|pool| number(&pool["servers_up"])).sum(),
            servers: pools.iter().map(|pool| number(&pool["servers"])).sum(),
        }
    }

    pub(super) fn all_up(&self) -> bool {
        self.servers > 0 && self.servers_up == self.servers
    }

    /// One line; with the rate where earlier figures are known. A worker process that was started
    /// again counts from zero: its rate is zero for a moment, not huge.
    pub(super) fn line(&self, before: Option<(&Self, Duration)>) -> String {
        let rate = before.map_or(0.0, |(before, since)| {
            let requests = self.requests.saturating_sub(before.requests) as f64;
            if since.is_zero() { 0.0 } else { requests / since.as_secs_f64() }
        });
        let Self { requests, errors, servers_up, servers } = self;
        format!("{rate:.0} requests/s, {requests} in all, {errors} errors, {servers_up} of {servers} servers up")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_line_says_what_the_api_says() {
        let status = json!({
            "requests": 120,
            "errors": { "client": 7, "server": 1, "config": 1, "host": 0 },
            "pools": [{ "servers_up": 1, "servers": 2 }],
        });
        let figures = Figures::of_status(&status);
        assert_eq!(figures.line(None), "0 requests/s, 120 in all, 2 errors, 1 of 2 servers up");
        let before = Figures { requests: 20, ..figures };
        assert!(figures.line(Some((&before, Duration::from_secs(2)))).starts_with("50 requests/s"));
        let restarted = Figures { requests: 9, ..figures };
        assert!(restarted.line(Some((&figures, Duration::from_secs(1)))).starts_with("0 requests/s"));
        assert!(!figures.all_up());
    }

    #[test]
    fn an_api_that_says_nothing_is_no_trouble() {
        assert_eq!(Figures::of_status(&Value::Null), Figures::default());
    }
}
