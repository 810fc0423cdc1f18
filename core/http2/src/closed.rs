//! How streams that are gone went, for as long as frames on them may still be under way.

use std::collections::VecDeque;

use crate::event::StreamId;
use crate::limits::{CLOSED_MAX, SKIPPED_MAX};

/// How a stream that is not open any more came to that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Reset by us: its frames may have been sent before the peer knew.
    ByUs,
    /// Reset by the peer, who knew.
    ByPeer,
    /// Both ends said all they had to say.
    Ended,
    /// Never opened: the client went on with a higher identifier (RFC 9113 section 5.1.1).
    Skipped,
}

#[derive(Debug, Default)]
pub(crate) struct ClosedStreams {
    /// Streams that were reset, and whether by us; the newest last.
    resets: VecDeque<(StreamId, bool)>,
    /// The highest stream that fell out of `resets`: below it, who knows.
    forgotten: StreamId,
    /// First and last of each run that was skipped.
    skipped: VecDeque<(StreamId, StreamId)>,
}

impl ClosedStreams {
    pub(crate) fn was_reset(&mut self, stream: StreamId, by_us: bool) {
        if self.resets.len() == CLOSED_MAX
            && let Some((oldest, _)) = self.resets.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.resets.push_back((stream, by_us));
    }

    pub(crate) fn was_skipped(&mut self, first: StreamId, last: StreamId) {
        if self.skipped.len() == SKIPPED_MAX {
            self.skipped.pop_front();
        }
        self.skipped.push_back((first, last));
    }

    /// `stream` was open once, or skipped, and is not open now.
    pub(crate) fn look_up(&self, stream: StreamId) -> Closed {
        if let Some((_, by_us)) = self.resets.iter().rev().find(|(reset, _)| *reset == stream) {
            return if *by_us { Closed::ByUs } else { Closed::ByPeer };
        }
        if self.skipped.iter().any(|(first, last)| (*first..=*last).contains(&stream)) {
            return Closed::Skipped;
        }
        // Who was reset too long ago to be known gets the benefit of the doubt.
        if stream <= self.forgotten { Closed::ByUs } else { Closed::Ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered() {
        let mut closed = ClosedStreams::default();
        closed.was_reset(1, true);
        closed.was_reset(5, false);
        closed.was_skipped(7, 9);
        assert_eq!(
            [1, 3, 5, 7, 9, 11].map(|stream| closed.look_up(stream)),
            [Closed::ByUs, Closed::Ended, Closed::ByPeer, Closed::Skipped, Closed::Skipped, Closed::Ended]
        );
        for stream in 0..CLOSED_MAX as u32 {
            closed.was_reset(101 + 2 * stream, false);
        }
        assert_eq!(closed.look_up(5), Closed::ByUs);
        assert_eq!(closed.look_up(101), Closed::ByPeer);
        assert_eq!(closed.resets.len(), CLOSED_MAX);
    }
}
