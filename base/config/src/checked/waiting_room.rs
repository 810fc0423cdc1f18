//! Who comes in when more come than can be served.

use std::path::PathBuf;
use std::time::Duration;

use super::Rate;

/// A route's waiting room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRoom {
    /// Visitors that are called.
    pub admit: Rate,
    /// Visitors inside at once; at least 1.
    pub active: u32,
    /// From the last request of a visitor to the end of the session.
    pub session: Duration,
    /// From being called to losing the place.
    pub claim: Duration,
    /// Visitors that may wait; at least 1.
    pub waiting: u32,
    /// New places for one client address.
    pub tickets: Rate,
    /// One room with other gateways.
    pub shared: bool,
    /// The operator's own page.
    pub page: Option<PathBuf>,
}

/// What clients of a route compute before their requests pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Zero bits that a hash has to begin with; at most 24.
    pub bits: u8,
    /// So long a client passes that has solved it.
    pub pass: Duration,
}
