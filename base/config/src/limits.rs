//! Bounds of everything that a config file can make grow.

use std::time::Duration;

/// Bytes of one file (main, included, or of user names). Beyond it the file is refused.
pub const FILE_BYTES: u64 = 4 * 1024 * 1024;
/// Files that `include` may bring in.
pub const INCLUDED_FILES: usize = 256;
/// Directory entries looked at for one `include`.
pub const INCLUDE_ENTRIES: usize = 10_000;
/// Nesting of maps and lists.
pub const DEPTH: usize = 32;
/// Scalars, lists and maps of one file.
pub const NODES: usize = 200_000;
/// Bytes of one scalar after `${…}` was filled in.
pub const SCALAR_BYTES: usize = 1024 * 1024;
/// Problems that a report keeps; the others are counted.
pub const PROBLEMS: usize = 100;
/// Characters of a source line that a report shows.
pub const SHOWN_LINE_CHARACTERS: usize = 160;
/// Characters of the offending text that a message repeats.
pub const QUOTED_CHARACTERS: usize = 60;
/// Servers of one pool, after ranges of TCP ports were spread out.
pub const SERVERS: usize = 4096;
/// Addresses that one range of TCP or UDP ports to listen on may stand for: each is a socket for each worker.
pub const BIND_PORTS: usize = 1024;
/// Any duration.
pub const DURATION: Duration = Duration::from_secs(366 * 24 * 3600);
/// Any size, in bytes: 1 EiB, so that sums of sizes cannot overflow.
pub const SIZE_BYTES: u64 = 1 << 60;
/// Bytes of memory of one compiled regular expression.
pub const PATTERN_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a Unix socket's path, `sun_path` without its closing NUL (unix(7)).
pub const SOCKET_PATH_BYTES: usize = 107;
/// Cost of a bcrypt hash; 2^15 rounds take seconds, so more would only stall logins.
pub const BCRYPT_COST: u32 = 15;
/// Rounds of a SHA-crypt hash, for the same reason.
pub const SHA_CRYPT_ROUNDS: u32 = 1_000_000;
/// A certificate that expires within this is warned of: three weeks leave time to renew by hand.
pub const EXPIRY_WARNING: Duration = Duration::from_secs(21 * 24 * 3600);
/// Edits between a misspelt word and the word that is proposed, as a share of its length.
pub const SUGGESTION_SHARE: usize = 3;
/// Names of one certificate that is obtained: more than public authorities take.
pub const ACME_NAMES: usize = 100;
/// Certificates that one config has obtained.
pub const ACME_CERTIFICATES: usize = 200;
/// Bytes of a directory's URL.
pub const URL_BYTES: usize = 1024;
/// Bytes of an e-mail address (RFC 5321 section 4.5.3.1).
pub const EMAIL_BYTES: usize = 254;
/// Bytes of the id of an external account's key.
pub const KEY_ID_BYTES: usize = 256;
/// Bytes of that key: a shorter one proves little, a longer one is none.
pub const HMAC_KEY_LEAST_BYTES: usize = 16;
pub const HMAC_KEY_BYTES: usize = 1024;
/// Bytes that a health check sends, and that it looks for in an answer.
pub const CHECK_BYTES: usize = 4096;
/// Bytes of a name or a password that a health check shows.
pub const CREDENTIAL_BYTES: usize = 1024;
/// Arguments of a command that checks a server.
pub const COMMAND_ARGUMENTS: usize = 64;
/// Bytes of one of them.
pub const ARGUMENT_BYTES: usize = 4096;
/// Rate limits of one route.
pub const ROUTE_LIMITS: usize = 8;
/// Parts of the key of a rate limit.
pub const KEY_PARTS: usize = 16;
/// Bytes of the name of a claim.
pub const CLAIM_BYTES: usize = 256;
/// What a sliding window counts to: two counts and the number of a window fit one word.
pub const SLIDING_COUNT: u32 = (1 << 22) - 1;
/// Physical volumes of the cache's group, and volumes in it: the bounds of what is written on disk.
pub const PHYSICAL_VOLUMES: usize = 64;
pub const CACHE_VOLUMES: usize = 250;
/// Bytes of a slice of a large answer. Without a volume it has at most this part of the memory: each of the
/// sixteen that the memory is cut into has room for some.
pub const SLICE_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=64 << 20;
pub const SLICE_MEMORY_PART: u64 = 64;
/// Bytes of an extent, always a power of two.
pub const EXTENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=64 << 20;
/// Extents of one physical volume; what is beyond is not used.
pub const EXTENTS: u64 = 1 << 20;
/// Rules of `blocks`: each is asked about every answer of an error, and remembers its clients by itself.
pub const BLOCK_RULES: usize = 16;
