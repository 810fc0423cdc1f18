//! Bounds of the engine, with their units.

use std::time::Duration;

/// First buffer of a connection: nearly every request head fits.
pub const SMALL_BUFFER_BYTES: usize = 4 * 1024;

/// A head that did not fit the small buffer.
pub const MEDIUM_BUFFER_BYTES: usize = 16 * 1024;

/// Bodies, and the largest head of the default config. One read and one write move this much.
pub const LARGE_BUFFER_BYTES: usize = 64 * 1024;

/// Spare buffers that a worker keeps of each size; more are given back to the allocator.
pub const SPARE_SMALL_BUFFERS: usize = 512;
pub const SPARE_MEDIUM_BUFFERS: usize = 64;
pub const SPARE_LARGE_BUFFERS: usize = 64;

/// Bytes of leased buffers of one worker above which nothing is buffered ahead for slow clients:
/// bodies then stream at the client's pace.
pub const BUFFER_BUDGET_BYTES: usize = 64 * 1024 * 1024;

/// How often deadlines are looked at; a timeout may be late by this much.
pub const TICK: Duration = Duration::from_millis(50);

/// After an accept that failed for want of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// After a line about an accept that failed a socket writes none for this long.
pub const ACCEPT_LOG_PAUSE: Duration = Duration::from_secs(10);

/// How often it is looked how near the process is to its own limits,
pub const LIMITS_LOOK: Duration = Duration::from_millis(250);

/// its memory once in so many looks,
pub const MEMORY_LOOKS: u32 = 4;

/// and a worker's time and accept queues once in so many ticks.
pub const LOAD_TICKS: u64 = 4;

/// An idle connection is kept for so long however short descriptors or memory are.
pub const IDLE_LEAST: Duration = Duration::from_secs(1);

/// While the access log is cut down one line of so many is written.
pub const LOG_SAMPLE: u32 = 10;

/// Connections accepted in one go before other tasks run.
pub const ACCEPT_BATCH: usize = 64;

/// Shards of the table that counts connections of each client address.
pub const CLIENT_TABLE_SHARDS: usize = 32;

/// Client addresses that a shard of that table keeps room for once those of a crowd have gone.
pub const CLIENT_SHARD_SPARE: usize = 16;

/// After a line about a refused PROXY protocol header a worker writes none for this long.
pub const PREFACE_LOG_PAUSE: Duration = Duration::from_secs(10);

/// Pipes that a worker keeps for moving bytes between sockets.
pub const SPARE_PIPES: usize = 32;

/// Clients of a listener whose bandwidth is known, 43 bytes each. Beyond it who has been away for the
/// longest is forgotten.
pub const PACED_CLIENTS: usize = 65_536;

/// Clients of a listener whose rate of new connections is known, 21 bytes each. Beyond it who has been away
/// for the longest is forgotten.
pub const RATED_CLIENTS: usize = 65_536;
