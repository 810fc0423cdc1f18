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
