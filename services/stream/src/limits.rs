//! Bounds and times of the switch.

use std::time::Duration;

/// A buffer that was filled so many times in a row carries a bulk: the kernel moves it from then on.
pub(crate) const FULL_READS: u8 = 2;

/// Moved from a socket into a pipe in one go. Bytes.
pub(crate) const SPLICE_BYTES: usize = 1024 * 1024;

/// A pipe that was given less than this so many times in a row is given back. Bytes.
pub(crate) const SMALL_MOVE_BYTES: usize = 8 * 1024;
pub(crate) const SMALL_MOVES: u8 = 8;

/// After a line about a failed handshake with a server a pool's worker writes none for this long.
pub(crate) const HANDSHAKE_LOG_PAUSE: Duration = Duration::from_secs(10);

/// How long, and for how many bytes, a refused client is heard out so that it reads why.
pub(crate) const LINGER: Duration = Duration::from_secs(2);
pub(crate) const LINGER_BYTES: usize = 64 * 1024;

/// Connection ids of QUIC of one listener whose server is known, 24 bytes each. Beyond it the one that was
/// in use the longest ago is forgotten. Their lengths are 1 to 20 bytes, so that a datagram is looked up
/// 20 times at most.
pub(crate) const CONNECTION_IDS: usize = 65_536;

/// An id is forgotten when it was in no use for so many times a listener's `idle`: NATs forget a silent
/// client while its connection lives, and that is when it comes from elsewhere.
pub(crate) const ID_IDLE_TIMES: u64 = 4;

/// A flow says so many times in an id's life that it is in use.
pub(crate) const ID_KEEPS: u64 = 8;

/// A connection on which nothing has come for so long is asked by TCP whether its ends still live.
pub(crate) const REST: Duration = Duration::from_secs(60);

/// A flow of one datagram that nobody has answered is forgotten after this.
pub(crate) const UNANSWERED: Duration = Duration::from_secs(2);

/// Answers have so long to come once datagrams are received by another process.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(2);
