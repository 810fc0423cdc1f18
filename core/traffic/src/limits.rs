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

/// A queue that has not been empty for so long, in milliseconds, does not work off a burst: it is
/// overloaded (the interval of controlled delay, RFC 8289 section 4.3).
pub const CALM_MS: u64 = 100;

/// The same of a class behind which others wait.
pub const CALM_BEFORE_OTHERS_MS: u64 = 500;

/// Requests at once that an adaptive limit begins with, and does not fall below by itself while nobody
/// needs more.
pub const LIMIT_FIRST: f64 = 4.0;

/// The least and the most that an adaptive limit can be.
pub const LIMIT_LEAST: f64 = 1.0;
pub const LIMIT_MOST: f64 = 100_000.0;

/// Up to here an adaptive limit grows though nobody inside has been answered.
pub const BLIND_MOST: f64 = 32.0;

/// Answers may take so much longer than without waiting before an adaptive limit falls.
pub const TOLERANCE: f64 = 1.1;

/// A window of an adaptive limit, in microseconds: as long as an answer takes, within these.
pub const WINDOW_LEAST_US: u64 = 50_000;
pub const WINDOW_MOST_US: u64 = 1_000_000;

/// Answers that make a window, unless it gets too long; more where their times vary, until the standard
/// error of the mean of their logarithms is no greater than this.
pub const SAMPLES_LEAST: u32 = 10;
pub const ERROR_MOST: f64 = 0.2;

/// While it binds, an adaptive limit is put down for the time of three to six answers once in so many
/// microseconds, and no sooner than so many times as long as that took, to this share of what should be
/// enough: so the base is found, and few requests wait for that.
pub const DIP_EVERY_US: u64 = 3_000_000;
pub const DIP_PAUSE: u64 = 60;
pub const DIP_SHARE: f64 = 0.9;

/// More faults than this share of the answers take a tenth off an adaptive limit.
pub const FAULT_SHARE: f64 = 0.05;

/// Draws that clients of one priority have: as fine as those who are refused can be told from the others.
pub const LEVELS_PER_PRIORITY: usize = 128;

/// So much of what is served is let in to the queue while it is overloaded: enough that no place stays
/// free because chance brought nobody.
pub const LEVEL_ROOM: f64 = 1.15;

/// Servers that refuse get so many times what they accept.
pub const THROTTLE_RATIO: f64 = 2.0;

/// At least this share of what comes is sent to them, which tells when they accept again: with less, it
/// takes longer until all are sent.
pub const THROTTLE_PROBES: f64 = 0.02;

/// What came and was refused has lost about two thirds of its weight after so many milliseconds: long
/// enough that a burst of refusals is not taken for the whole, short enough that the door opens soon.
pub const THROTTLE_FADE_MS: u64 = 1000;

/// Of fewer requests than this in that time none is turned away: servers are not overloaded by so few.
pub const THROTTLE_LEAST: f64 = 10.0;

/// Visitors that one waiting room lets wait, at most: a bit each, 1.25 MB. Its own bound is below.
pub const ROOM_WAITING_MAX: u32 = 10_000_000;

/// Visitors that may be inside behind one waiting room, at most: about 100 bytes each.
pub const ROOM_ACTIVE_MAX: u32 = 1_000_000;

/// Lives of one room whose tickets are still good. Where more were begun while one visitor waited, the
/// tickets of the oldest are worth a new place at the end.
pub const ROOM_EPOCHS: usize = 32;

/// Words of claim bits that a snapshot holds: 24 KiB, of the numbers that were called last. Those
/// called before them count as too late.
pub const ROOM_SNAPSHOT_WORDS: usize = 3072;

/// Groups of sessions by their end in a snapshot.
pub const ROOM_SNAPSHOT_GROUPS: usize = 64;

/// Steps in which the time to come in runs out: a visitor has up to one step more than it.
pub const ROOM_CLAIM_STEPS: u64 = 128;

/// Looks back of this many steps tell how fast visitors are called.
pub const ROOM_PACE_STEPS: usize = 12;

/// Length of such a step. Milliseconds.
pub const ROOM_PACE_STEP_MS: u64 = 5_000;

/// Who is about to be called asks again no sooner, milliseconds;
pub const ROOM_POLL_SOONEST_MS: u64 = 500;

/// who has longer to wait, no more often,
pub const ROOM_POLL_LEAST_MS: u64 = 2_000;

/// and no more seldom, unless so many wait that together they would ask too much.
pub const ROOM_POLL_MOST_MS: u64 = 30_000;

/// Questions a second that all who wait in one room should make together; beyond it each asks more seldom,
/// but no more seldom than four times until its turn.
pub const ROOM_POLLS_PER_SECOND: u64 = 5_000;

/// Keys that one sketch of the most frequent ones can have places for; more are cut to it.
pub const TOP_PLACES_MAX: usize = 4096;

/// As much of a text that is counted is kept and told from others. Bytes.
pub const TOP_TEXT_BYTES: usize = 128;

/// Ranges of a table of autonomous systems, at most; one with more is refused. The whole Internet has about
/// 600,000.
pub const ASN_RANGES_MAX: usize = 4_000_000;

/// Bytes of a line of it; a table with a longer one is refused.
pub const ASN_LINE_BYTES: usize = 1024;

/// As much of a name is kept. Bytes.
pub const ASN_NAME_BYTES: usize = 64;

const _: () = assert!(ASN_RANGES_MAX * ASN_NAME_BYTES < u32::MAX as usize);

/// How long one generation of what came most often is filled, in milliseconds.
pub const TOP_GENERATION_MS: u64 = 60_000;

/// Clients that are blocked at once, 16 bytes each; of eight that share their places, the one whose block
/// ends first makes way for another.
pub const BLOCKED_CLIENTS: usize = 65_536;

/// Clients whose strikes against one rule are counted at once, 21 bytes each; the one that began longest
/// ago is forgotten for another.
pub const STRIKING_CLIENTS: usize = 65_536;

/// Strikes that are counted one by one: no rule may allow more.
pub const STRIKES_MAX: u32 = 1 << 20;

/// Reasons of blocks that are told apart, over all reloads; behind them there is one for all others.
pub const BLOCK_REASONS: usize = 1 << 12;

/// What a pressure on our own limits has switched goes off this far below where it went on, in thousandths,
pub const PRESSURE_GAP: u32 = 50;

/// and after so long, in milliseconds.
pub const PRESSURE_FALL_MS: u64 = 2_000;

/// A worker that has had no time left for so long, in milliseconds, is short of it.
pub const PRESSURE_RISE_MS: u64 = 2_000;

/// An accept queue that has filled up for so long, in milliseconds, is no burst.
pub const PRESSURE_QUEUE_RISE_MS: u64 = 300;
