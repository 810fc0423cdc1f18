//! The admin listener: status page, API, metrics.
