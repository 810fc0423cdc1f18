//! Bounds, each with its unit and what happens at it.

use std::time::Duration;

/// Head of an answer of an authority, bytes; a longer one is no answer.
pub const HEAD_BYTES: usize = 32 * 1024;

/// Body of an answer, bytes; a longer one is no answer.
pub const BODY_BYTES: usize = 128 * 1024;

/// A chain with its key, bytes: what is kept of it has to fit a message to the supervisor.
pub const CHAIN_BYTES: usize = 32 * 1024;

/// One request from the look-up of the name to the last byte of the answer.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// One address of the authority's has this long to take a connection before the next is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Addresses of the authority's that are tried for one request.
pub const ADDRESSES: usize = 4;

/// Requests of one order that wait for each other.
pub const WAITING_REQUESTS: usize = 4;

/// How long an order is waited for at a stretch; then it is left with the authority, and looked
/// at again later.
pub const ORDER_PATIENCE: Duration = Duration::from_secs(120);

/// First pause between two looks at an order; it grows by half each time.
pub const LOOK_PAUSE: Duration = Duration::from_millis(500);

/// Times that a request is made again because the authority did not like its nonce, each of three
/// tries of the library's.
pub const NONCE_ROUNDS: usize = 4;

/// Orders of different certificates at the same time; others wait.
pub const ORDERS_AT_ONCE: usize = 4;

/// The wall clock is looked at again after this long, since it may be set meanwhile.
pub const CLOCK_LOOK: Duration = Duration::from_secs(60);

/// Hosts of one directory, by name, with which sessions of TLS are remembered: an authority may
/// spread its URLs.
pub const HOSTS: usize = 4;

/// Text of an authority in a log line or in what is kept, bytes; the rest is cut off.
pub const REASON_BYTES: usize = 1024;

/// URL of an order, bytes; a longer one is no answer.
pub const ORDER_URL_BYTES: usize = 2048;

const _: () = assert!(CHAIN_BYTES + 4 * REASON_BYTES < sumun_engine::acme::ENTRY_BYTES, "a chain with its key is kept");
