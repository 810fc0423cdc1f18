//! Bounds of the web server.

/// A file up to this size is read into memory and sent with its head in one call; a larger one is
/// sent from its descriptor. Bytes.
pub(crate) const MEMORY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The start of a file that was found in memory is not looked for again for this long. Milliseconds.
pub(crate) const RESIDENT_MS: u64 = 1_000;

/// Files that one worker's cache knows. Beyond it the one that was not asked for the longest goes.
pub(crate) const CACHE_ENTRIES_MAX: usize = 4_096;

/// Content that one worker's cache holds, bytes. Beyond it the same.
pub(crate) const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Descriptors that one worker's cache holds open. Beyond it the same.
pub(crate) const CACHE_OPEN_FILES_MAX: usize = 512;

/// A cached answer is given without a look at the disk for this long, seconds.
pub(crate) const FRESH_SECONDS: u64 = 1;

/// After that it is still given for this long while one look at the disk is under way, seconds.
pub(crate) const STALE_SECONDS: u64 = 1;

/// What nobody asked for in this time leaves the cache, so that a deleted file gives its room on
/// the disk back. Seconds.
pub(crate) const CACHE_UNUSED_SECONDS: u64 = 60;

/// Disk operations of the process at once. Beyond it they wait.
pub(crate) const DISK_OPERATIONS_MAX: usize = 64;

/// Requests of the process that wait for the disk. Beyond it they are answered 503.
pub(crate) const DISK_WAITERS_MAX: usize = 1_024;

/// Looks at the disk that one request may cause or wait for: one for each coding that others may
/// load at the same time, one for the fallback, some to spare. Beyond it the answer is 503.
pub(crate) const LOADS_PER_REQUEST_MAX: usize = 8;

/// The kernel asks for another try when something moved while it resolved a path. Beyond this
/// many the answer is 503.
pub(crate) const RESOLVE_TRIES_MAX: usize = 8;

/// A file that changed while it was read is read again. Beyond this many tries the answer is 503.
pub(crate) const READ_TRIES_MAX: usize = 3;

/// A percent-decoded path below the root, bytes: what the kernel takes at most.
pub(crate) const PATH_BYTES_MAX: usize = 4_095;

/// Smaller files gain nothing by compression, bytes.
pub(crate) const COMPRESS_BYTES_MIN: u64 = 256;

/// Text up to this size is compressed once and the result cached; larger text is compressed
/// anew as it is sent. Bytes.
pub(crate) const COMPRESS_CACHED_BYTES_MAX: u64 = 1024 * 1024;

/// Larger files are sent as they are: their compression would keep a CPU busy for each request.
pub(crate) const COMPRESS_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Answers that one worker compresses while it sends them; each holds about a megabyte of state.
/// Beyond it files are sent as they are.
pub(crate) const COMPRESSED_STREAMS_MAX: usize = 16;

/// What one step of a compressed answer reads at most, bytes.
pub(crate) const COMPRESS_READ_BYTES: usize = 64 * 1024;

/// One step of a compressed answer ends once it has produced this much, bytes.
pub(crate) const COMPRESS_CHUNK_BYTES: usize = 32 * 1024;

/// What one step of a compressed answer reads in all, however little comes out, bytes.
pub(crate) const COMPRESS_STEP_BYTES_MAX: usize = 1024 * 1024;

/// Entries in one listing. What is beyond is counted and not shown.
pub(crate) const LISTING_ENTRIES_MAX: usize = 10_000;

/// Of `/etc/passwd`, for the owners' names, bytes. Users beyond it are shown as numbers.
pub(crate) const PASSWD_BYTES_MAX: u64 = 1024 * 1024;

/// An upload is collected to blocks of this size before they are written, bytes.
pub(crate) const UPLOAD_BLOCK_BYTES: usize = 128 * 1024;

const _: () = assert!(COMPRESS_CACHED_BYTES_MAX * 8 <= CACHE_BYTES_MAX as u64, "a few files must fit");
const _: () =
    assert!(COMPRESS_BYTES_MIN <= COMPRESS_CACHED_BYTES_MAX && COMPRESS_CACHED_BYTES_MAX <= COMPRESS_BYTES_MAX);
const _: () = assert!(COMPRESSED_STREAMS_MAX * COMPRESS_STEP_BYTES_MAX <= CACHE_BYTES_MAX, "streams stay small");
