//! Bounds of the admin listener; each says what happens when it is reached.

use std::time::Duration;

/// Connections of the admin listener at once, and as many of the control socket. Further ones wait
/// in the kernel's queue until one ends.
pub const CONNECTIONS: usize = 64;

/// A request head; a larger one is refused with 431.
pub const HEAD_BYTES: usize = 16 * 1024;

/// A request line; a longer one is refused with 414.
pub const LINE_BYTES: usize = 8 * 1024;

/// Header fields of a request; more are refused with 431.
pub const FIELDS: usize = 100;

/// A request body; a larger one is refused with 413.
pub const BODY_BYTES: usize = 64 * 1024;

/// A whole request has to be here within this, and its answer to be taken; the connection is
/// closed else. A kept connection is closed after as long without a request.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// A reload or upgrade that takes longer is answered with 504; it goes on.
pub const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Blocked clients that are listed; the metric counts all.
pub const BLOCKS_LISTED: usize = 1000;

/// Workers that do not say within this what they have seen are answered for with 504.
pub const TRAFFIC_TIMEOUT: Duration = Duration::from_secs(2);

/// After the last answer, what the client still sends is thrown away for so long,
pub const LINGER: Duration = Duration::from_secs(2);

/// and up to so many bytes: closing at once could take the answer away from it.
pub const LINGER_BYTES: usize = 256 * 1024;

/// After an accept that failed for want of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
