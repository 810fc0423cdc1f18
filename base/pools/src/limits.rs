//! Bounds of this crate; each says what happens when it is reached.

/// Servers of one pool, resolved addresses counted one by one. Further ones are left out, with a
/// line in the log.
pub const SERVERS_MAX: usize = 4096;

const _: () = assert!(SERVERS_MAX <= sumun_traffic::limits::CANDIDATES_MAX);

/// Servers that one request remembers as tried. A request that has tried as many may come to the
/// first of them again.
pub const TRIED_MAX: usize = 16;

/// While a server's weight is still rising, the weights are looked at again after this time, in
/// milliseconds.
pub const SLOW_START_STEP_MS: u64 = 250;

/// Shards of the set of traces in flight to a pool: as many threads can enter one at a time.
pub const TRACE_SHARDS: usize = 16;

/// Traces in flight that one shard remembers. Beyond it a request is not recognised as a call of
/// the pool to itself by its traceparent.
pub const TRACES_PER_SHARD_MAX: usize = 4096;

/// News about servers that wait for the control thread to write them down. Beyond it the oldest is lost.
pub const NEWS_MAX: usize = 256;

/// Bytes of a sticky cookie's signature that are kept: 128 bits cannot be guessed.
pub const STICKY_BYTES: usize = 16;

/// Bytes of the head of an answer to a health check. A longer one is a bad answer.
pub const CHECK_HEAD_BYTES: usize = 16 * 1024;

/// Bytes that a health check reads of an answer that is not HTTP. What it looks for has to be found in
/// them, and a message that is longer is a bad answer.
pub const CHECK_ANSWER_BYTES: usize = 4096;

const _: () = assert!(sumun_config::limits::CHECK_BYTES <= CHECK_ANSWER_BYTES);

/// Datagrams that a health check of DNS passes over because they answer no question of its; then it has
/// failed.
pub const CHECK_STRANGE_ANSWERS: usize = 16;

/// Characters that are shown of what a server says.
pub const CHECK_WORDS: usize = 160;

/// The supervisor has this long to answer behind the time of a check that it runs; then nothing was
/// found.
pub const EXTERNAL_GRACE: std::time::Duration = std::time::Duration::from_secs(2);

/// A health check of kind `tcp` over TLS 1.3 waits for a server's refusal for two times what the
/// handshake took, and this.
pub const CHECK_REFUSAL: std::time::Duration = std::time::Duration::from_millis(100);

/// The first checks of a pool's servers are spread over the interval, but over no more than this,
/// in milliseconds.
pub const CHECK_SPREAD_MS: u64 = 2000;

/// How often the control thread looks for news and for places that came free by time, in milliseconds.
pub const CONTROL_TICK_MS: u64 = 250;

/// Addresses of one name. Further ones, in the order of their numbers, are left out, with a line
/// in the log.
pub const ADDRESSES_PER_NAME_MAX: usize = 64;

/// A name is not resolved more often than this, whatever its TTL, in milliseconds.
pub const RESOLVE_MIN_MS: u64 = 1000;

/// Nor more rarely than this, so that /etc/hosts and records with a TTL of a day are followed.
pub const RESOLVE_MAX_MS: u64 = 60_000;

/// A name that could not be resolved is tried again after this time, in milliseconds.
pub const RESOLVE_RETRY_MS: u64 = 2000;

/// One lookup, all its tries together, in milliseconds.
pub const RESOLVE_TIMEOUT_MS: u64 = 10_000;

/// Servers that may be added to one pool while running.
pub const ADDED_SERVERS_MAX: usize = 1024;

/// Weights that the API may set; the same range as in the config file.
pub const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=1000;

/// What another process knew of a server's health is worth nothing after this long, milliseconds: a
/// worker process that is started again after a crash finds out anew.
pub const KNOWLEDGE_MS: u64 = 60_000;

/// Nobody is pushed out of a queue who has waited for less than this, in milliseconds.
pub const PATIENCE_LEAST_MS: u64 = 10;

/// Nor does anybody wait longer than this in a queue that does not empty, where the time of an answer is
/// known and newcomers are there, in milliseconds.
pub const PATIENCE_MOST_MS: u64 = 100;

/// How often the level of who is let in is looked at while a pool is overloaded, in milliseconds.
pub const LEVEL_EVERY_MS: u64 = 250;

/// Nor before so many were served from the queue, unless that takes so long, in milliseconds; then it
/// rises.
pub const LEVEL_SERVED_LEAST: u32 = 20;
pub const LEVEL_MEMORY_MS: u64 = 5000;

/// How often it is looked at who is sent to servers that refuse, in milliseconds.
pub const THROTTLE_EVERY_MS: u64 = 250;

/// So long a client keeps its place among those who are let in first, in milliseconds.
pub const ERA_MS: u64 = 10 * 60_000;

/// Scripts that wait to be sent to a Redis; more are not asked.
pub const REDIS_ASKED: usize = 1024;

/// As many are sent at once.
pub const REDIS_BATCH: usize = 128;

/// Numbers in one answer, and its length in bytes.
pub const REDIS_REPLY_PARTS: usize = 1024;
pub const REDIS_REPLY_BYTES: usize = 64 * 1024;

/// A Redis that has not answered a batch within this is away.
pub const REDIS_ANSWER_PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);

/// One that nobody asks anything is asked whether it is there.
pub const REDIS_IDLE: std::time::Duration = std::time::Duration::from_secs(1);

/// Between two tries to connect, at least and at most.
pub const REDIS_PAUSE_LEAST: std::time::Duration = std::time::Duration::from_millis(100);
pub const REDIS_PAUSE_MOST: std::time::Duration = std::time::Duration::from_secs(5);

/// So much of what it says of a script that it refuses goes into the log, in characters.
pub const REDIS_COMPLAINT: usize = 200;

/// Whether another server of its pool is the one to ask is looked at so often.
pub const REDIS_LOOK: std::time::Duration = std::time::Duration::from_secs(5);

/// A connection that lasted so long makes the next pause short again.
pub const REDIS_STABLE: std::time::Duration = std::time::Duration::from_secs(5);
