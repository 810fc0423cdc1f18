//! Who is blocked for a while, and for what.

use std::time::Duration;

use ipnet::IpNet;

use super::Name;

/// A rule of `blocks`: a client that gets too many answers of some statuses within some time is blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockRule {
    /// Ranges of statuses from 400 to 599, first and last; at least one, unless there is a limit.
    pub statuses: Vec<(u16, u16)>,
    /// Refusals of this limit count, and answers do not.
    pub limit: Option<Name>,
    /// The answer or refusal that is too many; at least 1.
    pub count: u32,
    /// Above zero.
    pub within: Duration,
    /// How long a block lasts; above zero.
    pub lasts: Duration,
    /// Connections are closed; else requests are answered with 403.
    pub closes: bool,
    /// Whom the rule does not look at.
    pub allow: Vec<IpNet>,
}

impl BlockRule {
    /// An answer of this status counts.
    #[must_use]
    pub fn counts(&self, status: u16) -> bool {
        self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}
