//! Bounds of the gateway that no config key changes, with their units.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How long a closed connection waits for the client to have read the last response.
pub(crate) const LINGER: Duration = Duration::from_secs(2);

/// Bytes that are read and thrown away while lingering.
pub(crate) const LINGER_BYTES: usize = 256 * 1024;

/// A request body is collected up to this size before a server is bothered with it, so that a
/// slow client holds no application thread. Bytes.
pub(crate) const COLLECT_BYTES: usize = 256 * 1024;

/// A response is taken from the server up to this far ahead of a slow client. Bytes.
pub(crate) const AHEAD_BYTES: usize = 256 * 1024;

/// The same for all streams of one HTTP/2 connection, in equal parts: a client that asks for a
/// hundred answers and reads none is one slow client.
pub(crate) const AHEAD_BYTES_CONNECTION: usize = 2 * 1024 * 1024;

/// The same once the worker's buffers are over their budget: one buffer.
pub(crate) const AHEAD_BYTES_SCARCE: usize = 64 * 1024;

/// Body bytes up to this size are copied behind the head into one write; larger ones are
/// gathered from where they lie. Bytes.
pub(crate) const COPY_BYTES: usize = 8 * 1024;

/// A head waits for the body behind it where that is no larger, so that both go in the same packets: 64 KiB cost
/// a quarter less. From 512 KiB on it costs more (over loopback, where the client's part is ours), and the
/// packet that it saves is one of many.
pub(crate) const HEAD_WAITS_BYTES: u64 = 256 * 1024;

/// Header section of a server's response. Bytes.
pub(crate) const RESPONSE_HEAD_BYTES: usize = 256 * 1024;

/// Request heads kept for reuse by each worker.
pub(crate) const SPARE_HEADS: usize = 256;

/// Idle connections to all servers of one pool that one worker keeps.
pub(crate) const IDLE_CONNECTIONS: usize = 4096;

/// How often idle connections to servers are looked through.
pub(crate) const IDLE_SWEEP: Duration = Duration::from_secs(1);

/// A request id that a client may choose. Bytes.
pub(crate) const REQUEST_ID_BYTES: usize = 128;

/// Where heads are put together; given back to the allocator when a body made it larger. Bytes.
pub(crate) const SCRATCH_BYTES: usize = 512 * 1024;

/// A file goes to the kernel in windows of this size; each is looked for in memory first. Bytes.
pub(crate) const SENDFILE_BYTES: u64 = 1024 * 1024;

/// How often cached files that nobody asks for are let go.
pub(crate) const FILES_SWEEP: Duration = Duration::from_secs(5);

/// A connection that waits longer than this for its next request gives back what it works with.
pub(crate) const BUSY: Duration = Duration::from_millis(50);

/// After a line about a handshake with a server that failed, a worker writes none about the same pool
/// for this long.
pub(crate) const HANDSHAKE_LOG_PAUSE: Duration = Duration::from_secs(10);

/// Value of `Authorization` that is looked at; a longer one is refused. Bytes.
pub(crate) const BASIC_BYTES: usize = 1024;

/// Passwords that are verified at once, in the whole process: each takes a CPU for a while.
pub(crate) const VERIFICATIONS: usize = 2;

/// Requests that wait for a verification, in the whole process; more are refused with 503.
pub(crate) const VERIFICATIONS_WAITING: usize = 64;

/// Good pairs of user and password that a worker remembers.
pub(crate) const VERIFIED_PAIRS: usize = 1024;

/// How long it remembers one.
pub(crate) const VERIFIED_FOR: Duration = Duration::from_secs(60);

/// Addresses of an X-Forwarded-For that are looked at, from its end on; what stands before them is not.
pub(crate) const FORWARDED_ELEMENTS: usize = 32;

/// A token that is verified; a longer one is none. Bytes.
pub(crate) const TOKEN_BYTES: usize = 8 * 1024;

/// Tokens whose outcome a worker remembers, 40 bytes each once there is a limit by token.
pub(crate) const TOKENS: usize = 4096;

/// How long it does at most, in seconds; what was not to be believed is looked at again as late.
pub(crate) const VERIFIED_TOKEN_S: u64 = 60;

/// Body of a forward authentication's answer. Bytes.
pub(crate) const FORWARD_AUTH_BODY_BYTES: usize = 64 * 1024;

/// Moved from a server into a pipe in one go. Bytes.
pub(crate) const SPLICE_BYTES: usize = 1024 * 1024;

/// Where less than this is left of a body, copying it costs less than a pipe. Bytes.
pub(crate) const SPLICE_LEAST_BYTES: u64 = 24 * 1024;

/// Client addresses whose new places in a waiting room are counted; with more, those that asked for the
/// fewest are forgotten first. 21 bytes each, for each room.
pub(crate) const ROOM_CLIENTS: usize = 131_072;

/// How often a waiting room calls whom it can.
pub(crate) const ROOM_TICK: Duration = Duration::from_millis(50);

/// A visitor waits so long for a step of a room that gateways share; then it is away.
pub(crate) const ROOM_PATIENCE: Duration = Duration::from_millis(50);

/// Numbers that are remembered because no answer came when they asked to come in. Of those beyond it one
/// that was let in unheard has to take another number.
pub(crate) const UNHEARD_MAX: usize = 10_000;

/// How often what is new of it is kept.
pub(crate) const ROOM_KEEP: Duration = Duration::from_secs(1);

/// Cookies of one room that a request may try. A client has one, and one more for each path that the
/// route once had.
pub(crate) const ROOM_COOKIES: usize = 4;

/// Who asks again later than this has its connection closed meanwhile.
pub(crate) const ROOM_CONNECTION: Duration = Duration::from_secs(5);

/// Keys of a shared limit that wait to be told to other gateways; the least active ones are forgotten.
pub(crate) const SHARED_KEYS: usize = 16_384;

/// Of these, as many are told of in a round, in scripts of so many each.
pub(crate) const SHARED_ROUND_KEYS: usize = 1024;
pub(crate) const SHARED_CHUNK: usize = 128;

/// How often.
pub(crate) const SHARED_ROUND: Duration = Duration::from_millis(100);

/// How long an answer may take; what was told then counts as lost.
pub(crate) const SHARED_PATIENCE: Duration = Duration::from_millis(500);

/// What a gateway may take, besides a burst, before it hears of the others. Sixteen times that is the
/// most that is ever owed: so many gateways are held to a limit exactly, and a number that makes no sense
/// locks nobody out for longer.
pub(crate) const SHARED_DEBT: Duration = Duration::from_secs(1);

// An answer has a number for each key.
const _: () = assert!(SHARED_CHUNK <= sumun_pools::limits::REDIS_REPLY_PARTS);

/// An error page of the operator's own. Bytes.
pub(crate) const ERROR_PAGE_BYTES: u64 = 1024 * 1024;

/// Requests that a worker has under way on one connection to a server of HTTP/2; the server may
/// allow fewer. More open another connection.
pub(crate) const LINK_STREAMS: u32 = 100;

/// Body of an answer that waits for its reader on one stream of such a connection. Bytes.
pub(crate) const LINK_STREAM_BYTES: u32 = 128 * 1024;

/// How long a server of HTTP/2 may take to acknowledge our settings, and to end a head.
pub(crate) const LINK_SETTINGS_PATIENCE: Duration = Duration::from_secs(10);

/// A server of HTTP/2 that has said nothing for so long, while it is asked something, is asked
/// whether it is there.
pub(crate) const LINK_PING_AFTER: Duration = Duration::from_secs(10);

/// It has so long to answer that; then its connection is dead.
pub(crate) const LINK_PING_PATIENCE: Duration = Duration::from_secs(5);

/// Once it has, it is left in peace for so long: servers of gRPC cut off who asks more often.
pub(crate) const LINK_PING_AGAIN: Duration = Duration::from_secs(300);

/// Tasks of HTTP/2 requests that wait for the next one, of each worker, and how long they do.
pub(crate) const IDLE_HANDS: usize = 1024;
pub(crate) const HAND_PATIENCE: Duration = Duration::from_secs(1);

/// Memory that an HTTP/2 connection keeps for the heads that come next. Bytes.
pub(crate) const HEAD_KEPT_BYTES: usize = 16 * 1024;

/// While a body without a length pauses for so long, no more of it is collected: it may be one half
/// of a conversation, of which the server has to hear the beginning.
pub(crate) const COLLECT_PAUSE: Duration = Duration::from_millis(250);

/// Clients, networks, paths and agents of which each worker counts the most frequent.
pub(crate) const TRAFFIC_PLACES: usize = 256;

/// As many of each are shown.
pub(crate) const TRAFFIC_ROWS: usize = 20;

/// Behind so many requests a second, each worker looks at one in so many.
pub(crate) const SAMPLED_ABOVE: u32 = 500;
pub(crate) const SAMPLED_ONE_IN: u32 = 16;

/// Questions about traffic that wait for one worker; who asks more gets what the others say.
pub(crate) const TRAFFIC_ASKED: usize = 8;

/// Lines a second about clients that were blocked; the others are counted.
pub(crate) const BLOCK_LINES: u32 = 20;

/// One answer takes at most this part of the cache's memory: as many parts as its table has.
pub(crate) const CACHE_ENTRY_PART: u64 = sumun_store::limits::SHARDS as u64;

/// Purges that are remembered, one for each URL, tag and prefix. Beyond that, what is older than the older
/// half of them and was not asked for since is purged, too.
pub(crate) const CACHE_PURGES: usize = 65_536;

/// Paths of which it is known what `No-Vary-Search` says; for one more another one is forgotten. Bytes of such a field
/// and names in it: one that is longer says nothing.
pub(crate) const CACHE_SEARCHES: usize = 16_384;
pub(crate) const CACHE_SEARCH_BYTES: usize = 512;
pub(crate) const CACHE_SEARCH_NAMES: usize = 32;

/// For so many seconds requests for a URL whose answer was not for everybody do not wait for each other;
/// one of them looks whether it still is so that often.
pub(crate) const CACHE_PASS_S: u64 = 120;
pub(crate) const CACHE_PROBE_S: u64 = 1;

/// Tags of one answer that count; those behind them are passed over.
pub(crate) const CACHE_TAGS: usize = 256;

/// So often a request looks again whether it is there what it waited for.
pub(crate) const CACHE_TRIES: usize = 4;

/// Bytes of a body that are put together in one piece when it is stored.
pub(crate) const CACHE_PIECE_BYTES: u64 = 1024 * 1024;

/// Stored bodies of these sizes are put into pages that the kernel sends as they are. For a smaller one a copy is
/// cheaper than another system call; a larger one would hold up a worker while it is put there.
pub(crate) const CACHE_MOVED_BYTES: RangeInclusive<u64> = 32 * 1024..=CACHE_PIECE_BYTES;

/// Once they were asked for so often: to fill pages and to give them back costs as much as six of the copies that
/// they save.
pub(crate) const CACHE_HOT_HITS: u32 = 16;

/// Addresses for such pages, as many times as there is memory: each power of two of a size has its own.
pub(crate) const CACHE_ADDRESSES: u64 = 32;

/// A stored body up to this size lies with its head: it is copied behind that to be sent as well.
pub(crate) const CACHE_SMALL_BYTES: u64 = COPY_BYTES as u64;

/// Where there is a volume, larger bodies are kept on disk alone and sent from the kernel's memory of it.
pub(crate) const CACHE_DISK_BYTES: u64 = 256 * 1024;

/// So long a request waits for what is on disk before a server is asked instead; and a client that gets a body
/// from there, before it is given up.
pub(crate) const CACHE_DISK_WAIT: Duration = Duration::from_secs(2);
pub(crate) const CACHE_READ_WAIT: Duration = Duration::from_secs(10);

/// So long a response on its way waits for the disk before it is not kept any more.
pub(crate) const CACHE_ROOM_WAIT: Duration = Duration::from_secs(1);

/// So long it is taken to be in the kernel's memory what was seen there.
pub(crate) const CACHE_RESIDENT_MS: u64 = 1000;

/// So long a response waits to be written to disk before it is found there, or not.
pub(crate) const CACHE_COMMIT_WAIT: Duration = Duration::from_secs(10);

/// So often the keeper of the pool looks after its devices, or whether another process has let go of them.
pub(crate) const CACHE_LOOK: Duration = Duration::from_secs(1);
pub(crate) const CACHE_LOOK_AGAIN: Duration = Duration::from_millis(50);

/// So long a purge waits for the pool to be opened.
pub(crate) const CACHE_SETTLE: Duration = Duration::from_secs(5);

/// A range that begins so far behind what has come is asked for by itself.
pub(crate) const CACHE_RANGE_AHEAD: u64 = 4 * 1024 * 1024;

/// A challenge is good for so long, in milliseconds.
pub(crate) const CHALLENGE_AGE_MS: u64 = 300_000;

/// Digits of the number that solves one: 2 to the power of 24 hashes and some luck.
pub(crate) const CHALLENGE_NUMBER_BYTES: usize = 10;

/// Cookies of a request that are looked at, of each kind: each may cost a hash.
pub(crate) const CHALLENGE_COOKIES: usize = 2;

/// Of the slices that an answer needs, so many are looked for before it is called a hit.
pub(crate) const CACHE_SLICES_LOOK: usize = 1024;

/// So often a slice that breaks off is asked for anew, for one client.
pub(crate) const CACHE_SLICE_TRIES: usize = 3;
