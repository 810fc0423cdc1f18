//! Bounds, and what happens at them.

/// Parts of the memory that are locked by themselves. One entry takes no more than one of them: more parts, smaller entries.
pub const SHARDS: usize = 16;

/// The share of the bytes of those that nobody has asked for again, in percent. What comes once and never
/// again passes through this part alone.
pub const PROBATION_PERCENT: u64 = 10;

/// How often somebody asked is counted up to this.
pub const ASKED_MOST: u8 = 3;

/// What an entry costs besides its own bytes: its places in the table and in its queue, that of a ghost, and
/// what these have to spare.
pub const ENTRY_BYTES: u64 = 128;

/// So much of a response that is not kept together is here before its slowest reader has read it.
pub const FILL_AHEAD_BYTES: u64 = 256 * 1024;

/// So much of a response that is written to disk as it comes waits here to be written, before its server waits.
pub const FILL_DISK_BYTES: u64 = 8 * 1024 * 1024;

/// Readers that wait for one response that is on its way. Those beyond are told at once that they have to
/// ask by themselves.
pub const READERS_MAX: usize = 100_000;

/// Bytes of a chunk: large objects are written, checked and read in these.
pub const CHUNK_BYTES: usize = 1 << 20;

/// The last piece of an object lies with its head, and takes one read with it, up to this size.
pub const INLINE_BYTES: usize = 64 << 10;

/// Bytes of metadata of one object. A greater one is not stored.
pub const META_BYTES: usize = 64 << 10;

/// Chunks of one object; a longer one is not stored (64 GiB).
pub const CHUNKS_MAX: usize = 1 << 16;

/// Sizes that an extent may have, always a power of two. Places within one are 16 bits wide.
pub const EXTENT_BYTES_MIN: u64 = 1 << 20;
pub const EXTENT_BYTES_MAX: u64 = 64 << 20;

/// Extents of one physical volume: 4 TiB in extents of 4 MiB. What is beyond is not used.
pub const EXTENTS_MAX: u64 = 1 << 20;

/// Physical volumes of a group, and logical volumes in it.
pub const PHYSICAL_VOLUMES_MAX: usize = 64;
pub const VOLUMES_MAX: usize = 250;

/// Bytes of a volume's name.
pub const NAME_BYTES: usize = 64;

/// Bytes that wait to be written to one physical volume. Where it is full an object is not stored.
pub const QUEUE_BYTES: usize = 64 << 20;

/// Of those so many are for what does not wait: an object that comes in pieces waits while less is free.
pub const QUEUE_SPARE_BYTES: usize = QUEUE_BYTES / 8;

/// What something in that queue counts besides its own bytes.
pub const JOB_BYTES: usize = 128;

/// Bytes beyond those for removals alone: what is out of date has to be forgotten where nothing new is stored.
pub const REMOVALS_BYTES: usize = 16 << 20;

/// Removals that share one sync of the device.
pub const REMOVALS_TOGETHER: usize = 1024;

/// How long the oldest extent may be held up by who reads it, in milliseconds, before what waits to be
/// written is given up instead.
pub const PINNED_MS: u64 = 2000;

/// How often an object is tried to be moved off a device that is to be let go, and the milliseconds between.
pub const MOVE_TRIES: usize = 3;
pub const MOVE_WAIT_MS: u64 = 20;

/// A write or sync that takes longer makes its device a slow one, in milliseconds; and a read, for which somebody
/// waits.
pub const SLOW_MS: u64 = 5000;
pub const SLOW_READ_MS: u64 = 2000;

/// A write, sync or read that takes so long, in milliseconds, is not waited for where the pool is closed or changed:
/// the others go on without its device until that has come back.
pub const HANG_MS: u64 = if cfg!(test) { 1000 } else { 10_000 };

/// How long a device is waited for then that is slow, and comes back each time, in milliseconds.
pub const STOP_MS: u64 = 60_000;

/// Reads of one device at a time: what hangs there holds so many threads.
pub const READS_MAX: usize = 16;

const _: () = assert!(INLINE_BYTES + META_BYTES < EXTENT_BYTES_MIN as usize / 4);

/// Reads that fail before a device counts as failed: a bad place alone costs what lies there.
pub const READ_ERRORS_MAX: u64 = 16;

/// How long who removes an object waits until that is durable, in milliseconds.
pub const REMOVE_MS: u64 = 10_000;

/// Interim responses that wait for the asker; more of them are nobody's.
pub(crate) const INTERIMS_MAX: usize = 16;
