//! Bounds, and what happens at them.

/// Parts of the memory that are locked by themselves: more than CPUs, so that workers seldom meet.
pub const SHARDS: usize = 64;

/// The share of the bytes of those that nobody has asked for again, in percent. What comes once and never
/// again passes through this part alone.
pub const PROBATION_PERCENT: u64 = 10;

/// How often somebody asked is counted up to this.
pub const ASKED_MOST: u8 = 3;

/// What an entry costs besides its own bytes: its places in the table and in the queues.
pub const ENTRY_BYTES: u64 = 128;

/// One entry takes no more than this share of its shard; a greater one is not kept.
pub const ENTRY_SHARE: u64 = 4;

/// Readers that wait for one response that is on its way. Those beyond are told at once that they have to
/// ask by themselves.
pub const READERS_MAX: usize = 100_000;
