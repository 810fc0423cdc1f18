//! What a peer may do so and so often, and what it is cut off for.

/// Behaviour that costs us more than the peer. Each ends the connection with `ENHANCE_YOUR_CALM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abuse {
    /// Streams opened and reset by the client (CVE-2023-44487).
    RapidReset,
    /// Streams that we had to reset because of what the client sent on them (CVE-2025-8671).
    MadeReset,
    /// Streams above SETTINGS_MAX_CONCURRENT_STREAMS.
    Refused,
    Settings,
    Ping,
    /// PRIORITY and PRIORITY_UPDATE.
    Priority,
    /// DATA without data.
    EmptyData,
    WindowUpdate,
    /// Frames on streams that are closed, beyond those that were under way.
    ClosedStream,
    /// Frames of types that mean nothing to us, and GOAWAY again and again.
    Useless,
    /// CONTINUATION frames of one header block (CVE-2024-27316).
    Continuations,
    /// Bytes of one header block.
    HeadBlock,
    /// A header block that decodes to many times its size.
    HeadBomb,
    /// A header block that does not come to its end within `Settings::head_ms`.
    SlowHead,
    /// Makes us answer and does not read the answers.
    Unread,
    /// Opens no window for the connection while data waits.
    Stalled,
}

/// How many are forgiven at once, and how many a second.
#[derive(Clone, Copy)]
struct Pace {
    burst: u64,
    per_second: u64,
}

/// Those that have a pace, in the order of the declaration.
const PACED: usize = Abuse::Useless as usize + 1;

/// What honest clients do at their worst: a browser that leaves a page full of requests, a client
/// that overshoots a limit it has not read yet, measuring its bandwidth with a PING a round trip,
/// a window update for each read of four kilobytes, and what was under way when we reset a stream.
const PACES: [Pace; PACED] = {
    const fn pace(burst: u64, per_second: u64) -> Pace {
        Pace { burst, per_second }
    }
    let mut paces = [pace(0, 1); PACED];
    paces[Abuse::RapidReset as usize] = pace(256, 32);
    paces[Abuse::MadeReset as usize] = pace(64, 8);
    paces[Abuse::Refused as usize] = pace(512, 64);
    paces[Abuse::Settings as usize] = pace(32, 4);
    paces[Abuse::Ping as usize] = pace(1_024, 256);
    paces[Abuse::Priority as usize] = pace(1_024, 256);
    paces[Abuse::EmptyData as usize] = pace(256, 32);
    paces[Abuse::WindowUpdate as usize] = pace(4_096, 1_024);
    paces[Abuse::ClosedStream as usize] = pace(2_048, 256);
    paces[Abuse::Useless as usize] = pace(256, 64);
    paces
};

const SECOND_US: u64 = 1_000_000;

impl Abuse {
    /// One word for logs and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::RapidReset => "h2_rapid_reset",
            Self::MadeReset => "h2_made_reset",
            Self::Refused => "h2_refused_flood",
            Self::Settings => "h2_settings_flood",
            Self::Ping => "h2_ping_flood",
            Self::Priority => "h2_priority_flood",
            Self::EmptyData => "h2_empty_data_flood",
            Self::WindowUpdate => "h2_window_update_flood",
            Self::ClosedStream => "h2_closed_stream_flood",
            Self::Useless => "h2_useless_flood",
            Self::Continuations => "h2_continuation_flood",
            Self::HeadBlock => "h2_head_block",
            Self::HeadBomb => "h2_head_bomb",
            Self::SlowHead => "h2_slow_head",
            Self::Unread => "h2_unread",
            Self::Stalled => "h2_stalled",
        }
    }
}

/// A bucket for each paced abuse: the time at which it will be full again, microseconds (the generic
/// cell rate algorithm).
#[derive(Debug, Default)]
pub(crate) struct Budgets {
    full_at_us: [u64; PACED],
}

impl Budgets {
    /// # Errors
    /// It was once too often.
    #[inline]
    pub(crate) fn take(&mut self, now_ms: u64, abuse: Abuse) -> Result<(), Abuse> {
        let (Some(full_at_us), Some(pace)) = (self.full_at_us.get_mut(abuse as usize), PACES.get(abuse as usize))
        else {
            return Err(abuse);
        };
        let now_us = now_ms.saturating_mul(1_000);
        let token_us = SECOND_US / pace.per_second;
        let next_us = (*full_at_us).max(now_us).saturating_add(token_us);
        if next_us - now_us > token_us * pace.burst {
            return Err(abuse);
        }
        *full_at_us = next_us;
        Ok(())
    }

    /// Gives tokens back: what we did makes an honest peer do it too.
    #[inline]
    pub(crate) fn earn(&mut self, abuse: Abuse, tokens: u64) {
        if let (Some(full_at_us), Some(pace)) = (self.full_at_us.get_mut(abuse as usize), PACES.get(abuse as usize)) {
            *full_at_us = full_at_us.saturating_sub(tokens * (SECOND_US / pace.per_second));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_pace() {
        let mut budgets = Budgets::default();
        let taken = |budgets: &mut Budgets, now_ms| {
            (0..10_000).take_while(|_| budgets.take(now_ms, Abuse::RapidReset).is_ok()).count()
        };
        assert_eq!(taken(&mut budgets, 5_000), 256);
        assert_eq!(taken(&mut budgets, 5_000), 0);
        assert_eq!(taken(&mut budgets, 6_000), 32);
        budgets.earn(Abuse::RapidReset, 7);
        assert_eq!(taken(&mut budgets, 6_000), 7);
        assert_eq!(taken(&mut budgets, 100_000), 256);
        // The others have their own.
        assert_eq!(budgets.take(6_000, Abuse::MadeReset), Ok(()));
        assert_eq!(budgets.take(6_000, Abuse::HeadBomb), Err(Abuse::HeadBomb));
    }
}
