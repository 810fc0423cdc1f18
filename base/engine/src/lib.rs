//! What every service runs on: workers, buffers, deadlines, counters, accepting, lifecycle, logs.
//!
//! A worker is one thread with one single-threaded event loop. What lives in `buffers`,
//! `deadlines` and `clock` belongs to exactly one worker and is reached without a lock. `counters`
//! are written by one worker and read by anybody.

pub mod accept;
pub mod access_log;
pub mod acme;
pub mod buffers;
pub mod clock;
pub mod counters;
pub mod deadlines;
pub mod kept;
pub mod lifecycle;
pub mod limits;
pub mod listening;
pub mod own_limits;
pub mod pace;
pub mod pipes;
pub mod preface;
pub mod rooms;
pub mod socket;
pub mod telemetry;
pub mod tls;
pub mod worker;

pub use buffers::Lease;
pub use clock::Clock;
pub use counters::{Counter, Histogram};
pub use deadlines::{Deadline, Deadlines};
pub use own_limits::OwnLimits;
pub use worker::Worker;
