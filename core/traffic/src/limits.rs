//! Bounds of this crate; each says what happens when it is reached.

/// Candidates of one balancer. Further ones are ignored: the pool refuses them before.
pub const CANDIDATES_MAX: usize = 4096;

/// A candidate's weight in hundredths (weight 1000 at full strength). Larger ones are cut to it.
/// Small enough that the weights of all candidates add up within 32 bits.
pub const WEIGHT_HUNDREDTHS_MAX: u32 = 100_000;

const _: () = assert!(CANDIDATES_MAX as u64 * (WEIGHT_HUNDREDTHS_MAX as u64) < u32::MAX as u64);

/// Draws until a random pick stops hoping for a usable candidate and looks at them in order.
pub const DRAWS_MAX: usize = 4;

/// Lookups with changed keys until a maglev pick looks at the candidates in order.
pub const MAGLEV_LOOKUPS_MAX: usize = 8;

/// Table sizes for maglev: primes, each about twice the one before.
pub const MAGLEV_SIZES: [usize; 8] = [1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];

/// Table entries for each candidate: keeps the imbalance at about one percent (Maglev paper,
/// section 5.3). Beyond the largest table the imbalance grows.
pub const MAGLEV_ENTRIES_PER_CANDIDATE: usize = 100;

/// A hashed candidate may hold this many percent of its fair share of the requests in flight;
/// beyond it the next-best candidate of the key is taken.
pub const HASH_LOAD_PERCENT: u64 = 125;

/// As many requests in flight any hashed candidate may hold: with next to no load, the share of one
/// more request would send neighbours in time to different candidates.
pub const HASH_LOAD_FLOOR: u64 = 8;

/// Turns that a fresh round-robin may skip so that workers do not start at the same server.
pub const START_TURNS_MAX: u32 = 1024;

/// The window of a retry budget, in seconds and in buckets of one second.
pub const RETRY_WINDOW_S: usize = 10;

/// A server that came back starts with this share of its weight, in percent.
pub const SLOW_START_FLOOR_PERCENT: u32 = 10;

/// Ejections that are remembered; the time of ejection no longer grows beyond it.
pub const EJECTIONS_MAX: u32 = 1000;
