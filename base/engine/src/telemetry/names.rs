//! Names of families that one service gives and another reads.

/// Counter with `listener`, `route` and `status` (`2xx`; `none` where nothing was answered).
pub const HTTP_REQUESTS: &str = "sumun_http_requests_total";

/// Histogram with `listener` and `route`.
pub const HTTP_SECONDS: &str = "sumun_http_request_seconds";

/// Counter with `listener`, `route` and `side`: whose doing the end of a request was.
pub const HTTP_ENDED: &str = "sumun_http_ended_total";

/// Counter with `listener`, `reason` and `side`: connections and flows of L4 listeners.
pub const STREAM_ENDED: &str = "sumun_stream_ended_total";

/// Gauge with `listener`.
pub const LISTENER_REFUSED: &str = "sumun_listener_connections_refused_total";
pub const LISTENER_CONNECTIONS: &str = "sumun_listener_connections";
