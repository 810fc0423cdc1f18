//! Bounds of the access log; each says what happens when it is reached.

use std::time::Duration;

/// Lines of one worker that wait for the writer, in each of its two places. Further ones are lost
/// and counted.
pub const QUEUE_LINES: usize = 8 * 1024;

/// Bytes of text of these lines. Further lines are lost and counted.
pub const QUEUE_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// Batches of formats that reloads have replaced meanwhile; with as many waiting, the lines of a
/// yet newer format are lost and counted until the writer comes.
pub const EARLIER_BATCHES: usize = 4;

/// One text of a line (a target, a header field). Longer ones are cut.
pub const TEXT_BYTES: usize = 8 * 1024;

const _: () = assert!(TEXT_BYTES < u16::MAX as usize, "lengths are kept in 16 bits, the largest means absent");

/// The writer is woken when so many lines of a worker wait; fewer wait for its next round. A
/// wake-up is a system call, so there is at most one for this many lines.
pub const WAKE_LINES: usize = 1024;

const _: () = assert!(WAKE_LINES < QUEUE_LINES, "the writer must be woken before lines are lost");

/// Between two rounds of the writer: a line is written at most this much later.
pub const ROUND: Duration = Duration::from_millis(100);

/// The same while the log is off: only for lines that were on their way.
pub const ROUND_OFF: Duration = Duration::from_secs(1);

/// Formatted bytes that go out in one write.
pub const WRITE_BYTES: usize = 256 * 1024;

/// Memory that a worker's queue keeps after a burst, in bytes of text.
pub const KEPT_TEXT_BYTES: usize = 512 * 1024;

/// Failed writes are told in the log at most this often.
pub const COMPLAINT_EVERY: Duration = Duration::from_secs(60);

/// A descriptor that does not block is tried again after this time,
pub const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// this often; the lines are lost then and counted.
pub const BUSY_TRIES: u32 = 100;

/// A worker that finds its place taken by the writer looks this often; then the line is lost and
/// counted. The writer holds a place for the time of one swap, and only one at a time.
pub const PLACE_TRIES: usize = 64;
