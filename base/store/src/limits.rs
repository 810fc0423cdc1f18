//! Bounds, and what happens at them.

/// Parts of the memory that are locked by themselves. One entry takes no more than one of them: more parts, smaller entries.
pub const SHARDS: usize = 16;

/// The share of the bytes of those that nobody has asked for again, in percent. What comes once and never
/// again passes through this part alone.
pub const PROBATION_PERCENT: u64 = 10;

/// How often somebody asked is counted up to this.
pub const ASKED_MOST: u8 = 3;

/// What an entry costs besides its own bytes: its places in the table and in the queues.
pub const ENTRY_BYTES: u64 = 128;

/// So much of a response that is not kept together is here before its slowest reader has read it.
pub const FILL_AHEAD_BYTES: u64 = 256 * 1024;

/// Readers that wait for one response that is on its way. Those beyond are told at once that they have to
/// ask by themselves.
pub const READERS_MAX: usize = 100_000;
