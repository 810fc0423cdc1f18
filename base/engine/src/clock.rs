//! A worker's clock: exact where a latency is measured, coarse everywhere else.

use std::cell::Cell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Reads time for one worker. The coarse values are those of the last tick.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    coarse_ms: Cell<u64>,
    unix_seconds: Cell<u64>,
    date: Cell<[u8; 29]>,
}

impl Clock {
    /// `start` is the same for all workers of a process, so that their times compare.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        let clock =
            Self { start, coarse_ms: Cell::new(0), unix_seconds: Cell::new(u64::MAX), date: Cell::new([b' '; 29]) };
        clock.tick();
        clock
    }

    /// Microseconds since the process started. One reading of the hardware clock.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    /// Milliseconds since the process started, as of the last tick: no system call, no reading.
    #[must_use]
    pub fn coarse_ms(&self) -> u64 {
        self.coarse_ms.get()
    }

    /// Seconds since 1970 as of the last tick.
    #[must_use]
    pub fn unix_seconds(&self) -> u64 {
        self.unix_seconds.get()
    }

    /// Milliseconds since 1970, from the hardware clock.
    #[must_use]
    pub fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_millis() as u64)
    }

    /// The `Date` of a response (RFC 9110 section 6.6.1), as of the last tick.
    #[must_use]
    pub fn date(&self) -> [u8; 29] {
        self.date.get()
    }

    /// Brings the coarse values up to date.
    pub fn tick(&self) {
        self.coarse_ms.set(self.start.elapsed().as_millis() as u64);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        if seconds != self.unix_seconds.get() {
            self.unix_seconds.set(seconds);
            let mut date = [b' '; 29];
            sumun_http::date::format(seconds, &mut date);
            self.date.set(date);
        }
    }
}
